"""Homes of tenants: how a database gets an id, how a tenant gets a home, and that no write lands in another place.

Mutants: each safeguard of the fence is taken out in turn, and a write then lands where its tenant does not live.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Set

import asyncpg
import pytest

from sessiond_server.domain.commands import Command, DocumentWritten, Scope, SessionWritten
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres import documents, placement, write
from sessiond_server.postgres.placement import Claimed, HoldsData
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted
from tests.support.databases import Databases
from tests.support.documents import ALL, alone, put
from tests.support.transactions import COMMITTING, SLOW_COMMIT, connected, only, waiting
from tests.support.waiting import until

ACME, GLOBEX = Caller(Scope("acme")), Caller(Scope("globex"))


@pytest.fixture
def home_dsn(databases: Databases) -> Iterator[str]:
    """A second database."""
    dsn = databases.create_migrated()
    yield dsn
    databases.drop(dsn)


@pytest.fixture
async def home(home_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(home_dsn) as connection:
        yield connection


@pytest.fixture
async def named(database: asyncpg.Connection, home: asyncpg.Connection) -> None:
    await placement.claim(database, "main", "group", empty=False)
    await placement.claim(home, "eu", "group", empty=True)


def _document(caller: Caller) -> Command:
    command = alone(put(ALL, "k"))
    return Command(caller.scope, "", command.action, command.actor, command.request_id)


async def _rows(connection: asyncpg.Connection, tenant_id: str) -> int:
    found: int = await connection.fetchval(
        "select (select count(*) from session_heads where tenant_id = $1)"
        " + (select count(*) from documents where tenant_id = $1)",
        tenant_id,
    )
    return found


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("command", [ACME.create("s"), _document(ACME)], ids=["session", "document"])
async def test_a_write_is_refused_where_its_tenant_does_not_live(
    postgres: PostgresStore, database: asyncpg.Connection, home: asyncpg.Connection, command: Command
) -> None:
    await postgres.ping()
    await placement.give_home(database, home, "acme", "eu")
    changed: list[Set[str]] = []
    postgres.homes.on_change = changed.append
    refused, mine = (await postgres.apply([command, GLOBEX.create("s")])).results
    assert isinstance(refused, StoreUnavailable)
    assert isinstance(mine, SessionWritten)
    assert (postgres.homes.of("acme"), postgres.homes.of("globex")) == ("eu", None)
    assert changed == [{"acme"}]
    assert isinstance(await only(postgres, command), StoreUnavailable)
    assert await _rows(database, "acme") == 0


@pytest.mark.usefixtures("named")
async def test_the_new_home_takes_writes(home_dsn: str, database: asyncpg.Connection, home: asyncpg.Connection) -> None:
    await placement.give_home(database, home, "acme", "eu")
    async with PostgresStore(home_dsn) as store:
        await accepted(store, ACME.create("s"))
        assert store.homes.here == "eu"
        assert store.homes.of("acme") == "eu"


WRITES = pytest.mark.parametrize("command", [ACME.create("s"), _document(ACME)], ids=["session", "document"])


async def _placed_during_a_write(
    postgres: PostgresStore, database: asyncpg.Connection, home: asyncpg.Connection, dsn: str, command: Command
) -> "asyncio.Task[None]":
    """Gives the tenant a home while a write of it, which has read the old map, is in its commit. Returns once both have
    ended."""
    await database.execute(SLOW_COMMIT.replace("insert on requests", "insert on session_heads"))
    await database.execute(SLOW_COMMIT.partition("create constraint")[0].replace("wait_in", "stay_in"))
    await database.execute(
        "create constraint trigger stay_in_commit after insert on documents"
        " deferrable initially deferred for each row execute function stay_in_commit()"
    )
    async with connected(dsn) as observer:
        await observer.execute(f"select pg_advisory_lock({COMMITTING})")
        write = asyncio.create_task(only(postgres, command))
        await until(waiting(observer, 1))
        placing = asyncio.create_task(placement.give_home(database, home, "acme", "eu"))
        await until(_placing_waits_or_is_over(observer, placing))
        await observer.execute(f"select pg_advisory_unlock({COMMITTING})")
        assert isinstance(await write, SessionWritten | DocumentWritten)
    await asyncio.wait({placing})
    return placing


def _placing_waits_or_is_over(
    observer: asyncpg.Connection, placing: "asyncio.Task[None]"
) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return placing.done() or await waiting(observer, 2)()

    return condition


@WRITES
@pytest.mark.usefixtures("named")
async def test_a_tenant_gets_no_home_while_a_write_of_it_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    database: asyncpg.Connection,
    home: asyncpg.Connection,
    postgres_dsn: str,
    command: Command,
) -> None:
    monkeypatch.setattr(placement, "LOCK_SECONDS", 60.0)
    placing = await _placed_during_a_write(postgres, database, home, postgres_dsn, command)
    assert isinstance(placing.exception(), HoldsData)
    await postgres.ping()
    assert postgres.homes.of("acme") is None


@WRITES
@pytest.mark.usefixtures("named")
async def test_without_the_lock_a_write_under_way_lands_in_the_wrong_place(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    database: asyncpg.Connection,
    home: asyncpg.Connection,
    postgres_dsn: str,
    command: Command,
) -> None:
    monkeypatch.setattr(placement, "LOCK", "select")
    placing = await _placed_during_a_write(postgres, database, home, postgres_dsn, command)
    assert placing.exception() is None
    assert await _rows(database, "acme") == 1
    assert await database.fetchval("select database_id from tenant_homes") == "eu"


@pytest.mark.parametrize("statement", ["LOOK_UP", "LOOK_UP_ALL"])
@pytest.mark.usefixtures("named")
async def test_without_the_version_in_the_transaction_an_old_map_is_written_by(
    monkeypatch: pytest.MonkeyPatch,
    postgres: PostgresStore,
    database: asyncpg.Connection,
    home: asyncpg.Connection,
    statement: str,
) -> None:
    room = documents if statement == "LOOK_UP_ALL" else write
    mutated = getattr(room, statement).replace("select homes_version from placement", "select 0::bigint")
    assert mutated != getattr(room, statement)
    monkeypatch.setattr(room, statement, mutated)
    await placement.give_home(database, home, "acme", "eu")
    await only(postgres, _document(ACME) if room is documents else ACME.create("s"))
    assert await _rows(database, "acme") == 1


@pytest.mark.usefixtures("named")
async def test_a_ping_brings_the_map(
    postgres: PostgresStore, database: asyncpg.Connection, home: asyncpg.Connection
) -> None:
    await placement.give_home(database, home, "acme", "eu")
    await postgres.ping()
    assert postgres.homes.of("acme") == "eu"
    assert postgres.homes.elsewhere(["acme", "globex"]) == {"acme"}


@pytest.mark.usefixtures("named")
async def test_a_home_may_be_given_twice_and_not_changed(
    database: asyncpg.Connection, home: asyncpg.Connection
) -> None:
    for _ in range(2):
        await placement.give_home(database, home, "acme", "eu")
    with pytest.raises(Claimed):
        await placement.give_home(database, home, "acme", "us")
    assert await database.fetchval("select database_id from tenant_homes") == "eu"


@WRITES
@pytest.mark.usefixtures("named")
async def test_a_tenant_with_data_gets_no_other_home(
    postgres: PostgresStore, database: asyncpg.Connection, home: asyncpg.Connection, command: Command
) -> None:
    await only(postgres, command)
    with pytest.raises(HoldsData):
        await placement.give_home(database, home, "acme", "eu")
    assert not await database.fetchval("select exists (select from tenant_homes)")
    await accepted(postgres, ACME.create("another"))


async def test_a_database_keeps_its_id_and_its_group(database: asyncpg.Connection, postgres: PostgresStore) -> None:
    for _ in range(2):
        await placement.claim(database, "main", "group", empty=True)
    for wrong in (("eu", "group"), ("main", "other"), ("eu", "other")):
        with pytest.raises(Claimed):
            await placement.claim(database, *wrong, empty=False)
    found = await postgres.placement()
    assert (found.database_id, found.group_id) == ("main", "group")


@WRITES
async def test_a_database_with_data_does_not_become_another_one(
    database: asyncpg.Connection, postgres: PostgresStore, command: Command
) -> None:
    await only(postgres, command)
    with pytest.raises(HoldsData):
        await placement.claim(database, "eu", "group", empty=True)
    await placement.claim(database, "eu", "group", empty=False)
