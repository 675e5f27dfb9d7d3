"""A blob store whose requests are spans."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

from sessiond_server.blobs.contract import BlobStore, Buffer
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.spans import Span, recorded, within


class TracedBlobs:
    """Implements `contract.BlobStore` on another one."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.pieces = blobs.pieces

    @property
    def segment(self) -> int:
        return self._blobs.segment

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        with within("blob append", {"sessiond.blob.bytes": sum(map(len, data))}, client=True):
            await self._blobs.append(piece, offset, data)

    async def commit(self, piece: Piece) -> None:
        with within("blob commit", {}, client=True):
            await self._blobs.commit(piece)

    async def length(self, piece: Piece) -> int:
        with within("blob length", {}, client=True):
            return await self._blobs.length(piece)

    def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        read = self._blobs.read(piece, start, end)
        call = recorded()
        if call is None:
            return read
        return _read(call.child("blob read", {"sessiond.blob.bytes": end - start}, client=True), read)

    async def delete(self, pieces: Sequence[Piece]) -> None:
        with within("blob delete", {"sessiond.blob.pieces": len(pieces)}, client=True):
            await self._blobs.delete(pieces)


async def _read(span: Span, read: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    error = ""
    try:
        async with aclosing(cast("AsyncGenerator[Buffer, None]", read)) as parts:
            async for data in parts:
                yield data
    except GeneratorExit:
        raise
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        span.end(error)
