"""What a checklist for production asks of a database beyond its fitness: room, age, upkeep, clock, backups."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from sessiond_server.encryption.keyring import StoredKey
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.growth import GROWTH, growth
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.tenant_keys import one_of_each
from sessiond_server.store.condition import Growth

_SETTINGS: Final = (
    "archive_mode", "autovacuum", "autovacuum_freeze_max_age", "autovacuum_multixact_freeze_max_age", "fsync",
    "full_page_writes", "max_connections", "server_version_num", "superuser_reserved_connections",
    "synchronous_commit", "track_counts",
)  # fmt: skip

_CURRENT: Final = "select name, setting from pg_settings where name = any ($1::text[])"
_FACTS: Final = """
select pg_backend_pid() as pid, extract(epoch from clock_timestamp())::double precision as clock,
  (select max(age(datfrozenxid)) from pg_database) as transactions,
  (select max(mxid_age(datminmxid)) from pg_database) as multixacts,
  (select rolconnlimit from pg_roles where rolname = current_user) as role_limit,
  (select datconnlimit from pg_database where datname = current_database()) as database_limit,
  coalesce(current_setting('reserved_connections', true), '0')::integer as reserved,
  array(
    select c.relname::text from pg_class c
    where c.relname = any ($1::text[]) and c.relkind = 'r' and pg_table_is_visible(c.oid)
      and 'autovacuum_enabled=false' = any (c.reloptions)
    order by c.relname
  ) as not_vacuumed
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a database says of itself."""

    version: int
    """As server_version_num."""
    unsafe: Sequence[str]
    """Settings that are off, so that acknowledged commits can be lost."""
    connections: int
    """Most that the service's role can have in this database."""
    pooler: bool
    """Whether a pooler stands between, whose own limits are not known."""
    transaction_age: int
    """Transaction ids since the oldest one that is not frozen, in the database of the cluster that has most."""
    multixact_age: int
    freeze_age: int
    """Age of transaction ids from which autovacuum freezes a table in any case."""
    multixact_freeze_age: int
    """The same of multixacts."""
    autovacuum: bool
    not_vacuumed: Sequence[str]
    """Our tables that autovacuum leaves alone."""
    archiving: bool
    clock_skew: float
    """Seconds by which the database's clock is ahead of this machine's."""


async def look(dsn: str, *, connect_timeout: float = 5.0) -> Facts:
    """The facts, from settings and catalogues that every role may read. Raises StoreUnavailable, also for a database
    that refuses the connection."""
    async with _asked(dsn, connect_timeout) as connection:
        settings = dict(await connection.fetch(_CURRENT, _SETTINGS))
        began = time.time()
        found = await connection.fetchrow(_FACTS, TABLES)
        ended = time.time()
        assert found is not None
        pooler = found["pid"] != connection.get_server_pid()
    return _facts(settings, found, found["clock"] - (began + ended) / 2, pooler)


async def look_at_tables(dsn: str, *, connect_timeout: float = 5.0) -> Growth | None:
    """How the tables grow; None: there are none yet. Raises StoreUnavailable, as `look`."""
    async with _asked(dsn, connect_timeout) as connection:
        rows = await connection.fetch(GROWTH, TABLES)
    return growth(rows) if rows else None


async def look_at_keys(dsn: str, *, connect_timeout: float = 5.0) -> Sequence[StoredKey]:
    """See `one_of_each`. Raises StoreUnavailable, as `look`."""
    async with _asked(dsn, connect_timeout) as connection:
        return await one_of_each(connection.fetch)


@asynccontextmanager
async def _asked(dsn: str, connect_timeout: float) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that only reads. Raises StoreUnavailable for every failure of the database."""
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=connect_timeout,
            command_timeout=connect_timeout,
            statement_cache_size=0,
            server_settings={"application_name": "sessiond check"},
        )
        try:
            async with connection.transaction(readonly=True):
                yield connection
        finally:
            await connection.close(timeout=connect_timeout)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise StoreUnavailable from error


def _facts(settings: Mapping[str, str], found: Any, skew: float, pooler: bool) -> Facts:
    limits = [int(settings["max_connections"]) - int(settings["superuser_reserved_connections"]) - found["reserved"]]
    limits += [limit for limit in (found["role_limit"], found["database_limit"]) if limit is not None and limit >= 0]
    return Facts(
        version=int(settings["server_version_num"]),
        unsafe=[name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings[name] == "off"],
        connections=min(limits),
        pooler=pooler,
        transaction_age=found["transactions"],
        multixact_age=found["multixacts"],
        freeze_age=int(settings["autovacuum_freeze_max_age"]),
        multixact_freeze_age=int(settings["autovacuum_multixact_freeze_max_age"]),
        autovacuum=settings["autovacuum"] == "on" and settings["track_counts"] == "on",
        not_vacuumed=found["not_vacuumed"],
        archiving=settings["archive_mode"] != "off",
        clock_skew=skew,
    )
