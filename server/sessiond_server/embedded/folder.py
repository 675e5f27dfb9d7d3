"""The data folder: its layout, its lock, and the account that owns what the servers write.

DATA_DIR/lock        held while a sessiond runs on the folder
DATA_DIR/postgres    the database; the account's alone
DATA_DIR/run         sockets; the account's alone
DATA_DIR/log         what the servers print
DATA_DIR/runtime     copies of the programs, only where the account cannot reach the installed ones
"""

import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

from sessiond_server.embedded.errors import EmbeddedError
from sessiond_server.embedded.process import Account, own_account

_SOCKET_PATH_BYTES = 103
"""Longest path of a Unix socket that all systems support (macOS: 103; Linux: 107)."""
_LONGEST_SOCKET = "/.s.PGSQL.5432.lock"
_LOG_BYTES = 8 * 1024 * 1024
"""At a start, a log with more bytes than this is renamed and replaces the previously renamed one."""


class DataFolder:
    """A data folder, created if necessary. Permissions and owners of files outside it are never changed."""

    def __init__(self, path: Path) -> None:
        """Raises EmbeddedError if the account under which the servers will run cannot use the folder."""
        self.path = path.absolute()
        self.postgres = self.path / "postgres"
        self.log = self.path / "log"
        self.runtime = self.path / "runtime"
        try:
            self._create()
            self.account = self._account()
            self._check_reachable()
        except OSError as error:
            raise EmbeddedError(
                f"cannot use the data folder {self.path}: {error.strerror}",
                "choose another one with --data-dir or SESSIOND_DATA_DIR",
            ) from error

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0 and not any(self.path.iterdir()):
            self.path.chmod(0o711)  # the account can enter its folders, but not list this one
        self.log.mkdir(mode=0o700, exist_ok=True)

    def _account(self) -> Account:
        """The account for the servers: our own. For root, as which Postgres does not run, the owner of the data, or an
        account without rights."""
        if os.geteuid() != 0:
            return own_account()
        if self.postgres.is_dir():
            owner = self.postgres.stat()
            if owner.st_uid == 0:
                raise EmbeddedError(
                    f"{self.postgres} belongs to root", "change its owner to the account under which Postgres ran"
                )
            try:
                return Account(pwd.getpwuid(owner.st_uid).pw_name, owner.st_uid, owner.st_gid)
            except KeyError:
                raise EmbeddedError(
                    f"{self.postgres} belongs to user id {owner.st_uid}, which has no account here",
                    "give it to an account of this machine with chown -R, or choose another --data-dir",
                ) from None
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(name, entry.pw_uid, entry.pw_gid)
        raise EmbeddedError(
            "Postgres does not run as root, and neither the account postgres nor the account nobody exists",
            "run sessiond as an ordinary user",
        )

    def _check_reachable(self) -> None:
        if not self.account.other:
            return
        for folder in (self.path, *self.path.parents):
            status = folder.stat()
            bit = (
                stat.S_IXUSR
                if status.st_uid == self.account.uid
                else stat.S_IXGRP
                if status.st_gid == self.account.gid
                else stat.S_IXOTH
            )
            if not status.st_mode & bit:
                raise EmbeddedError(
                    f"as root, Postgres runs as the account {self.account.name}, which may not enter {folder}",
                    "choose a data folder below a public one with --data-dir or SESSIOND_DATA_DIR "
                    "(the default is /var/lib/sessiond), or run sessiond as an ordinary user",
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process. Raises EmbeddedError, naming the holder, if another process has it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode(errors="replace").strip()
                raise EmbeddedError(
                    f"another sessiond (process {holder or 'unknown'}) is running on the data folder {self.path}",
                    "stop that one, or choose another folder with --data-dir",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def sockets(self, stack: ExitStack | AsyncExitStack) -> Path:
        """The folder for sockets, to which only the account has access.

        If the data folder's path is too long for a socket, this is a temporary folder, which `stack` removes.
        """
        folder = self.path / "run"
        if len(os.fsencode(folder)) + len(_LONGEST_SOCKET) > _SOCKET_PATH_BYTES:
            folder = Path(tempfile.mkdtemp(prefix="sessiond-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        self.give(folder)
        return folder

    def give(self, path: Path) -> None:
        """Makes the account the owner of a folder or file of this process."""
        if self.account.other:
            os.chown(path, self.account.uid, self.account.gid)

    def log_file(self, name: str) -> Path:
        """The file to which a server's output is appended."""
        path = self.log / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path
