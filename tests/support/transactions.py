"""Brings transactions on one database to the points where they meet, and waits until they are there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from sessiond_server.domain import commands as c
from sessiond_server.store.contract import Store
from tests.support.waiting import until

COMMITTING = 4711
"""Advisory lock that a test holds to keep commits from finishing."""

# A deferred constraint trigger runs within COMMIT itself.
SLOW_COMMIT = f"""
create function wait_in_commit() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared({COMMITTING});
  return null;
end $$;
create constraint trigger wait_in_commit after insert on requests
  deferrable initially deferred for each row execute function wait_in_commit();
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for as long as the context is open."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def waiting(database: asyncpg.Connection, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether so many connections to this database wait for a lock."""

    async def condition() -> bool:
        await database.execute("select pg_stat_clear_snapshot()")  # else a transaction sees the same answer for ever
        waiters = await database.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        return bool(waiters == count)

    return condition


async def raced_through_the_lock(
    first: Store, second: Store, database: asyncpg.Connection, command: c.Command
) -> tuple[c.Result, c.Result]:
    """Both apply the command while a third party holds the session: the second waits already when the first commits."""
    async with database.transaction():
        await database.fetch("select from session_heads for update")
        one = asyncio.create_task(only(first, command))
        await until(waiting(database, 1))
        two = asyncio.create_task(only(second, command))
        await until(waiting(database, 2))
    return await one, await two


async def only(store: Store, command: c.Command) -> c.Result:
    (result,) = (await store.apply([command])).results
    return result


async def cancelled_in_commit(store: Store, database: asyncpg.Connection, command: c.Command) -> None:
    """Cancels the caller while its COMMIT is under way, then lets commits finish."""
    await database.execute(SLOW_COMMIT)
    await database.execute(f"select pg_advisory_lock({COMMITTING})")
    caller = asyncio.create_task(only(store, command))
    await until(waiting(database, 1))
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await database.execute(f"select pg_advisory_unlock({COMMITTING})")
    await until(waiting(database, 0))


async def terminate_others(database: asyncpg.Connection) -> None:
    await database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and application_name = 'sessiond'"
    )


async def backends(database: asyncpg.Connection) -> set[int]:
    """Process ids of the servers behind the stores' connections."""
    rows = await database.fetch(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'sessiond'"
    )
    return {row[0] for row in rows}
