"""What the store says of a real primary's standbys and slots."""

import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessiond_server.postgres.replication import ReplicationWatch
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.condition import Replication
from tests.support.postgres_pair import PostgresPair
from tests.support.waiting import until


@pytest.fixture
async def pair() -> AsyncIterator[PostgresPair]:
    with tempfile.TemporaryDirectory(prefix="sessiond-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        async with PostgresPair(Path(folder, "pair"), durable=False) as pair:
            yield pair


async def test_standby_that_stops_and_a_slot_without_a_reader_are_seen(pair: PostgresPair) -> None:
    async with PostgresStore(pair.primary.dsn) as store, pair.primary.connected() as admin:
        watch = ReplicationWatch(store._transactions.fetch)

        async def looked() -> Replication:
            await watch.look()
            assert watch.found is not None
            return watch.found

        found = await looked()
        assert [(each.state, each.sync_state, each.count) for each in found.standbys] == [("streaming", "async", 1)]
        assert found.slots == []

        async def caught_up() -> bool:
            return (await looked()).standbys[0].bytes == 0

        await until(caught_up)
        async with pair.standby.connected() as standby:
            await standby.execute("select pg_wal_replay_pause()")
            await admin.execute("create table written as select generate_series(1, 10000) as n")

            async def behind() -> bool:
                return ((await looked()).standbys[0].bytes or 0) > 100_000

            await until(behind)
            await standby.execute("select pg_wal_replay_resume()")
        await pair.standby.stop(signal.SIGINT)

        async def gone() -> bool:
            return not (await looked()).standbys

        await until(gone)
        await admin.execute("select pg_create_physical_replication_slot('left_behind', true)")
        await admin.execute("insert into written select generate_series(1, 10000)")
        (slot,) = (await looked()).slots
        assert (slot.active, slot.count) == (False, 1)
        assert slot.bytes > 100_000
        await admin.execute("select pg_drop_replication_slot('left_behind')")
        await pair.primary.stop(signal.SIGQUIT)
        await watch.look()
        assert watch.found is None
        await pair.primary.start()
