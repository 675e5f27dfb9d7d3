"""The reaper survives an outage of the storage and catches up soon afterwards."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any
from uuid import uuid4

import pytest

from sessiond_server.blobs import reaper
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable, StoreUnavailable
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.store import MemoryStore
from tests.support import virtual_time

HOUR = 3600.0


class Storage(MemoryBlobs):
    """Fails while `error` is set; notes when all of it was listed."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.searched: list[float] = []
        self.deleting = 0

    async def delete(self, pieces: Sequence[Piece]) -> None:
        self.deleting += 1
        if self.error is not None:
            raise self.error
        await super().delete(pieces)

    async def pieces(self) -> AsyncIterator[Piece]:
        self.searched.append(asyncio.get_running_loop().time())
        if self.error is not None:
            raise self.error
        async for piece in super().pieces():
            yield piece

    async def stray(self) -> Piece:
        """Bytes that no store knows."""
        piece = Piece("acme", str(uuid4()))
        await self.append(piece, 0, [b"stray"])
        return piece


def reaping(test: Callable[[Storage, MemoryStore], Coroutine[Any, Any, None]]) -> None:
    """Runs the test beside a reaper, on a loop whose clock jumps."""

    async def beside() -> None:
        storage, store = Storage(), MemoryStore()
        task = asyncio.create_task(reaper.run(store.attachments, storage, 5.0))
        await test(storage, store)
        assert not task.done()

    virtual_time.run(beside())


@pytest.mark.parametrize("error", [StorageUnavailable(), RuntimeError("a defect")])
def test_goes_on_when_the_storage_was_away(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def test(storage: Storage, store: MemoryStore) -> None:
        piece = await storage.stray()
        store.attachments._pieces[piece] = 0  # dropped long ago
        storage.error = error
        await asyncio.sleep(6.0)
        assert storage.deleting > 0
        assert await storage.length(piece) > 0
        assert piece in store.attachments._pieces, "a piece is forgotten after its bytes"
        storage.error = None
        await asyncio.sleep(5.0)
        assert await storage.length(piece) == 0
        assert store.attachments._pieces == {}

    with caplog.at_level(logging.WARNING, "sessiond.reaper"):
        reaping(test)
    assert {record.levelname for record in caplog.records} == {
        "WARNING" if isinstance(error, StorageUnavailable) else "ERROR"
    }


def test_strays_are_searched_for_once_a_day() -> None:
    async def test(storage: Storage, store: MemoryStore) -> None:
        stray = await storage.stray()
        await asyncio.sleep(23 * HOUR)
        assert await storage.length(stray) > 0
        await asyncio.sleep(50 * HOUR)
        assert await storage.length(stray) == 0
        assert [time // (24 * HOUR) for time in storage.searched] == [1, 2, 3]

    reaping(test)


def test_a_search_that_failed_is_begun_anew_within_the_hour() -> None:
    async def test(storage: Storage, store: MemoryStore) -> None:
        stray = await storage.stray()
        storage.error = StorageUnavailable()
        await asyncio.sleep(26.5 * HOUR)
        assert len(storage.searched) == 3, "each lists the whole storage"
        storage.error = None
        await asyncio.sleep(HOUR)
        assert await storage.length(stray) == 0
        assert len(storage.searched) == 4
        await asyncio.sleep(23 * HOUR)
        assert len(storage.searched) == 4

    reaping(test)


async def test_pieces_of_another_database_in_one_storage_are_no_strays() -> None:
    """Mutant: the reaper of one database asks its own store alone."""
    storage, one, other = Storage(), MemoryStore(), MemoryStore()
    stray, in_one, in_other = [await storage.stray() for _ in range(3)]
    one.attachments._pieces[in_one] = other.attachments._pieces[in_other] = 0
    assert await reaper.reap_orphans(storage, one.attachments, other.attachments) == 1
    assert [await storage.length(piece) > 0 for piece in (stray, in_one, in_other)] == [False, True, True]


async def test_no_stray_is_removed_while_one_of_the_databases_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, one, other = Storage(), MemoryStore(), MemoryStore()
    stray = await storage.stray()

    async def away(_: Sequence[Piece]) -> Sequence[Piece]:
        raise StoreUnavailable

    monkeypatch.setattr(other.attachments, "unknown_pieces", away)
    with pytest.raises(StoreUnavailable):
        await reaper.reap_orphans(storage, one.attachments, other.attachments)
    assert await storage.length(stray) > 0
