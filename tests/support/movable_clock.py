"""Postgres databases whose clock tests move."""

import asyncpg

from tests.support.databases import Databases

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


async def make_clock_movable(dsn: str) -> None:
    """For connections that are opened from now on."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_MOVABLE_CLOCK)
    name = Databases.name(dsn)
    await connection.execute(f'alter database "{name}" set search_path = test_clock, pg_catalog, public')
    await connection.close()


async def move_clock(connection: asyncpg.Connection, seconds: float) -> None:
    await connection.execute("update test_clock.shifts set shift = shift + make_interval(secs => $1)", seconds)
