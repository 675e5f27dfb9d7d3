"""Real servers for every test that wants one.

Each process that runs tests starts one bundled Postgres and one bundled Valkey, when a test first asks. To share them
among workers would save three seconds of CPU time for each, and let an open transaction of one worker hold back feeds
that another reads, whose horizon is the whole server's. With SESSIOND_POSTGRES_DSN or SESSIOND_REDIS_URL set, those
servers are used instead: databases of random names are made there (the role needs CREATEDB) and dropped again, and keys
in Redis carry a random prefix.
"""

import asyncio
import gc
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sessiond_server.embedded import EmbeddedServers

# With PYTHONDONTWRITEBYTECODE every worker would rewrite the assertions of every test file (15 s of CPU), and every
# process that tests start would compile the service (0.7 s). What is imported from here on is kept in __pycache__.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Neither an example nor the making of examples is late because other tests use the processor.
settings.register_profile("quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=100)  # `make test-long` asks for it
settings.load_profile("quick")

pytest.register_assert_rewrite("tests.support")  # an assertion that fails there shows its values too

from tests.support import left_behind, open_transports  # noqa: E402
from tests.support.databases import Databases, LoopThread  # noqa: E402
from tests.support.movable_clock import make_clock_movable  # noqa: E402
from tests.support.redis_cluster import ClusterOfThree  # noqa: E402
from tests.support.shared_database import SharedDatabase  # noqa: E402
from tests.support.valkey import Valkey  # noqa: E402

_MARK = pytest.StashKey[str]()
_WORKERS = pytest.StashKey[list[int]]()
_FOUND = pytest.StashKey[list[str]]()
_LEFT_BEHIND = "left_behind"
_LIMIT, _LONG_LIMIT = 300, 1200
"""Seconds that a test may take, and one marked `long` or `hypothesis`: many times of what they take when others use
the machine too."""
_LONGEST = ("model", "faults", "callers", "hostile", "examples", "demo", "setup")


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM, which `timeout` and CI send, ends the run as Ctrl-C does: what the fixtures have made is removed.

    A shell that runs us in the background makes us ignore SIGINT, and so what we start to interrupt it. With several
    workers perhaps only their controller gets the signal: it sends it on. A worker heeds the first only: another would
    cut short the removal.
    """
    config.stash[_WORKERS] = []
    config.stash[_FOUND] = []
    config.stash[_MARK] = left_behind.mark()
    open_transports.record()
    interrupted = False

    # Not signal.default_int_handler: for that, asyncio cancels its main task instead, which may swallow it and go on.
    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        for worker in config.stash[_WORKERS]:
            with suppress(ProcessLookupError):
                os.kill(worker, number)
        if interrupted and _is_worker(config):
            return
        interrupted = True
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects without the garbage collector, and leaves what is collected out of its sight from then on: most of it
    lives until the run ends. Searching it takes a third of the processor time of collecting."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The folders with the longest tests come first, so that no worker is alone with one in the end."""
    if not config.pluginmanager.hasplugin("randomly"):
        items.sort(key=lambda item: item.path.parent.name not in _LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs has failed, and does not keep the others from their end."""
    patient = item.get_closest_marker("long") or item.get_closest_marker("hypothesis")
    seconds = _LONG_LIMIT if patient else _LIMIT

    def hangs(number: int, frame: object) -> None:
        pytest.fail(f"the test took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """A test that leaves a socket open has failed."""
    yield
    if found := open_transports.abandoned():
        pytest.fail("the test left sockets open: " + "; ".join(found), pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller, when a worker has started."""
    node.config.stash[_WORKERS].append(node.gateway._rinfo().pid)
    node.nodemanager.EXIT_TIMEOUT = 20  # seconds, in which its fixtures are removed; after 15 it ends in any case


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run whose tests have left processes behind has failed: children of each worker, and any process of the run.

    Last, for a run that ends early removes its fixtures only now, and the controller its workers.
    """
    found = left_behind.remaining(left_behind.children)
    if _is_worker(session.config):
        session.config.workeroutput[_LEFT_BEHIND] = found  # type: ignore[attr-defined]
        return
    _report(session.config, found)
    _report(session.config, left_behind.remaining(lambda: left_behind.marked(session.config.stash[_MARK])))
    if session.config.stash[_FOUND] and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the controller, when a worker has ended."""
    _report(node.config, getattr(node, "workeroutput", {}).get(_LEFT_BEHIND, []))


def _report(config: pytest.Config, found: list[str]) -> None:
    """Counts each as an error, so that the last line of the run says so."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    for process in dict.fromkeys(found):
        if process in config.stash[_FOUND]:
            continue
        report = pytest.TestReport(
            "the run", ("", None, ""), {}, "failed", f"a test left this process behind: {process}", "teardown"
        )
        reporter.stats.setdefault("error", []).append(report)
        config.stash[_FOUND].append(process)


def _is_worker(config: pytest.Config) -> bool:
    """One of several processes that run tests for a controller, which runs none."""
    return hasattr(config, "workerinput")


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
    servers = EmbeddedServers(folder, durable=False, max_connections=200)
    try:
        # A runner, for an interrupt during the start stops what has started. With a factory, for it leaves alone then
        # what asyncio takes for the current loop.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(servers.__aenter__())
            try:
                yield servers
            finally:
                runner.run(servers.__aexit__(None, None, None))
    finally:
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


@pytest.fixture(scope="session")
def shared_database(databases: Databases, loop_thread: LoopThread) -> Iterator[SharedDatabase]:
    """A database with the current schema, for `emptied`; what is in it is of the test before."""
    dsn = databases.create_migrated()
    loop_thread.run(make_clock_movable(dsn))
    shared = SharedDatabase(dsn, loop_thread)
    yield shared
    shared.close()
    databases.drop(dsn)


@pytest.fixture
def emptied(shared_database: SharedDatabase) -> SharedDatabase:
    """A database without a row, whose clock the test moves, for tests that change no schema and no settings: it costs
    a fiftieth of `postgres_dsn`."""
    shared_database.empty()
    return shared_database


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
