"""What source and target of a move must be able to do."""

from dataclasses import dataclass
from typing import Final

import asyncpg

from sessiond_server.postgres.moving.record import MoveRefused

OLDEST: Final = 150000
"""PostgreSQL 15, as server_version_num: the oldest that replicates a part of a table's rows."""

_SOURCE: Final = """
select current_setting('server_version_num')::integer as version, current_setting('wal_level') as wal_level,
  current_schema()::text as schema, current_user::text as role, current_database()::text as database,
  (select rolreplication or rolsuper from pg_roles where rolname = current_user) as may_replicate,
  has_database_privilege(current_database(), 'create') as may_create,
  (select coalesce(bool_and(pg_has_role(c.relowner, 'usage')), true) from pg_class c
    where c.relkind = 'r' and c.relnamespace = current_schema()::regnamespace) as owns,
  current_setting('max_replication_slots')::bigint - (select count(*) from pg_replication_slots) as slots
"""
_TARGET: Final = """
select current_setting('server_version_num')::integer as version, current_schema()::text as schema,
  current_user::text as role, current_database()::text as database,
  has_database_privilege(current_database(), 'create') as may_create,
  (select rolsuper from pg_roles where rolname = current_user) or exists (
    select from pg_roles where rolname = 'pg_create_subscription' and pg_has_role(oid, 'usage')
  ) as may_subscribe,
  current_setting('max_logical_replication_workers')::integer as workers
"""


@dataclass(frozen=True, slots=True)
class End:
    """One of the two databases of a move."""

    id: str
    connection: asyncpg.Connection
    dsn: str


async def check(source: End, target: End) -> None:
    """Raises MoveRefused if one of the databases cannot do its part."""
    left, right = await source.connection.fetchrow(_SOURCE), await target.connection.fetchrow(_TARGET)
    for end, found in ((source, left), (target, right)):
        if found["version"] < OLDEST:
            raise MoveRefused(
                f"the server of {end.id} is PostgreSQL {found['version'] // 10000}; a tenant is moved between servers "
                f"of {OLDEST // 10000} or newer, which replicate the rows of one tenant"
            )
        if not found["may_create"]:
            raise MoveRefused(
                f"the role {found['role']} may not create in {end.id}: grant create on database {found['database']} "
                f"to {found['role']}"
            )
    if left["wal_level"] != "logical":
        raise MoveRefused(
            f"wal_level of the server of {source.id} is {left['wal_level']}: set it to logical, and restart that server"
        )
    if not left["may_replicate"]:
        raise MoveRefused(f"the role {left['role']} may not replicate from {source.id}: alter role … replication")
    if not left["owns"]:
        raise MoveRefused(f"the role {left['role']} does not own the tables of {source.id}: move as their owner")
    if left["slots"] < 3:
        raise MoveRefused(
            f"the server of {source.id} has {left['slots']} replication slots left, and a move takes 3: raise its "
            "max_replication_slots, or remove slots that nothing uses"
        )
    if not right["may_subscribe"]:
        raise MoveRefused(
            f"the role {right['role']} may not create subscriptions in {target.id}: grant pg_create_subscription to it "
            "(PostgreSQL 16 or newer), or move as a superuser"
        )
    if right["workers"] < 2:
        raise MoveRefused(
            f"max_logical_replication_workers of the server of {target.id} is {right['workers']}: set it to 4 or more"
        )
    if left["schema"] != right["schema"]:
        raise MoveRefused(
            f"the tables of {source.id} are in the schema {left['schema']}, those of {target.id} in {right['schema']}: "
            "replication does not change the names of schemas"
        )
