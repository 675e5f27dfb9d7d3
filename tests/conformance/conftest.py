"""The stores that the suite runs over, each with a clock that tests move.

Of the two on one database in Postgres, one writes messages optimistically wherever that is possible, and one always
with locks; `make test-long` has both with locks, too.

`make test` leaves Postgres behind Redis to `make test-long`: Postgres is there by itself, and the wrapper with copies
in memory; tests/cache has Redis. So it does with several databases of one server, in which the tenants of the tests
have different homes.

A test that asks for `postgres_dsn` has a database of its own. The suite's own store shares one database between its
tests, emptied for each: making a database costs more than most of these tests.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.memory.store import MemoryStore
from sessiond_server.postgres import database_clock, optimistic, transactions
from sessiond_server.postgres.optimistic import Mode
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.redis import RedisCache, Timeouts
from sessiond_server.store.cached.contract import Cache
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.contract import Store
from tests.support import routed_stores
from tests.support.caller import Caller
from tests.support.databases import Databases, LoopThread
from tests.support.effort import left_to_long
from tests.support.encryption import encryption
from tests.support.movable_clock import make_clock_movable
from tests.support.pgbouncer import through_pooler
from tests.support.shared_database import SharedDatabase
from tests.support.store_backend import Backend, Open
from tests.support.stores import composed


@dataclass(frozen=True)
class Place:
    """Where a store keeps its data, and its copies."""

    database: SharedDatabase | None
    """None: in memory."""
    optimistic: tuple[Mode, Mode]
    """Of the store and of `other`, in Postgres."""
    cached: bool
    redis_url: str | None
    """With `cached`; None: the copies are in memory."""
    redis_prefix: str
    encrypted: bool = False
    group: Sequence[SharedDatabase] = ()
    """Several databases, in which tenants have homes."""


CLEAR = (
    # Searches are refused where contents are encrypted.
    *("test_search", "test_search_everything", "test_searches_find_what_is_visible_at_once"),
    # Nor can Postgres look for names, or order by them.
    *("test_orders", "test_ids_compare_by_code_points", "test_keys_say_where_a_page_ended", "test_name_contains"),
    *("test_lists_follow_what_updates_change", "test_the_name_that_a_message_gives_is_listed"),
    "test_every_filter_with_every_order",
    # They look at stored bytes, or know how many there are.
    *("test_nothing_that_a_user_wrote_is_in_any_row_after_an_erasure", "test_pages_may_have_exactly_the_bound"),
    *("test_marker_is_nowhere_after_redactions_and_deletions", "test_calls_of_parts_of_the_log_are_at_most_a_page"),
    # Postgres cannot tell which of the events of one time is a call's.
    "test_reads_as_of_a_place_read_few_rows_of_a_long_log",
)
"""Modules and tests that have nothing to say of an encrypted store; tests/encryption has what holds there instead."""


HOMES = {"tenant": "eu", "acme": "eu", "other": "us"}
"""Where tenants of these tests live, if there are several databases. All others live in the default one."""


@pytest.fixture(scope="session")
def shared_group(databases: Databases, loop_thread: LoopThread) -> Iterator[Sequence[SharedDatabase]]:
    """A database for each of `routed_stores.IDS`."""
    group = []
    for _ in routed_stores.IDS:
        dsn = databases.create_migrated()
        loop_thread.run(make_clock_movable(dsn))
        group.append(SharedDatabase(dsn, loop_thread))
    yield group
    for each in group:
        each.close()
        databases.drop(each.dsn)


@pytest.fixture(
    params=[
        "memory",
        "postgres",
        "cached memory",
        *left_to_long("cached postgres", "locked postgres", "encrypted postgres", "routed postgres"),
    ]
)
def place(request: pytest.FixtureRequest, redis_prefix: str) -> Place:
    """Servers start here, outside of any event loop."""
    if request.param == "encrypted postgres" and {request.path.stem, request.node.originalname} & set(CLEAR):
        pytest.skip("asks for words that are encrypted")
    cached, in_postgres = request.param.startswith("cached"), request.param.endswith("postgres")
    routed = request.param.startswith("routed")
    modes: dict[str, tuple[Mode, Mode]] = {"postgres": ("always", "off"), "locked postgres": ("off", "off")}
    return Place(
        request.getfixturevalue("shared_database") if in_postgres and not routed else None,
        modes.get(request.param, ("on", "on")),
        cached,
        request.getfixturevalue("redis_url") if cached and in_postgres else None,
        redis_prefix,
        request.param.startswith("encrypted"),
        request.getfixturevalue("shared_group") if routed else (),
    )


@pytest.fixture
async def open_backend(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Opens a store with settings such as `policy`, once per test.

    Its transactions wait as long as a busy machine needs: what these tests assert has nothing to do with time.
    """
    monkeypatch.setattr(transactions, "LOCK_SECONDS", 60.0)
    monkeypatch.setattr(transactions, "TRANSACTION_SECONDS", 120.0)
    monkeypatch.setattr(transactions, "IDLE_SECONDS", 60.0)
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
            files = store.attachments
            beside = (store.documents, store.erasures, store.retention, store.forks, store.imports)
            counted = (store.templates, store.usage, store.usage)
            return Backend(store, store, store, files, files, *beside, *counted, advance)

        async def postgres(**settings: Any) -> Backend:
            database = place.database
            assert database is not None
            dsn = database.dsn
            database.empty()
            if place.encrypted:
                settings["encryption"] = encryption()
            mode, mode_of_other = place.optimistic
            # The estimate of the time may be behind by as much as a busy machine needs.
            monkeypatch.setattr(optimistic, "BEHIND_US", 10_000_000)
            monkeypatch.setattr(database_clock, "DOUBT_US", 10_000_000)
            store = await stack.enter_async_context(PostgresStore(through_pooler(dsn), optimistic=mode, **settings))
            other = await stack.enter_async_context(
                PostgresStore(through_pooler(dsn), optimistic=mode_of_other, **settings)
            )
            return Backend(
                store,
                other,
                store,
                store.attachments,
                other.attachments,
                store.documents,
                store.erasures,
                store.retention,
                store.forks,
                store.imports,
                store.templates,
                store.usage,
                store.usage,
                database.advance,
                dsn,
            )

        async def routed(**settings: Any) -> Backend:
            dsns = {each: shared.dsn for each, shared in zip(routed_stores.IDS, place.group, strict=True)}
            for shared in place.group:
                shared.empty()
            await routed_stores.place(dsns, HOMES)
            store = await stack.enter_async_context(routed_stores.opened(dsns, **settings))
            other = await stack.enter_async_context(routed_stores.opened(dsns, **settings))

            async def advance(seconds: float) -> None:
                for shared in place.group:
                    await shared.advance(seconds)

            return routed_stores.backend_of(store, other, advance, dsns[HOMES["tenant"]])

        async def cached(**settings: Any) -> Backend:
            backend = await plain(**settings)
            server = MemoryServer(asyncio.get_running_loop().time)

            async def behind_a_cache(store: Store) -> Store:
                cache: Cache = MemoryCache(server)
                if place.redis_url is not None:
                    patient = Timeouts(connect=5.0, answer=5.0)
                    cache = redis = await stack.enter_async_context(RedisCache(place.redis_url, timeouts=patient))
                    redis.begin(place.redis_prefix)
                    await cache.became_ready()
                cached = await stack.enter_async_context(CachedSessions(store, store, cache))
                return composed(store, cached, cached)

            backend.store, backend.other = await behind_a_cache(backend.store), await behind_a_cache(backend.other)
            return backend

        plain = routed if place.group else memory if place.database is None else postgres
        yield cached if place.cached else plain


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
