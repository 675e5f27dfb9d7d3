"""Removes the bytes of attachments and uploads that are no longer needed: marks rows, removes bytes, removes rows.

Safe on any number of replicas at once, and safe to stop at any moment: the next run continues.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from sessiond_server.blobs.contract import BlobStore
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import Unavailable
from sessiond_server.measures import Rounds
from sessiond_server.store.attachments import AttachmentStore

_log = logging.getLogger("sessiond.reaper")

BATCH: Final = 100
"""Most uploads, blobs or pieces that one transaction handles."""
ORPHAN_INTERVAL: Final = 24 * 3600.0
"""Seconds between two searches for orphaned bytes, each of which lists the whole storage. The first search is delayed
by as much, so that an operator who has restored an older backup by mistake has time to notice."""
ORPHAN_RETRY_INTERVAL: Final = 3600.0
"""Seconds until a failed search is retried."""


async def reap(store: AttachmentStore, blobs: BlobStore) -> int:
    """Removes everything that is due and returns the number of removed pieces. Cancelling loses nothing."""
    while await store.abandon_uploads(BATCH) == BATCH:
        continue
    while await store.release_blobs(BATCH):
        continue
    removed = 0
    while pieces := await store.dropped_pieces(BATCH):
        await blobs.delete(pieces)
        await store.forget_pieces(pieces)
        removed += len(pieces)
    return removed


async def reap_orphans(blobs: BlobStore, *stores: AttachmentStore) -> int:
    """Removes pieces of which none of the stores has a record, and returns their number. `stores`: all that have bytes
    in the storage.

    Normally there are none. They come from a process that was paused in a call for longer than its piece's grace
    period, or from a store that has lost acknowledged commits.
    """
    removed = 0
    found: list[Piece] = []

    async def remove() -> int:
        orphans: Sequence[Piece] = found
        for store in stores:
            orphans = await store.unknown_pieces(orphans)
        await blobs.delete(orphans)
        found.clear()
        return len(orphans)

    async for piece in blobs.pieces():
        found.append(piece)
        if len(found) == BATCH:
            removed += await remove()
    return removed + (await remove() if found else 0)


def counted() -> Rounds:
    """For `run`: counts the rounds, and the pieces that they removed."""
    return Rounds("reaper", "pieces")


async def run(
    store: AttachmentStore,
    blobs: BlobStore,
    interval: float,
    rounds: Rounds | None = None,
    sharing: Sequence[AttachmentStore] | None = (),
) -> None:
    """Reaps every `interval` seconds, orphans every ORPHAN_INTERVAL, until cancelled. An error is logged and does not
    end it.

    `rounds` are those of `counted`. `sharing`: the other stores that have bytes in this storage. None: one of them
    looks for orphans.
    """
    rounds = rounds or counted()
    clock = asyncio.get_running_loop().time
    next_search = clock() + ORPHAN_INTERVAL
    while True:
        began = rounds.begin()
        try:
            removed = await reap(store, blobs)
            if sharing is not None and clock() >= next_search:
                next_search = clock() + ORPHAN_RETRY_INTERVAL
                removed += await reap_orphans(blobs, store, *sharing)
                next_search = clock() + ORPHAN_INTERVAL
            rounds.end(began, removed)
            if removed:
                _log.info("removed %d pieces of attachments without any reference", removed)
        except Unavailable as error:
            rounds.fail()
            _log.warning("cannot reap: %s", error)
        except Exception as error:
            rounds.fail()
            _log.error("reaping failed; trying again in %s s", interval, exc_info=error)
        await asyncio.sleep(interval)
