"""The stores that the suite runs over, each with a clock that tests move.
A test that asks for `postgres_dsn` has a database of its own. The suite's own store shares one database between its
tests, emptied for each: making a database costs more than most of these tests.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from sessiond_server.store.contract import Store
from sessiond_server.store.memory import MemoryStore
from sessiond_server.store.postgres.store import PostgresStore
from tests.conformance.caller import Caller
from tests.conftest import Databases, LoopThread

# Searched before pg_catalog, these functions stand for the server's clock in every statement of the store.
_MOVABLE_CLOCK = """
create schema test_clock;
create table test_clock.shifts (shift interval not null);
insert into test_clock.shifts values ('0');
create function test_clock.now() returns timestamptz stable language sql
  as 'select pg_catalog.now() + shift from test_clock.shifts';
create function test_clock.clock_timestamp() returns timestamptz volatile language sql
  as 'select pg_catalog.clock_timestamp() + shift from test_clock.shifts';
"""

_EMPTY = """
delete from events; delete from requests; delete from sessions; delete from session_heads;
update test_clock.shifts set shift = '0';
"""


@dataclass
class Backend:
    """One store, what stands behind it, and its clock."""

    store: Store
    other: Store
    """What another replica has: a second instance on the same database; for the memory store the same."""
    advance: Callable[[float], Awaitable[None]]
    """Moves the clock by so many seconds."""
    dsn: str | None = None
    caller: Caller = field(default_factory=Caller)


Open = Callable[..., Awaitable[Backend]]


@pytest.fixture(scope="session")
def shared_dsn(databases: Databases, loop_thread: LoopThread) -> Iterator[str]:
    """A migrated database whose clock tests move. What is in it is of tests before."""
    dsn = databases.create_migrated()

    async def prepare() -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute(_MOVABLE_CLOCK)
        await connection.execute(
            f'alter database "{databases.name(dsn)}" set search_path = test_clock, pg_catalog, public'
        )
        await connection.close()

    loop_thread.run(prepare())
    yield dsn
    databases.drop(dsn)


@pytest.fixture(params=["memory", "postgres"])
def dsn_or_none(request: pytest.FixtureRequest) -> str | None:
    """Where the store keeps its data; None: in memory. Servers start here, outside of any event loop."""
    return request.getfixturevalue("shared_dsn") if request.param == "postgres" else None


@pytest.fixture
async def open_backend(dsn_or_none: str | None) -> AsyncIterator[Open]:
    """Opens a store with settings such as `rules`, once per test."""
    async with AsyncExitStack() as stack:

        async def memory(**settings: Any) -> Backend:
            now = 1_700_000_000_000_000

            async def advance(seconds: float) -> None:
                nonlocal now
                now += round(seconds * 1_000_000)

            def clock() -> int:
                nonlocal now
                now += 1
                return now

            store = MemoryStore(clock=clock, **settings)
            return Backend(store, store, advance)

        async def postgres(**settings: Any) -> Backend:
            dsn = dsn_or_none
            assert dsn is not None
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close)
            await connection.execute(_EMPTY)

            async def advance(seconds: float) -> None:
                await connection.execute(
                    "update test_clock.shifts set shift = shift + make_interval(secs => $1)", seconds
                )

            store = await stack.enter_async_context(PostgresStore(dsn, **settings))
            other = await stack.enter_async_context(PostgresStore(dsn, **settings))
            return Backend(store, other, advance, dsn)

        yield memory if dsn_or_none is None else postgres


@pytest.fixture
async def backend(open_backend: Open) -> Backend:
    """A store with the default settings."""
    return await open_backend()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return backend.store


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `postgres_dsn`, beside the store's own."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def postgres(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """A Postgres store with the default settings, for what only it can do."""
    async with PostgresStore(postgres_dsn) as store:
        yield store


@pytest.fixture
async def other(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    """Another replica's store on the same database."""
    async with PostgresStore(postgres_dsn) as store:
        yield store
