"""Migrations yield the schema, and each is applied once, also when several processes run them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from importlib.resources import files
from typing import Any

import asyncpg
import pytest

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.fitness import DatabaseUnfit
from sessiond_server.postgres.schema import migrate as subject
from sessiond_server.postgres.schema.migrate import (
    MigrationError,
    SchemaTooNew,
    migrate,
    migrations,
    status,
)
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.statements import WRITE
from sessiond_server.postgres.store import PostgresStore

LATEST = migrations()[-1].version

# Everything about the schema that a difference could hide in, by name.
CATALOG = {
    "relations": """
        select relname, relkind, relpersistence, reloptions from pg_class
        where relnamespace = 'public'::regnamespace and relkind not in ('t', 'i')""",
    "columns": """
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage,
          a.attcompression, l.collname, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid and c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        left join pg_collation l on l.oid = a.attcollation
        where a.attnum > 0 and not a.attisdropped""",
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'public'",
    "constraints": """
        select conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace""",
    "functions": "select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace",
    "triggers": "select tgname, pg_get_triggerdef(oid) from pg_trigger where not tgisinternal",
    "types": "select typname from pg_type where typnamespace = 'public'::regnamespace and typtype in ('e', 'd')",
}


async def catalog(dsn: str) -> dict[str, set[tuple[Any, ...]]]:
    connection = await asyncpg.connect(dsn)
    try:
        found = {}
        for kind, query in CATALOG.items():
            rows = await connection.fetch(query)
            found[kind] = {tuple(str(value) for value in row) for row in rows}
        return found
    finally:
        await connection.close()


@pytest.fixture
async def empty(empty_postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_postgres_dsn)
    yield connection
    await connection.close()


async def test_migrations_yield_the_schema(
    postgres_dsn: str, empty_postgres_dsn: str, empty: asyncpg.Connection
) -> None:
    schema = files("sessiond_server.postgres.schema").joinpath("schema.sql").read_text(encoding="utf-8")
    await empty.execute(schema)
    from_schema, from_migrations = await catalog(empty_postgres_dsn), await catalog(postgres_dsn)
    assert from_schema == from_migrations
    assert len(from_schema["relations"]) >= 6
    assert len(from_schema["indexes"]) > 15


async def test_migrating_is_idempotent(empty_postgres_dsn: str, empty: asyncpg.Connection) -> None:
    before = await status(empty_postgres_dsn)
    assert (before.version, before.latest, len(before.pending), before.ready) == (0, LATEST, LATEST, False)
    assert await migrate(empty_postgres_dsn) == before.pending
    done = await status(empty_postgres_dsn)
    assert (done.version, done.latest, done.pending, done.restored) == (LATEST, LATEST, (), False)
    assert (await status(empty_postgres_dsn)).ready
    key = await empty.fetchval("select secret from service_keys where name = 'tokens'")
    assert await migrate(empty_postgres_dsn) == ()
    assert await empty.fetchval("select secret from service_keys where name = 'tokens'") == key


async def test_concurrent_migrations_apply_each_version_once(
    empty_postgres_dsn: str, empty: asyncpg.Connection
) -> None:
    applied = await asyncio.gather(*(migrate(empty_postgres_dsn) for _ in range(5)))
    assert sum(map(len, applied)) == LATEST
    assert await empty.fetchval("select count(*) from schema_versions") == LATEST


async def test_every_database_has_its_own_token_key(postgres_dsn: str, empty_postgres_dsn: str) -> None:
    await migrate(empty_postgres_dsn)
    async with PostgresStore(postgres_dsn) as one, PostgresStore(empty_postgres_dsn) as two:
        keys = {await one.token_key(), await two.token_key()}
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}


async def test_newer_schema_is_refused(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("insert into schema_versions (version, name) values ($1, 'of the future')", LATEST + 1)
    await connection.close()
    found = await status(postgres_dsn)
    assert (found.too_new, found.ready) == (True, False)
    with pytest.raises(SchemaTooNew, match=f"is version {LATEST + 1}; this server knows versions up to {LATEST}"):
        await migrate(postgres_dsn)


async def test_failed_migration_is_rolled_back(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = list(migrations())
    broken = subject.Migration(LATEST + 1, "broken", "create table half_way (a int); select 1 / 0")
    monkeypatch.setattr(subject, "migrations", lambda: [*known, broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_postgres_dsn)
    assert await empty.fetchval("select to_regclass('half_way')") is None
    monkeypatch.undo()
    assert (await status(empty_postgres_dsn)).ready
    assert await migrate(empty_postgres_dsn) == ()


async def test_a_missing_privilege_is_named(empty_postgres_dsn: str, empty: asyncpg.Connection) -> None:
    role = "sessiond_test_without_privileges"
    database = await empty.fetchval("select current_database()")
    await empty.execute(f"do $$ begin create role {role}; exception when duplicate_object then null; end $$")
    await empty.execute(f'revoke create on schema public from public; alter database "{database}" set role {role}')
    try:
        with pytest.raises(DatabaseUnfit, match="may not create tables in the schema public: migrate as"):
            await migrate(empty_postgres_dsn)
    finally:
        await empty.execute(f'alter database "{database}" reset role')


async def test_missing_server_is_store_unavailable(unused_tcp_port_factory: Callable[[], int]) -> None:
    dsn = f"postgresql://nobody@127.0.0.1:{unused_tcp_port_factory()}/none"
    for call in (migrate, status):
        with pytest.raises(StoreUnavailable):
            await call(dsn)


async def _wait_for(connection: asyncpg.Connection, kind: str) -> None:
    """Returns once another connection to this database waits for a lock of that kind."""
    async with asyncio.timeout(20):
        while not await connection.fetchval(  # noqa: ASYNC110  # it asks another process
            "select count(*) from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted"
            " where a.datname = current_database() and l.locktype = $1",
            kind,
        ):
            await asyncio.sleep(0.005)


async def _at_version(version: int, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = list(migrations())
    with monkeypatch.context() as patched:
        patched.setattr(subject, "migrations", lambda: known[:version])
        assert len(await migrate(dsn)) == version


_AN_EVENT = """
insert into events (tenant_id, session_id, seq, type, create_time, head, body)
select 't', 's', coalesce(max(seq), 0) + 1, 20, now(), '', '' from events"""
_VALID = "select indisvalid from pg_index where indexrelid = to_regclass('events_feed')"


async def test_the_feeds_index_is_built_beside_writers(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for an older transaction, and meanwhile holds up neither writers nor other servers that migrate.

    Mutants: the index not built concurrently; waiting for the migrating process in a statement (a deadlock).
    """
    await _at_version(1, empty_postgres_dsn, monkeypatch)
    older = await asyncpg.connect(empty_postgres_dsn)
    transaction = older.transaction()
    await transaction.start()
    await older.execute(_AN_EVENT)
    building = asyncio.create_task(migrate(empty_postgres_dsn))
    await _wait_for(empty, "virtualxid")
    other = asyncio.create_task(migrate(empty_postgres_dsn))
    await empty.execute(f"set statement_timeout = '5s'; {_AN_EVENT.replace(repr('s'), repr('z'))}")
    assert await empty.fetchval(_VALID) is False
    assert not building.done()
    await transaction.commit()
    await older.close()
    async with asyncio.timeout(20):
        assert sum(map(len, await asyncio.gather(building, other))) == LATEST - 1
    assert await empty.fetchval(_VALID) is True


