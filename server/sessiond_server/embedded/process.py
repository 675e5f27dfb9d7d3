"""Child processes that end with this one. They have their own session, so that Ctrl-C reaches only this process."""

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
"""Seconds between two checks of a child that is starting or ending."""

# Children do not inherit our environment: PGDATA, PGOPTIONS or a locale must not change the servers' behaviour.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


@dataclass(frozen=True, slots=True)
class Account:
    """The account under which servers run. Negative ids: the account that runs sessiond."""

    name: str
    uid: int = -1
    gid: int = -1

    @property
    def other(self) -> bool:
        """Whether this is another account than the one that runs sessiond."""
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
    """Wraps a command so that its program gets `death_signal` when this process ends for any reason.

    The first word of `command` is a path. Start the result in the main thread; works on Linux only (see child.py).
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
        """Starts the program. Call it in the main thread (see child.py). `log` None: `output` returns the output.

        `feed` is the program's standard input, at most 4096 bytes: a pipe takes that many before its reader reads.
        """
        wrapped = tied(command, death_signal, account)
        # Popen without preexec_fn runs no Python between fork and exec, which is safe after importing grpc.
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
        """The exit code; None while the program runs; negative: the signal that ended it."""
        return self._process.poll()

    def output(self) -> str:
        """Waits for the end and returns the output of a child that was started without a log. Blocks up to 60 s."""
        return self._process.communicate(timeout=60)[0].decode(errors="replace").strip()

    async def ended(self, poll: float = _POLL) -> int:
        """Waits for the end, with a check every `poll` seconds, and returns the exit code. Cancelling does not affect
        the child."""
        while (code := self.exit_code) is None:  # noqa: ASYNC110  another process gives no asyncio.Event
            await asyncio.sleep(poll)
        return code

    async def stop(self, how: signal.Signals, max_wait: float) -> None:
        """Sends the signal `how`, waits for the end, and kills the child after `max_wait` seconds. Cancelling kills it
        at once."""
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
