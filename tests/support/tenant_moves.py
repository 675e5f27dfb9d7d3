"""Moves of a tenant, as `sessiond databases move` makes them, and what databases hold of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sessiond_server.postgres.moving import copying, mover
from tests.support.several_databases import Dsns
from tests.support.transactions import connected


@asynccontextmanager
async def moving(dsns: Dsns, tenant: str, source: str, target: str) -> AsyncIterator[tuple[mover.Mover, list[str]]]:
    """A mover, and the lines that it says."""
    said: list[str] = []
    notes, old, new = ((each, dsns[each]) for each in ("main", source, target))
    async with (
        mover.locked(notes, tenant) as default,
        mover.opened(default, old, new, tenant, said.append) as made,
    ):
        yield made, said


async def move(dsns: Dsns, tenant: str, source: str, target: str) -> list[str]:
    async with moving(dsns, tenant, source, target) as (made, said):
        await made.begin()
        await made.go_on()
    return said


async def rows(dsn: str, tenant: str) -> dict[str, int]:
    """How many rows each table has of the tenant, where there are any."""
    async with connected(dsn) as connection:
        found = {
            table: await connection.fetchval(f"select count(*) from {table} where tenant_id = $1", tenant)
            for table in await copying.tables(connection)
        }
    return {table: count for table, count in found.items() if count}


async def left_over(dsns: Dsns) -> list[str]:
    """Publications, subscriptions and logical slots of the databases."""
    found: list[str] = []
    for dsn in dsns.values():
        async with connected(dsn) as connection:
            rows = await connection.fetch(
                "select pubname from pg_publication union all "
                "select subname from pg_subscription where subdbid = "
                "(select oid from pg_database where datname = current_database()) union all "
                "select slot_name from pg_replication_slots where database = current_database()"
            )
            found += [row[0] for row in rows]
    return found


async def contents(dsn: str, tenant: str) -> dict[str, str]:
    """A digest of the rows that each table has of the tenant, where there are any."""
    async with connected(dsn) as connection:
        return {
            table: await connection.fetchval(
                f"select md5(string_agg(x::text, '' order by x::text)) from {table} x where tenant_id = $1", tenant
            )
            for table in await rows(dsn, tenant)
        }
