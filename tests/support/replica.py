"""A `sessiond serve` process that a campaign starts, kills and starts again on the same address."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from sessiond_server.embedded.process import tied
from tests.support.ports import free_port


class Replica:
    """One server process on a database that outlives it."""

    def __init__(self, postgres_dsn: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._environment = {**os.environ, **(environment or {}), "SESSIOND_POSTGRES_DSN": postgres_dsn}
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
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def pause(self) -> None:
        """It stands still, and keeps its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """SIGTERM and a clean end; the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()
