"""The sweeper ends due sessions and runs in batches of its own, and survives an outage of the store."""

import asyncio
import logging

import pytest

from sessiond_server import sweeper
from sessiond_server.domain.rows import Head, HeadRow, Writes
from sessiond_server.errors import StoreUnavailable
from sessiond_server.memory.store import MemoryStore


class Due(MemoryStore):
    """A store with so much to end and to remove, away for the first `away` calls."""

    def __init__(self, due: int, old: int, away: int = 0) -> None:
        super().__init__()
        self.due, self.old, self.away = due, old, away
        self.done = asyncio.Event()

    async def expire_due(self, limit: int) -> Writes:
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        count = min(limit, self.due)
        self.due -= count
        head = Head(version=2, user_id="", core=b"", limits=b"", content_version=0)
        row = HeadRow(("t", "s"), head, created=False, update_time_us=0, expire_time_us=None)
        return Writes(heads=[row] * count)

    async def purge(self, limit: int) -> int:
        count = min(limit, self.old)
        self.old -= count
        if not self.old:
            self.done.set()
        return count


@pytest.mark.parametrize("due", [0, 1, sweeper.BATCH, 2 * sweeper.BATCH + 1])
async def test_works_until_nothing_is_due(due: int) -> None:
    store = Due(due, old=sweeper.BATCH + 1)
    assert await sweeper.sweep(store, store) == (due, sweeper.BATCH + 1)
    assert (store.due, store.old) == (0, 0)


async def test_goes_on_after_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    store = Due(1, old=1, away=2)
    with caplog.at_level(logging.INFO, "sessiond.sweeper"):
        task = asyncio.create_task(sweeper.run(store, store, 0.0))
        async with asyncio.timeout(60):
            await store.done.wait()
        task.cancel()
        await asyncio.wait([task])
    assert store.due == 0
    assert [record.levelname for record in caplog.records[:2]] == ["WARNING", "WARNING"]
