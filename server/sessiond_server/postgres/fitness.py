"""Checks whether the service can use a database, and whether that database keeps what it acknowledges.

`serve`, `migrate` and `check` share these checks, so that they report the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from sessiond_server.postgres.schema.tables import MARKS, TABLES

OLDEST_SERVER: Final = 140000
"""Oldest supported server, PostgreSQL 14, as server_version_num. The statements use no newer features."""

_ABOUT: Final = """
select current_setting('server_version_num')::integer as version, current_setting('server_encoding') as encoding,
  pg_is_in_recovery() as standby, current_setting('default_transaction_read_only') = 'on' as read_only,
  current_schema() as schema, current_user::text as role, current_database()::text as database,
  current_schema() is not null and has_schema_privilege(current_schema(), 'create') as may_create,
  array(
    select name from unnest(array['fsync', 'full_page_writes', 'synchronous_commit']) as name
    where current_setting(name) = 'off' order by name
  ) as unsafe
"""
_FOUND: Final = """
select c.relname::text as name,
  array(
    select p from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as p where not has_table_privilege(c.oid, p)
  ) as missing,
  array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0) as columns
from pg_class c
where c.relname = any ($1::text[]) and c.relkind in ('r', 'p', 'v', 'm', 'f') and pg_table_is_visible(c.oid)
order by c.relname
"""


class DatabaseUnfit(Exception):
    """The service cannot use the database. The text tells the operator what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """Properties of a database that the service can use."""

    unsafe: Sequence[str]
    """Settings that are off, such as `fsync`, so that a crash of the machine loses acknowledged commits."""
    role: str
    schema: str
    may_create: bool
    """Whether the role may create tables in the schema."""

    def check_may_create(self) -> None:
        """Raises DatabaseUnfit if the role may not create tables."""
        if not self.may_create:
            raise DatabaseUnfit(
                f"the role {self.role} may not create tables in the schema {self.schema}: migrate as its owner, or "
                f"grant create on schema {self.schema} to {self.role}"
            )

    @property
    def durable(self) -> bool:
        """Whether acknowledged commits survive a crash of the machine."""
        return not self.unsafe

    def warnings(self) -> Sequence[str]:
        """Warnings for the operator, one line each."""
        return [
            f"the database runs with {name} off: what was acknowledged is lost{how} when its machine crashes"
            for name in self.unsafe
            for how in (", or damaged," if name != "synchronous_commit" else "",)
        ]


def refuse_unsafe(fitness: Fitness) -> None:
    """Raises DatabaseUnfit unless acknowledged commits survive a crash of the machine."""
    if not fitness.durable:
        raise DatabaseUnfit(
            f"the database runs with {', '.join(fitness.unsafe)} off, which --require-durable forbids: turn it on"
        )


async def examine(connection: asyncpg.Connection) -> Fitness:
    """Checks the database. Raises DatabaseUnfit. Reads only the catalogue, which every role may read."""
    async with connection.transaction():
        about = await connection.fetchrow(_ABOUT)
        tables = await connection.fetch(_FOUND, [*TABLES, "schema_versions"])
    assert about is not None
    _check_server(about)
    _check_tables(about, tables)
    return Fitness(tuple(about["unsafe"]), about["role"], about["schema"], about["may_create"])


def _check_server(about: asyncpg.Record) -> None:
    if about["standby"]:
        raise DatabaseUnfit("the database is a standby: name the primary, or all with target_session_attrs=read-write")
    if about["read_only"]:
        raise DatabaseUnfit(
            "the database is read-only (default_transaction_read_only is on): turn it off for database and role"
        )
    if about["version"] < OLDEST_SERVER:
        raise DatabaseUnfit(
            f"the server is PostgreSQL {about['version'] // 10000}; {OLDEST_SERVER // 10000} or newer is needed"
        )
    if about["encoding"] != "UTF8":
        raise DatabaseUnfit(
            f"the database's encoding is {about['encoding']}: create one with ENCODING 'UTF8' TEMPLATE template0"
        )
    if about["schema"] is None:
        raise DatabaseUnfit(
            "the search_path names no schema that exists: create the schema, or leave schema and search_path out"
        )


def _check_tables(about: asyncpg.Record, tables: Sequence[asyncpg.Record]) -> None:
    columns = {row["name"]: set(row["columns"]) for row in tables}
    if "schema_versions" in columns:
        foreign = [name for name, marks in MARKS.items() if name in columns and not marks <= columns[name]]
    else:
        foreign = sorted(columns)
    if foreign:
        raise DatabaseUnfit(
            f"the schema {about['schema']} of the database {about['database']} has tables of another application "
            f"({', '.join(foreign)}): name a database, or with ?schema=NAME a schema, of its own"
        )
    lacking = []
    for row in tables:
        needed = {"SELECT"} if row["name"] == "schema_versions" else set(row["missing"])
        if missing := [right for right in row["missing"] if right in needed]:
            lacking.append(f"{', '.join(missing)} on {row['name']}")
    if lacking:
        raise DatabaseUnfit(
            f"the role {about['role']} lacks rights ({'; '.join(lacking)}): grant select, insert, update, delete on "
            f"all tables in schema {about['schema']} to {about['role']}"
        )
