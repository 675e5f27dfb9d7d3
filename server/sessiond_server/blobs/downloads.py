"""Reads the bytes of an attachment for a download."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sessiond_server.blobs.contract import BlobStore, Buffer, BytesMissing
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import AttachmentLost
from sessiond_server.store.attachments import AttachmentStore, StoredFile

_log = logging.getLogger("sessiond.downloads")


class Downloads:
    """Reads attachments for one process."""

    def __init__(self, store: AttachmentStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    async def read(
        self, scope: Scope, session_id: str, attachment_id: str, file: StoredFile, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """The bytes of the file from `start` to `end` (exclusive), 1 to READ_BYTES at a time.

        Raises AttachmentNotFound if the attachment was deleted meanwhile, AttachmentLost if it exists and its bytes are
        missing, StorageUnavailable.
        """
        try:
            async with aclosing(_ahead(self._parts(file, start, end))) as parts:
                async for data in parts:
                    yield data
        except BytesMissing as error:
            await self._store.get_attachment(scope, session_id, attachment_id)
            _log.error("the bytes of attachment %r of session %r are lost", attachment_id, session_id)
            raise AttachmentLost(session_id, attachment_id) from error

    async def _parts(self, file: StoredFile, start: int, end: int) -> AsyncGenerator[Buffer, None]:
        at = 0
        for extent in file.extents:
            first, last = max(start - at, 0), min(end - at, extent.length)
            if first < last:
                async for data in self._blobs.read(extent.piece, first, last):
                    yield data
            at += extent.length


async def _ahead(parts: AsyncGenerator[Buffer, None]) -> AsyncGenerator[Buffer, None]:
    """Prefetches the parts: each is read while the one before is sent."""
    loop = asyncio.get_running_loop()
    following = loop.create_task(_next(parts))
    try:
        while (part := await following) is not None:
            following = loop.create_task(_next(parts))
            yield part
            del part
    finally:
        following.cancel()
        await asyncio.wait((following,))
        if not following.cancelled():
            following.exception()  # marks it as retrieved: it was raised already, or the download has ended
        await parts.aclose()


async def _next(parts: AsyncGenerator[Buffer, None]) -> Buffer | None:
    return await anext(parts, None)
