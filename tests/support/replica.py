"""A `sessiond serve` process that a campaign starts, kills and starts again on the same address."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

from sessiond_server.embedded.process import tied
from tests.support.ports import free_port


class Replica:
    """One server process on a database that outlives it; with several `workers` one supervisor and those."""

    def __init__(
        self, postgres_dsn: str, log: Path, environment: Mapping[str, str] | None = None, *, workers: int = 1
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._environment = {**os.environ, **(environment or {}), "SESSIOND_POSTGRES_DSN": postgres_dsn}
        self._several = workers > 1
        if self._several:
            # All of them together have as many connections as one process would.
            self._environment |= {"SESSIOND_WORKERS": str(workers), "SESSIOND_POOL_SIZE": str(max(5, 20 // workers))}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def ended(self) -> bool:
        """Whether it has, by itself or not."""
        return self._process is not None and self._process.returncode is not None

    async def start(self, more: Mapping[str, str] | None = None) -> None:
        """Returns once the process exists; clients find out by themselves when it answers. `more`: environment, for
        this time."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *tied([sys.executable, "-m", "sessiond_server", "serve", "--listen", self.address], signal.SIGKILL),
                env={**self._environment, **(more or {})}, stdout=log, stderr=log,
            )  # fmt: skip

    async def kill(self) -> None:
        """SIGKILL: no time for last words."""
        assert self._process is not None
        self._signal_all(signal.SIGKILL)
        await self._process.wait()

    def kill_a_worker(self, chance: Random) -> bool:
        """SIGKILL for one of several workers; False if none runs."""
        if not (workers := self.workers()):
            return False
        with suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        return True

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """It stands still, and keeps its connections."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_all(signal.SIGCONT)

    def workers(self) -> list[int]:
        """Process ids of the workers that run, if there are several."""
        if not self._several or self._process is None or self._process.returncode is not None:
            return []
        pid = self._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.returncode is not None:
            return
        for pid in (self._process.pid, *self.workers()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def stop(self) -> int:
        """SIGTERM and a clean end; the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()
