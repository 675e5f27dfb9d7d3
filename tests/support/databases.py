"""Databases that tests have for themselves, and the event loop of their own on which they are made and dropped."""

import asyncio
import threading
import uuid
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

T = TypeVar("T")


class LoopThread:
    """An event loop of its own, so that synchronous fixtures can await, whatever loop the test runs on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fixtures", daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.begin(coroutine).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Databases:
    """Makes and drops databases on one Postgres server. Work that no test waits for is done while tests run: drops, and
    the database of the next test, which both take as long as many a test."""

    def __init__(self, server_dsn: str, thread: LoopThread) -> None:
        self._server_dsn = server_dsn
        self._thread = thread
        self._connection = thread.run(asyncpg.connect(server_dsn))
        self._one_at_a_time = asyncio.Lock()
        # Without fsync, copying files takes a tenth of the time that writing their pages to the log takes.
        self._strategy = " STRATEGY file_copy" if self._connection.get_server_version().major >= 15 else ""
        self._template: str | None = None
        self._next: Future[str] | None = None
        self._drops: list[Future[None]] = []

    def create(self) -> str:
        """The DSN of a fresh database."""
        return self._thread.run(self._create("template1"))

    def create_migrated(self) -> str:
        """The DSN of a fresh database with the current schema."""
        if self._template is None:
            # Imported here: tests that need no database must not pay for it.
            from sessiond_server.postgres.schema.migrate import migrate

            dsn = self.create()
            self._thread.run(migrate(dsn))
            self._template = self.name(dsn)
        made = self._next or self._thread.begin(self._copy(self._template))
        self._next = self._thread.begin(self._copy(self._template))
        return made.result()

    def drop(self, dsn: str) -> None:
        """Begins to; `close` tells whether it went well."""
        self._drops.append(self._thread.begin(self._drop(dsn)))

    def close(self) -> None:
        if self._next is not None:
            self.drop(self._next.result())
        if self._template is not None:
            self.drop(self._dsn(self._template))
        for drop in self._drops:
            drop.result()
        self._thread.run(self._connection.close())

    @staticmethod
    def name(dsn: str) -> str:
        return urlsplit(dsn).path.lstrip("/")

    def _dsn(self, name: str) -> str:
        return urlunsplit(urlsplit(self._server_dsn)._replace(path=f"/{name}"))

    async def _copy(self, template: str) -> str:
        """A database with the template's schema and a key of its own. By the key servers know a database, and keep its
        entries in Redis apart from those of others."""
        dsn = await self._create(template)
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("update service_keys set secret = sha256(uuid_send(gen_random_uuid()))")
        finally:
            await connection.close()
        return dsn

    async def _create(self, template: str) -> str:
        name = f"sessiond_test_{uuid.uuid4().hex}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{self._strategy}')
        return self._dsn(name)

    async def _drop(self, dsn: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{self.name(dsn)}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        async with self._one_at_a_time:
            await self._connection.execute(statement)
