"""Postgres is stopped at once (`pg_ctl -m immediate`) repeatedly: no checkpoint, recovery at the start."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.postgres import read_postmaster
from tests.faults.server_kills import Report
from tests.faults.server_kills import campaign as under_load
from tests.support.replica import Replica


async def campaign(
    data: Path, log: Path, *, faults: int, seed: int, rate: float, progress: Callable[[str], None]
) -> Report:
    """The campaign on a bundled Postgres of its own in the folder `data`, which starts again whenever it ends."""
    async with EmbeddedServers(data, cache=False) as servers:
        running = asyncio.create_task(servers.keep_running())

        async def stop_postgres(replica: Replica) -> None:
            left = read_postmaster(data / "postgres")
            if left is not None:
                os.kill(left.pid, signal.SIGQUIT)  # what an immediate stop sends

        try:
            return await under_load(
                servers.postgres_dsn,
                log,
                faults=faults,
                seed=seed,
                rate=rate,
                progress=progress,
                hurt=stop_postgres,
            )
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
