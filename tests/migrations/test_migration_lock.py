"""Concurrent migrations: no lock without need, a bounded wait that names its cause, and no state left in a pooler."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from sessiond_server.postgres.schema.migrate import LOCK, MigrationError, migrate, migrations, status
from tests.support.pgbouncer import PROGRAM, transaction_pooler
from tests.support.serve_process import command, serving
from tests.support.waiting import PATIENCE

LATEST = migrations()[-1].version

_HELD = """
select count(*) from pg_locks
where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"""


@pytest.fixture
async def holder(empty_postgres_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that holds the lock of migrations of `empty_postgres_dsn`."""
    connection = await asyncpg.connect(empty_postgres_dsn, server_settings={"application_name": "the holder"})
    await connection.fetchval("select pg_advisory_lock($1)", LOCK)
    yield connection
    await connection.close()


async def test_migrate_takes_no_lock_when_the_schema_is_current(
    empty_postgres_dsn: str, holder: asyncpg.Connection
) -> None:
    await holder.fetchval("select pg_advisory_unlock($1)", LOCK)
    await migrate(empty_postgres_dsn)
    await holder.fetchval("select pg_advisory_lock($1)", LOCK)
    async with asyncio.timeout(PATIENCE):  # below what a wait for the lock may take
        assert await migrate(empty_postgres_dsn) == ()
        async with serving("--postgres-dsn", empty_postgres_dsn) as server:
            assert await server.stop() == 0


async def test_wait_for_another_migration_is_bounded_and_names_its_holder(
    empty_postgres_dsn: str, holder: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    pid = await holder.fetchval("select pg_backend_pid()")
    with caplog.at_level(logging.WARNING), pytest.raises(MigrationError) as caught:
        await migrate(empty_postgres_dsn, max_wait=0.5)
    assert f"server process {pid} (the holder" in str(caught.value)
    assert f"pg_terminate_backend({pid})" in str(caught.value)
    (said,) = [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]
    assert f"server process {pid} (the holder" in said
    assert (await status(empty_postgres_dsn)).version == 0


async def test_waiting_migration_continues_when_the_holder_is_done(
    empty_postgres_dsn: str, holder: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="sessiond.migrate"):
        waiting = asyncio.create_task(migrate(empty_postgres_dsn))
        async with asyncio.timeout(20):
            while not caplog.records:  # noqa: ASYNC110  # a record sets no event
                await asyncio.sleep(0.01)
    await holder.fetchval("select pg_advisory_unlock($1)", LOCK)
    async with asyncio.timeout(20):
        assert len(await waiting) == LATEST


async def test_migrate_prints_what_it_waits_for(empty_postgres_dsn: str, holder: asyncpg.Connection) -> None:
    refused = await asyncio.to_thread(
        command, "migrate", "--postgres-dsn", empty_postgres_dsn, "--migration-wait", "1s"
    )
    assert refused.returncode == 1
    assert "sessiond: another process migrates this database" in refused.stderr
    assert "waiting for" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(PROGRAM is None, reason="needs pgbouncer")
async def test_behind_a_transaction_pooler_migrations_leave_neither_lock_nor_setting(
    empty_postgres_dsn: str, unused_tcp_port_factory: Callable[[], int]
) -> None:
    """Several migrations run at once, and each transaction gets another connection."""
    async with transaction_pooler(empty_postgres_dsn, unused_tcp_port_factory()) as pooled, asyncio.timeout(60):
        applied = await asyncio.gather(*(migrate(pooled) for _ in range(3)))
        assert sum(map(len, applied)) == LATEST
        assert await migrate(pooled) == ()
        assert (await status(pooled)).ready
        direct = await asyncpg.connect(empty_postgres_dsn)
        assert await direct.fetchval(_HELD) == 0
        await direct.close()
        several = [await asyncpg.connect(pooled, statement_cache_size=0) for _ in range(3)]
        for connection in several:
            await connection.execute("begin")
        for connection in several:
            assert await connection.fetchval("show lock_timeout") == "0"
            await connection.execute("rollback")
            await connection.close()
