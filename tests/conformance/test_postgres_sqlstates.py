"""Every row of the table of SQLSTATEs is provoked, by a real Postgres where one can be made to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from sessiond_server.domain import commands as c
from sessiond_server.errors import SessionLocked, StoreUnavailable
from sessiond_server.postgres import transactions
from sessiond_server.postgres.sqlstates import TABLE, Meaning, cause, meaning
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.batcher import Batcher
from tests.support.caller import Caller, accepted
from tests.support.databases import Databases
from tests.support.transactions import only, terminate_others
from tests.support.waiting import until

Provocation = Callable[[PostgresStore, asyncpg.Connection], Awaitable[None]]

SLEEP = "select pg_sleep(60)"


async def _asleep(store: PostgresStore, database: asyncpg.Connection, end: str) -> None:
    """Ends a statement that is under way with this function of its process id."""
    sleeping = asyncio.create_task(store._transactions.fetch(SLEEP))
    find = "select pid from pg_stat_activity where datname = current_database() and query = $1 and state = 'active'"

    pid = None

    async def begun() -> bool:
        nonlocal pid
        pid = await database.fetchval(find, SLEEP)
        return pid is not None

    await until(begun)
    await database.execute(f"select {end}({pid})")
    await sleeping


async def _cancelled(store: PostgresStore, database: asyncpg.Connection) -> None:
    await _asleep(store, database, "pg_cancel_backend")


async def _terminated(store: PostgresStore, database: asyncpg.Connection) -> None:
    await _asleep(store, database, "pg_terminate_backend")


async def _lost(store: PostgresStore, database: asyncpg.Connection) -> None:
    """Its last words are lost with it."""
    connection = await store._connections.acquire()
    try:
        asking = asyncio.create_task(connection.fetch(SLEEP))
        await asyncio.sleep(0)
        connection.terminate()
        with store.causes.translating():
            await asking
    finally:
        await store._connections.release(connection)


async def _read_only(store: PostgresStore, database: asyncpg.Connection) -> None:
    await database.execute(f'alter database "{await _name(database)}" set default_transaction_read_only = on')
    await store._transactions.fetch("create table t ()")


async def _idle(store: PostgresStore, database: asyncpg.Connection) -> None:
    async def work(connection: asyncpg.Connection) -> None:
        await connection.execute("set local idle_in_transaction_session_timeout = 50")
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        await lost.wait()
        await connection.fetch("select 1")

    await store._transactions.run(work)


async def _too_long(store: PostgresStore, database: asyncpg.Connection) -> None:
    if database.get_server_version() < (17,):
        await _raised("25P04")(store, database)
        return

    async def work(connection: asyncpg.Connection) -> None:
        await connection.execute("set local transaction_timeout = 50")
        await connection.fetch(SLEEP)

    await store._transactions.run(work)


async def _nobody(store: PostgresStore, database: asyncpg.Connection) -> None:
    async with _as(store, database, "nobody_of_this_name") as other:
        await other.ping()


async def _no_database(store: PostgresStore, database: asyncpg.Connection) -> None:
    parts = urlsplit(_dsn(store))
    async with PostgresStore(urlunsplit(parts._replace(path="/no_such_database"))) as other:
        await other.ping()


async def _closed_to_connections(store: PostgresStore, database: asyncpg.Connection) -> None:
    name = await _name(database)
    # Superusers may always connect, and a database cannot be closed from within.
    beside = await asyncpg.connect(urlunsplit(urlsplit(_dsn(store))._replace(path="/postgres")))
    try:
        await beside.execute(f'create role "{name}" login')
        await beside.execute(f'alter database "{name}" allow_connections off')
        async with _as(store, database, name) as other:
            await other.ping()
    finally:
        await beside.execute(f'alter database "{name}" allow_connections on')
        await beside.execute(f'drop role "{name}"')
        await beside.close()


async def _too_many(store: PostgresStore, database: asyncpg.Connection) -> None:
    name = await _name(database)
    await database.execute(f'create role "{name}" login connection limit 0')
    try:
        async with _as(store, database, name) as other:
            await other.ping()
    finally:
        await database.execute(f'drop role "{name}"')


async def _no_room_for_sorting(store: PostgresStore, database: asyncpg.Connection) -> None:
    await database.execute(f'alter database "{await _name(database)}" set temp_file_limit = 64')
    await store._transactions.fetch(
        "select count(*) from (select n, repeat('x', 100) from generate_series(1, 200000) n order by 2, 1 offset 0) s"
    )


async def _in_use(store: PostgresStore, database: asyncpg.Connection) -> None:
    await store._transactions.fetch(f'drop database "{await _name(database)}"')


async def _locked(store: PostgresStore, database: asyncpg.Connection) -> None:
    async with database.transaction():
        await database.fetch("select from schema_versions for update")
        await store._transactions.fetch("select from schema_versions for update nowait")


def _raised(sqlstate: str) -> Provocation:
    """By a function: nothing that a test may do to a server makes it say so."""

    async def provoke(store: PostgresStore, database: asyncpg.Connection) -> None:
        await store._transactions.fetch(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$")

    return provoke


PROVOKED: dict[str, tuple[str, Provocation]] = {
    "08": ("08003", _lost),
    "25006": ("25006", _read_only),
    "25P03": ("25P03", _idle),
    "25P04": ("25P04", _too_long),
    "28": ("28000", _nobody),
    "3D000": ("3D000", _no_database),
    "40": ("40001", _raised("40001")),
    "40003": ("40003", _raised("40003")),
    "53": ("53400", _no_room_for_sorting),
    "53100": ("53100", _raised("53100")),
    "53300": ("53300", _too_many),
    "55000": ("55000", _closed_to_connections),
    "55006": ("55006", _in_use),
    "55P03": ("55P03", _locked),
    "57014": ("57014", _cancelled),
    "57P01": ("57P01", _terminated),
    "57P02": ("57P02", _raised("57P02")),
    "57P03": ("57P03", _raised("57P03")),
    "57P04": ("57P04", _raised("57P04")),
    "57P05": ("57P05", _raised("57P05")),
    "58000": ("58000", _raised("58000")),
    "58030": ("58030", _raised("58030")),
}
"""By row of the table: the SQLSTATE, and what provokes it."""


async def _name(database: asyncpg.Connection) -> str:
    name: str = await database.fetchval("select current_database()")
    return name


def _dsn(store: PostgresStore) -> str:
    return store_dsns[id(store)]


store_dsns: dict[int, str] = {}


@asynccontextmanager
async def _as(store: PostgresStore, database: asyncpg.Connection, role: str) -> AsyncIterator[PostgresStore]:
    """A store that signs in as another role; the causes that it meets are the store's."""
    parts = urlsplit(_dsn(store))
    hosts = parts.netloc.rpartition("@")[2]
    async with PostgresStore(urlunsplit(parts._replace(netloc=f"{role}@{hosts}"))) as other:
        other._transactions.causes = store.causes
        yield other