async def test_interrupted_index_build_is_started_again(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _at_version(1, empty_postgres_dsn, monkeypatch)
    older = await asyncpg.connect(empty_postgres_dsn)
    transaction = older.transaction()
    await transaction.start()
    await older.execute(_AN_EVENT)
    building = asyncio.create_task(migrate(empty_postgres_dsn))
    await _wait_for(empty, "virtualxid")
    building.cancel()
    await asyncio.wait([building])
    await transaction.commit()
    await older.close()
    assert await empty.fetchval(_VALID) is False
    assert (await status(empty_postgres_dsn)).version == 1
    assert len(await migrate(empty_postgres_dsn)) == LATEST - 1
    assert await empty.fetchval(_VALID) is True


@pytest.mark.parametrize("version", [1, 2])
async def test_table_lock_is_awaited_in_short_attempts(
    empty_postgres_dsn: str,
    empty: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: int,
) -> None:
    """A column is added once a long read of its table has ended; until then writers proceed between the attempts."""
    await _at_version(version, empty_postgres_dsn, monkeypatch)
    impatient = [
        subject.Migration(m.version, m.name, m.sql.replace("lock_timeout = '1s'", "lock_timeout = '5ms'"))
        for m in migrations()
    ]
    monkeypatch.setattr(subject, "migrations", lambda: impatient)
    reader = await asyncpg.connect(empty_postgres_dsn)
    transaction = reader.transaction()
    await transaction.start()
    await reader.fetch("select from session_heads")
    migrating = asyncio.create_task(migrate(empty_postgres_dsn))
    async with asyncio.timeout(20):
        while "is waiting for another transaction" not in caplog.text:  # noqa: ASYNC110  # a record sets no event
            await asyncio.sleep(0.005)
    await empty.execute("set statement_timeout = '5s'; update session_heads set version = version")
    await transaction.commit()
    await reader.close()
    assert len(await migrating) == LATEST - version

    monkeypatch.setattr(subject, "LOCK_ATTEMPTS", 0)
    await empty.execute(f"delete from schema_versions where version = {LATEST}")
    with pytest.raises(MigrationError, match="look for old ones in pg_stat_activity"):
        await migrate(empty_postgres_dsn)


def test_statements_are_split_outside_comments_literals_and_bodies() -> None:
    found = subject.statements(
        "-- outside a transaction\nset a = 1;\n\n-- why; and how\nselect\n  ';';\n"
        "do $$ begin\n  commit;\nend; $$;\nset b = $$;$$; set c = 2;\n"
    )
    assert [statement.splitlines()[-1] for statement in found] == [
        "set a = 1", "  ';'", "end; $$", "set b = $$;$$; set c = 2"
    ]  # fmt: skip


_KEYS = next(m.version for m in migrations() if m.name == "message_keys")
_INDEXES_OF_IDS = (
    "select array_agg(indexname::text order by 1) from pg_indexes where indexname like 'events_message\\__%'"
)


async def test_a_database_without_events_has_only_the_small_index_of_message_ids(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _at_version(_KEYS - 1, empty_postgres_dsn, monkeypatch)
    await migrate(empty_postgres_dsn)
    assert await empty.fetchval(_INDEXES_OF_IDS) == ["events_message_key"]


async def test_a_database_with_events_keeps_the_index_that_older_servers_use(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages from before the migration are found in the new one, and an interrupted migration is applied again."""
    await _at_version(_KEYS - 1, empty_postgres_dsn, monkeypatch)
    await empty.execute(_AN_EVENT.replace("head, body)", "head, body, message_id)").replace("'', ''", "'', '', 'm'"))
    known = migrations()[:_KEYS]
    monkeypatch.setattr(subject, "migrations", lambda: known)
    for _ in range(2):
        assert len(await migrate(empty_postgres_dsn)) == 1
        assert await empty.fetchval(_INDEXES_OF_IDS) == ["events_message_id", "events_message_key"]
        found = await empty.fetch(WRITE["find_messages"].text, ["t", "t"], ["s", "s"], ["m", "n"])
        assert [(row["place"], row["seq"]) for row in found] == [(1, 1)]
        await empty.execute("delete from schema_versions where version = $1", _KEYS)


async def test_every_table_says_when_vacuum_is_due(empty: asyncpg.Connection, empty_postgres_dsn: str) -> None:
    """Tables of one row, or of a row for a tenant, are exempt."""
    await migrate(empty_postgres_dsn)
    rows = await empty.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and array_to_string(coalesce(reloptions, '{}'), ' ') not like '%autovacuum_vacuum%scale_factor%'"
    )
    assert {row[0] for row in rows} == {
        "encryption_state", "feed_order", "move_marks", "placement", "schema_versions", "search_lease", "service_keys",
        "tenant_homes", "tenant_moves", "usage_lease"
    }  # fmt: skip


_PERIODS = next(m.version for m in migrations() if m.name == "update_periods")
_INDEXES_BY_UPDATE = (
    "select array_agg(indexname::text order by 1) from pg_indexes where indexname like 'session_heads_by_%'"
)
_WRONG_PERIODS = """
select count(*) from session_heads where update_period is distinct from update_period(update_time)
"""
_HEAD_OF_THE_VERSION_BEFORE = """
insert into session_heads (tenant_id, session_id, version, content_version, update_time, user_id, core, limits)
select 't' || i % 2, 's' || i, 1, 0, to_timestamp(1700000000.25 + i), '', '', '' from generate_series(1, $1::int) i
on conflict (tenant_id, session_id) do update
set version = session_heads.version + 1, update_time = session_heads.update_time + $2::interval
"""


async def test_a_database_without_sessions_has_only_the_index_by_periods(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _at_version(_PERIODS - 1, empty_postgres_dsn, monkeypatch)
    await migrate(empty_postgres_dsn)
    assert await empty.fetchval(_INDEXES_BY_UPDATE) == ["session_heads_by_update_period"]


async def test_sessions_from_before_get_their_periods(
    empty_postgres_dsn: str, empty: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted migration is applied again, and servers of the version before find the index that they use."""
    await _at_version(_PERIODS - 1, empty_postgres_dsn, monkeypatch)
    await empty.execute(_HEAD_OF_THE_VERSION_BEFORE, 2500, timedelta())
    known = migrations()[:_PERIODS]
    monkeypatch.setattr(subject, "migrations", lambda: known)
    for _ in range(2):
        assert len(await migrate(empty_postgres_dsn)) == 1
        both = ["session_heads_by_update_period", "session_heads_by_update_time"]
        assert await empty.fetchval(_INDEXES_BY_UPDATE) == both
        assert await empty.fetchval(_WRONG_PERIODS) == 0
        await empty.execute("delete from schema_versions where version = $1", _PERIODS)


@pytest.mark.parametrize("seconds", [0, 3, 59, 60, 1000, -5])
async def test_writes_of_the_version_before_keep_periods_right(postgres_dsn: str, seconds: int) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    for _ in range(3):
        await connection.execute(_HEAD_OF_THE_VERSION_BEFORE, 40, timedelta(seconds=seconds))
        assert await connection.fetchval(_WRONG_PERIODS) == 0
    assert await connection.fetchval("select min(version) from session_heads") == 3
    await connection.close()


async def test_keys_of_messages_are_short_and_differ(postgres_dsn: str) -> None:
    """Two parts of an id never change places, and the keys of a session begin alike."""
    of = ["a", "aa", "ab", "b", "bb", "\\", "\\\\", "\\\\134", "'", "\N{LATIN SMALL LETTER E WITH ACUTE}", "x" * 255]
    connection = await asyncpg.connect(postgres_dsn)
    rows = await connection.fetch(
        "select t, s, message_key(t, s, m) as key, pg_column_size(message_key(t, s, m)) as size"
        " from unnest($1::text[]) t, unnest($1::text[]) s, unnest($1::text[]) m",
        of,
    )
    await connection.close()
    assert len({row["key"] for row in rows}) == len(rows) == len(of) ** 3
    assert {len(row["key"]) for row in rows} == {15}
    starts = {(row["t"], row["s"], row["key"][:3]) for row in rows}
    assert len(starts) == len(of) ** 2


async def test_the_list_of_tables_has_every_table_of_the_schema(postgres_dsn: str) -> None:
    """Rights are checked on the listed tables only, before the service serves."""
    tables = {table for table, *_ in (await catalog(postgres_dsn))["columns"]}
    assert tables == {*TABLES, "schema_versions"}
