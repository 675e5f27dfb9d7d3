"""Runs the bundled servers while a context is open."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sessiond_server.embedded import binaries
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.postgres import PostgresServer, dsn, is_postmaster, read_postmaster
from sessiond_server.embedded.valkey import ValkeyServer

_log = logging.getLogger(__name__)
_RESTART_PAUSE = 1.0
"""Seconds between the unexpected end of a server and its restart."""


class EmbeddedServers:
    """Postgres and Valkey on one data folder. Entering starts them, in the main thread; leaving stops them cleanly.

    If a server does not start, entering stops everything again and raises EmbeddedError. The database's data persists;
    the cache's does not.
    """

    postgres_dsn: str
    redis_url: str
    created: bool
    """Whether entering created the database."""

    def __init__(self, data_dir: Path, *, durable: bool = True, cache: bool = True, max_connections: int = 100) -> None:
        """`durable` False is for tests (see PostgresServer); `cache` False leaves Valkey out."""
        self._data_dir = data_dir
        self._durable = durable
        self._with_cache = cache
        self._max_connections = max_connections
        self._stack = AsyncExitStack()
        self._servers: list[PostgresServer | ValkeyServer] = []

    async def __aenter__(self) -> Self:
        async with self._stack:
            folder = DataFolder(self._data_dir)
            self._stack.enter_context(folder.locked())
            programs = binaries.find(folder.account, folder.runtime)
            sockets = folder.sockets(self._stack)
            postgres = PostgresServer(
                folder, programs, sockets, durable=self._durable, max_connections=self._max_connections
            )
            self._stack.push_async_callback(postgres.stop)
            await postgres.start()
            self._servers.append(postgres)
            self.postgres_dsn, self.created = postgres.dsn, postgres.created
            if self._with_cache:
                valkey = ValkeyServer(folder, programs.valkey, sockets)
                self._stack.push_async_callback(valkey.stop)
                await valkey.start()
                self._servers.append(valkey)
                self.redis_url = valkey.url
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def keep_running(self) -> None:
        """Restarts a server whenever it ends. Runs until cancelled, in the main thread's loop.

        Addresses stay the same. Raises EmbeddedError if a restart fails.
        """
        async with asyncio.TaskGroup() as tasks:
            for server in self._servers:
                tasks.create_task(self._keep(server))

    async def _keep(self, server: PostgresServer | ValkeyServer) -> None:
        while True:
            code = await server.ended()
            _log.error("%s ended by itself with %d; starting it again", type(server).__name__, code)
            await asyncio.sleep(_RESTART_PAUSE)
            await server.start()


def running_dsn(data_dir: Path) -> str | None:
    """The DSN of the bundled Postgres that runs on the folder; None if none is running."""
    data = data_dir.absolute() / "postgres"
    running = read_postmaster(data)
    if running is None or not is_postmaster(running.pid, data):
        return None
    return dsn(running.sockets)
