"""Child processes that belong to this one: in a session of their own, so that Ctrl-C in a terminal reaches only us."""

import asyncio
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sessiond_server.embedded.errors import EmbeddedError

_CHILD = Path(__file__).with_name("child.py")
_POLL = 0.02
"""Seconds between two looks at a child that is starting or ending."""

# Nothing of our environment reaches a child: PGDATA, PGOPTIONS or a locale must not change what the servers do.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


@dataclass(frozen=True, slots=True)
class Account:
    """Who the servers run as. Negative ids: whoever runs sessiond."""

    name: str
    uid: int = -1
    gid: int = -1

    @property
    def other(self) -> bool:
        """True when it is not the account that runs sessiond."""
        return self.uid >= 0


def own_account() -> Account:
    try:
        return Account(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        raise EmbeddedError(
            f"the bundled Postgres needs an account: user id {os.geteuid()} has no entry in the user database",
            "run sessiond as a user with an entry in /etc/passwd, or set SESSIOND_POSTGRES_DSN to a server of your own",
        ) from None


def tied(
    command: Sequence[str | Path], death_signal: signal.Signals, account: Account = Account("ourselves")
) -> list[str]:
    """A command that becomes the given one, which gets the signal when this process ends, however it ends. Its first
    word is a path. To be started in the main thread, and on Linux (see child.py).
    """
    return [
        sys.executable, "-I", "-S", str(_CHILD),
        str(account.uid), str(account.gid), str(int(death_signal)), str(os.getpid()),
        *(str(part) for part in command),
    ]  # fmt: skip


class Child:
    """One running program. `log` receives its output."""

    def __init__(
        self,
        account: Account,
        command: Sequence[str | Path],
        log: Path | None,
        death_signal: signal.Signals,
        feed: bytes = b"",
    ) -> None:
        """Starts it. Call in the main thread (see child.py). `log` None: the output is kept for `output`.

        `feed` is its standard input, at most 4096 bytes, which a pipe takes without waiting for the reader.
        """
        wrapped = tied(command, death_signal, account)
        # Popen without preexec_fn forks and executes without running Python in between: safe after importing grpc.
        if log is None:
            self._process = self._popen(wrapped, subprocess.PIPE)
        else:
            with log.open("ab") as output:
                self._process = self._popen(wrapped, output)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(feed)
        self._process.stdin = None

    @staticmethod
    def _popen(command: list[str], output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
            umask=0o077,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def output(self) -> str:
        """Waits for the end and gives what was printed, of a child started without a log. Seconds at most."""
        return self._process.communicate(timeout=60)[0].decode(errors="replace").strip()

    async def ended(self, poll: float = _POLL) -> int:
        """Waits for the end, looking every `poll` seconds; the exit code. Cancelling leaves the child alone."""
        while (code := self.exit_code) is None:  # noqa: ASYNC110  another process gives no asyncio.Event
            await asyncio.sleep(poll)
        return code

    async def stop(self, how: signal.Signals, max_wait: float) -> None:
        """Asks it to end; kills it after `max_wait` seconds. Returns when it has ended; cancelling kills it at once."""
        if self.exit_code is None:
            self._process.send_signal(how)
        try:
            async with asyncio.timeout(max_wait):
                await self.ended()
        except TimeoutError:
            pass
        finally:
            if self.exit_code is None:
                self._process.kill()
                self._process.wait()
