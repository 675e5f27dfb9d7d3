"""Removes the rows of a tenant from a database where it does not live, a bounded number at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import asyncpg

from sessiond_server import failpoints
from sessiond_server.postgres.moving import copying
from sessiond_server.postgres.moving.conditions import End
from sessiond_server.postgres.moving.record import MoveRefused
from sessiond_server.postgres.statements import MOVING, SEARCH

PRIMARY_KEY = MOVING["primary_key"].text
DROP_FEEDS = SEARCH["drop_feeds"].text
REMOVE_DROPPED = SEARCH["remove_dropped"].text

AT_ONCE: Final = 2000
"""Most rows that one transaction removes, which takes tenths of a second."""
SAY_SECONDS: Final = 1.0
"""Pause between two lines about the progress."""


async def remove(connection: asyncpg.Connection, tenant_id: str) -> AsyncIterator[int]:
    """Yields the number of rows removed so far, its index' among them, after each transaction. May be interrupted and
    repeated.

    Raises MoveRefused if the tenant may be written there: then the rows are its data.
    """
    removed = 0
    await connection.execute(DROP_FEEDS, tenant_id)
    while (index := await connection.fetchrow(REMOVE_DROPPED, AT_ONCE, tenant_id)) and index["dropped"]:
        removed += index["rows"]
        yield removed
    for table in await copying.tables(connection):
        last: Sequence[Any] = ()
        while True:
            columns = [row[0] for row in await connection.fetch(PRIMARY_KEY, table)]
            found = await connection.fetchrow(_statement(table, columns, bool(last)), tenant_id, *last)
            if found is None:
                break
            # Goes on behind the last key: what was removed stays in the index until it is vacuumed.
            count, *last = found
            removed += count
            yield removed
            if count < AT_ONCE:
                break
    if not await connection.fetchval("select lives_elsewhere($1)", tenant_id):
        raise MoveRefused(f"the tenant {tenant_id} lives where its old rows were to be removed: nothing was removed")


async def removed(end: End, tenant_id: str, say: Callable[[str], None]) -> None:
    """Removes all rows of the tenant, and says how far it is. Raises as `remove`."""
    clock = asyncio.get_running_loop().time
    said, count = clock(), 0
    async for count in remove(end.connection, tenant_id):
        _ = failpoints.armed and await failpoints.reach("move_removed")
        if clock() - said >= SAY_SECONDS:
            said = clock()
            say(f"removing the old rows from {end.id}: {count}")
    say(f"removed {count} rows from {end.id}")


def _statement(table: str, columns: Sequence[str], behind: bool) -> str:
    """One statement, so that it sees the fence and the rows as of one moment."""
    names, last = ", ".join(columns), ", ".join(f"{name} desc" for name in columns)
    values = ", ".join(f"${place}" for place in range(2, len(columns) + 2))
    return (
        f"with gone as (delete from {table} where ctid = any (array(select t.ctid from {table} t "
        f"where t.tenant_id = $1 and lives_elsewhere($1) {f'and ({names}) > ({values})' if behind else ''} "
        f"order by {names} limit {AT_ONCE})) returning {names}) "
        f"select count(*) over () as count, gone.* from gone order by {last} limit 1"
    )