@pytest.fixture
async def own(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(postgres_dsn) as store:
        store_dsns[id(store)] = postgres_dsn
        yield store
        del store_dsns[id(store)]


def test_every_row_is_provoked() -> None:
    assert set(PROVOKED) == set(TABLE)


def test_the_documentation_has_every_row() -> None:
    page = Path(__file__).parents[2].joinpath("docs/reliability.md").read_text("utf-8")
    table = page.partition("## What Postgres says")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert sorted(sqlstate for row in rows for sqlstate in row.split(", ")) == sorted(TABLE)


LAST_WORDS_LOST = ("InterfaceError", "InternalClientError")
"""What the driver raises for a connection that the server has ended, where it heard of it before it was asked."""


@pytest.mark.parametrize("row", PROVOKED)
async def test_error_that_another_time_mends_is_typed(
    own: PostgresStore, database: asyncpg.Connection, row: str
) -> None:
    sqlstate, provoke = PROVOKED[row]
    with pytest.raises(StoreUnavailable) as refused:
        await provoke(own, database)
    error = refused.value.__cause__
    assert error is not None
    assert meaning(error) is TABLE[row] or cause(error) in LAST_WORDS_LOST
    assert refused.value.divisible == (TABLE[row] is Meaning.TOO_MUCH)
    assert cause(error) in (sqlstate, *LAST_WORDS_LOST)


@pytest.mark.parametrize("sqlstate", ["42P01", "22021", "XX000", "XX001", "42501"])
async def test_error_that_no_time_mends_is_raised_as_it_is(own: PostgresStore, sqlstate: str) -> None:
    with pytest.raises(asyncpg.PostgresError) as raised:
        await own._transactions.fetch(f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$")
    assert raised.value.sqlstate == sqlstate
    assert not own.causes.counts


async def test_serialization_failure_is_run_again(own: PostgresStore, database: asyncpg.Connection) -> None:
    await database.execute("create table counter (n int); insert into counter values (0)")
    attempts = 0

    async def work(connection: asyncpg.Connection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute("set transaction isolation level repeatable read")
        await connection.fetchval("select n from counter")
        if attempts == 1:
            await database.execute("update counter set n = n + 1")
        await connection.execute("update counter set n = n + 1")

    await own._transactions.run(work)
    assert attempts == 2
    assert await database.fetchval("select n from counter") == 2


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_timeouts_of_the_role_are_typed_when_an_append_is_alone(
    postgres_dsn: str,
    database: asyncpg.Connection,
    caller: Caller,
    setting: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "LOCK_SECONDS", 0.5)
    await database.execute(f'alter database "{Databases.name(postgres_dsn)}" set {setting} = 100')
    async with PostgresStore(postgres_dsn) as store, Batcher(store) as batcher:
        await accepted(store, caller.create("s"))
        async with database.transaction():
            await database.fetch("select from session_heads for update")
            with pytest.raises(SessionLocked):
                await batcher.write(caller.append("s"))
        # A commit that takes longer than a statement may is not cancelled: see transactions.
        await batcher.write(caller.append("s"))


async def test_connection_that_the_server_ended_while_idle_is_replaced(
    own: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    async with Batcher(own) as batcher:
        await batcher.write(caller.create("s"))
        await terminate_others(database)
        await batcher.write(caller.append("s"))


async def test_write_at_a_standby_is_typed(own: PostgresStore, database: asyncpg.Connection, caller: Caller) -> None:
    """BEGIN READ WRITE is refused there with the SQLSTATE of what Postgres cannot do at all."""
    await accepted(own, caller.create("s"))

    class Standby:
        async def execute(self, statement: str) -> str:
            raise asyncpg.FeatureNotSupportedError("cannot set transaction read-write mode during recovery")

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await transactions.begin(Standby(), 1.0)
    assert isinstance(await only(own, caller.append("s")), c.MessagesAppended)
