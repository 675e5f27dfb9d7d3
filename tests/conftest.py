"""Real servers for every test that wants one.

One bundled Postgres and one bundled Valkey serve the whole run. With SESSIOND_POSTGRES_DSN or SESSIOND_REDIS_URL set,
those servers are used instead: databases of random names are made there (the role needs CREATEDB) and dropped again,
and keys in Redis carry a random prefix.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from sessiond_server.embedded import EmbeddedServers
from tests.support.redis_cluster import ClusterOfThree

T = TypeVar("T")


def pytest_configure() -> None:
    """SIGTERM, which `timeout` and CI send, ends the run as Ctrl-C does: what the fixtures have made is removed.

    A shell that runs us in the background makes us ignore SIGINT, and so all that we start to interrupt it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """A run whose tests have left processes of theirs behind has failed. Those that have been killed may take a moment.

    Last, for a run that ends early removes its fixtures only now.
    """
    until = time.monotonic() + 10
    while (left := _children()) and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        pytest.exit(
            f"these processes were left behind by tests: {'; '.join(left)}", returncode=pytest.ExitCode.TESTS_FAILED
        )


def _children() -> list[str]:
    """The command lines of our child processes, where there is a /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and int(parent) == os.getpid():
                found.append(stat.with_name("cmdline").read_text().replace("\0", " ").strip())
    return found


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
    """Makes and drops databases on one Postgres server. What nobody waits for it does while tests run: drops, and the
    database of the next test, which both take as long as many a test."""

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
        made = self._next or self._thread.begin(self._create(self._template))
        self._next = self._thread.begin(self._create(self._template))
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

    async def _create(self, template: str) -> str:
        name = f"sessiond_test_{uuid.uuid4().hex}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{self._strategy}')
        return self._dsn(name)

    async def _drop(self, dsn: str) -> None:
        await self._execute(f'DROP DATABASE IF EXISTS "{self.name(dsn)}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        async with self._one_at_a_time:
            await self._connection.execute(statement)


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def bundled_servers() -> Iterator[EmbeddedServers]:
    """The bundled servers of this run. Their data does not survive a power cut, nor the run."""
    # Below the public temporary folder, not pytest's private one, which the account that root starts Postgres as could
    # not enter. Started on this thread: when it ends, however, the servers end (see embedded/child.py).
    folder = Path(tempfile.mkdtemp(prefix="sessiond-tests-"))
    loop = asyncio.new_event_loop()
    servers = EmbeddedServers(folder, durable=False, max_connections=200)
    try:
        loop.run_until_complete(servers.__aenter__())
        try:
            yield servers
        finally:
            loop.run_until_complete(servers.__aexit__(None, None, None))
    finally:
        loop.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest, loop_thread: LoopThread) -> Iterator[Databases]:
    given = os.environ.get("SESSIOND_POSTGRES_DSN")
    dsn = given or request.getfixturevalue("bundled_servers").postgres_dsn
    databases = Databases(dsn, loop_thread)
    yield databases
    databases.close()


@pytest.fixture
def postgres_dsn(databases: Databases) -> Iterator[str]:
    """A database of the test's own, with the current schema."""
    dsn = databases.create_migrated()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def empty_postgres_dsn(databases: Databases) -> Iterator[str]:
    """A database of the test's own, without any schema."""
    dsn = databases.create()
    yield dsn
    databases.drop(dsn)


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A server that all tests share, and perhaps others: put `redis_prefix` before every key; never flush it."""
    given = os.environ.get("SESSIOND_REDIS_URL")
    url: str = given or request.getfixturevalue("bundled_servers").redis_url
    return url


@pytest.fixture
def redis_prefix() -> str:
    """Starts every key of this test."""
    return f"test:{uuid.uuid4().hex}:"


@pytest.fixture(scope="session")
def cluster_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOfThree]:
    """Servers that all tests share: see redis_url."""
    cluster = ClusterOfThree(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.stop()
