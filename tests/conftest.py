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
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sessiond_server.embedded import EmbeddedServers

pytest.register_assert_rewrite("tests.support")  # an assertion that fails there shows its values too

from tests.support.databases import Databases, LoopThread  # noqa: E402
from tests.support.redis_cluster import ClusterOfThree  # noqa: E402
from tests.support.valkey import Valkey  # noqa: E402


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


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[Valkey]:
    """A server of the test's own."""
    server = Valkey(tmp_path / "valkey")
    await server.start()
    yield server
    server.stop()
