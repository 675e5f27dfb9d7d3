"""An open transaction that holds feeds back is named."""

import asyncpg
import pytest

from sessiond_server.postgres.feed_holder import PATIENCE, FeedHolders
from sessiond_server.postgres.store import PostgresStore
from tests.support.caller import Caller, accepted


async def test_open_transaction_that_holds_feeds_back_is_named(
    postgres: PostgresStore, database: asyncpg.Connection, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    holders = FeedHolders(postgres._transactions.fetch, lambda: now)
    await database.execute("set application_name = 'nightly export'")
    pid = database.get_server_pid()
    async with database.transaction():
        await database.fetchval("select pg_current_xact_id()")
        await accepted(postgres, caller.create("s"))
        while holders.holder is None or holders.holder.pid != pid:
            await holders.look()  # other tests' transactions, in the same cluster, may be older for a moment
            now += PATIENCE / 4
        assert holders.holder.application == "nightly export"
        assert holders.holder.state == "idle in transaction"
        assert holders.holder.seconds >= PATIENCE
    warned = [record.getMessage() for record in caplog.records if f"process {pid}" in record.getMessage()]
    assert len(warned) == 1
    assert "feeds are held back by an open transaction" in warned[0]
    assert "application 'nightly export'" in warned[0]
    await holders.look()
    assert holders.holder is None


async def test_prepared_transaction_is_named(
    postgres: PostgresStore, database: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    if await database.fetchval("show max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions")
    now = 0.0
    holders = FeedHolders(postgres._transactions.fetch, lambda: now)
    await database.execute("begin; select pg_current_xact_id(); prepare transaction 'left behind'")
    try:
        while holders.holder is None or "left behind" not in holders.holder.application:
            await holders.look()
            now += PATIENCE / 4
    finally:
        await database.execute("rollback prepared 'left behind'")
