"""How transactions on one Postgres meet and end, move by move. Each test names the mutant that it catches."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from sessiond_server.domain import commands as c
from sessiond_server.errors import SessionNotFound, StoreUnavailable
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted, whole_log
from tests.support.transactions import (
    COMMITTING,
    SLOW_COMMIT,
    backends,
    cancelled_in_commit,
    only,
    raced_through_the_lock,
    terminate_others,
    waiting,
)
from tests.support.waiting import until


async def test_the_second_of_two_racing_retries_sees_the_first(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Mutants: no row lock; no second statement after it (the record looked up by a snapshot older than the lock)."""
    await accepted(postgres, caller.create("s"))
    append = caller.append("s", "one", "two", request_id="r")
    first, second = await raced_through_the_lock(postgres, other, database, append)
    assert isinstance(first, c.MessagesAppended)
    assert second == first
    assert len(await whole_log(postgres, caller.scope, "s")) == 3


async def test_a_commit_goes_on_without_its_caller(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    """Mutant: no shield around the commit. Neither is the commit cancelled nor its connection cut."""
    async with PostgresStore(postgres_dsn, max_connections=1) as store:
        await accepted(store, caller.create("s"))
        before = await backends(database)
        await cancelled_in_commit(store, database, caller.append("s", request_id="r"))
        assert len(await whole_log(store, caller.scope, "s")) == 2
        assert await backends(database) == before


async def test_close_waits_for_commits_in_flight(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    async with PostgresStore(postgres_dsn) as store:
        await accepted(store, caller.create("s"))
        await database.execute(SLOW_COMMIT)
        await database.execute(f"select pg_advisory_lock({COMMITTING})")
        append = asyncio.create_task(only(store, caller.append("s")))
        await until(waiting(database, 1))
        append.cancel()
        closing = asyncio.create_task(store.__aexit__(None, None, None))
        with pytest.raises(asyncio.CancelledError):
            await append
        assert not closing.done()
        await database.execute(f"select pg_advisory_unlock({COMMITTING})")
        await closing
    assert await database.fetchval("select version from session_heads") == 2


async def test_the_database_refuses_a_second_record_of_a_request(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Mutant: request ids without uniqueness."""
    await accepted(postgres, caller.create("s", "r"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("insert into requests select (r).* from (select r from requests r) as copy")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("insert into events select (e).* from (select e from events e) as copy")


async def test_cancelling_before_the_commit_undoes_everything(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    async with database.transaction():
        await database.fetch("select from session_heads for update")
        append = asyncio.create_task(only(postgres, caller.append("s")))
        await until(waiting(database, 1))
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        await until(waiting(database, 0))
    assert len(await whole_log(postgres, caller.scope, "s")) == 1
    open_transactions = (
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'"
    )
    assert await database.fetchval(open_transactions) == 0
    await accepted(postgres, caller.append("s"))


async def test_cancelling_while_writing_undoes_everything(
    postgres_dsn: str, database: asyncpg.Connection, caller: Caller
) -> None:
    """Where writes take locks. A write in one statement is its own commit, which goes on."""
    async with PostgresStore(postgres_dsn, optimistic="off") as store:
        await accepted(store, caller.create("s"))
        async with database.transaction():
            await database.execute("lock table requests in exclusive mode")
            append = asyncio.create_task(only(store, caller.append("s")))
            await until(waiting(database, 1))
            append.cancel()
            with pytest.raises(asyncio.CancelledError):
                await append
        assert len(await whole_log(store, caller.scope, "s")) == 1


async def test_batch_restarts_when_another_created_its_session_first(
    postgres: PostgresStore, other: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """Both found no row to lock. The one that inserts second must not write its events to the other's session."""
    await database.execute(SLOW_COMMIT)
    await database.execute(f"select pg_advisory_lock({COMMITTING})")
    create, append = caller.create("s", "r"), caller.append("s", request_id="a")
    first = asyncio.create_task(only(postgres, create))
    await until(waiting(database, 1))
    second = asyncio.create_task(other.apply([create, append]))
    await until(waiting(database, 2))
    await database.execute(f"select pg_advisory_unlock({COMMITTING})")
    created = await first
    again, appended = (await second).results
    assert isinstance(created, c.SessionWritten)
    assert again == created
    assert isinstance(appended, c.MessagesAppended)
    assert appended.version == len(await whole_log(postgres, caller.scope, "s")) == 2


async def test_deadlocked_batch_is_run_again(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    """A foreign transaction takes locks in another order."""
    await database.execute("set deadlock_timeout = '10min'")  # so that it is not this one that gives way
    await accepted(postgres, caller.create("a"), caller.create("b"))
    async with database.transaction():
        await database.fetch("select from session_heads where session_id = 'b' for update")
        appends = asyncio.create_task(postgres.apply([caller.append("a"), caller.append("b")]))
        await until(waiting(database, 1))
        await database.fetch("select from session_heads where session_id = 'a' for update")
    results = (await appends).results
    assert all(isinstance(result, c.MessagesAppended) for result in results)


async def test_a_batch_that_the_database_cannot_take_leaves_nothing(postgres: PostgresStore, caller: Caller) -> None:
    """U+0000 never comes so far; here it stands for whatever the database refuses."""
    await accepted(postgres, caller.create("s"))
    with pytest.raises(asyncpg.CharacterNotInRepertoireError):
        await postgres.apply([caller.append("s"), caller.create("t"), caller.append_ids("s", "a\0b")])
    assert len(await whole_log(postgres, caller.scope, "s")) == 1
    with pytest.raises(SessionNotFound):
        await postgres.get_session(caller.scope, "t", content=False)
    await accepted(postgres, caller.append("s"), caller.create("t"))


async def test_a_lost_connection_is_store_unavailable_and_the_retry_exact(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    append = caller.append("s", request_id="r")
    async with database.transaction():
        await database.fetch("select from session_heads for update")
        applied = asyncio.create_task(only(postgres, append))
        await until(waiting(database, 1))
        await terminate_others(database)
        with pytest.raises(StoreUnavailable):
            await applied
    result = await only(postgres, append)
    assert await only(postgres, append) == result
    assert len(await whole_log(postgres, caller.scope, "s")) == 2


async def test_a_connection_lost_during_the_commit(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    await database.execute(SLOW_COMMIT)
    await database.execute(f"select pg_advisory_lock({COMMITTING})")
    append = caller.append("s", request_id="r")
    applied = asyncio.create_task(only(postgres, append))
    await until(waiting(database, 1))
    await terminate_others(database)
    with pytest.raises(StoreUnavailable):
        await applied
    await database.execute(f"select pg_advisory_unlock({COMMITTING})")
    assert isinstance(await only(postgres, append), c.MessagesAppended)
    assert len(await whole_log(postgres, caller.scope, "s")) == 2


async def test_idle_connections_that_were_cut_are_replaced(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller
) -> None:
    await accepted(postgres, caller.create("s"))
    await terminate_others(database)

    async def answers() -> bool:
        try:
            await postgres.get_session(caller.scope, "s", content=True)
        except StoreUnavailable:
            return False
        return True

    await until(answers)
    await accepted(postgres, caller.append("s"))


async def test_a_database_that_is_not_there(caller: Caller, unused_tcp_port_factory: Callable[[], int]) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{unused_tcp_port_factory()}/none"
    async with PostgresStore(dsn, connect_timeout=5) as store:
        for call in (
            store.ping(),
            store.token_key(),
            store.apply([caller.create("s")]),
            store.get_session(caller.scope, "s", content=True),
            store.expire_due(1),
            store.purge(1),
        ):
            with pytest.raises(StoreUnavailable):
                await call
