"""Blobs in the memory of this process, for tests and `--store memory`."""

from collections.abc import AsyncIterator, Sequence

from sessiond_server.blobs.contract import READ_BYTES, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece


class MemoryBlobs:
    """A BlobStore (see contract.py)."""

    segment = 256 * 1024

    def __init__(self) -> None:
        self._segments: dict[Piece, list[bytes]] = {}

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        self._segments.setdefault(piece, []).append(b"".join(data))

    async def commit(self, piece: Piece) -> None:
        """Does nothing: the bytes do not survive the process."""

    async def length(self, piece: Piece) -> int:
        return sum(map(len, self._segments.get(piece, ())))

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        while start < end:
            segments = self._segments.get(piece, ())
            number, within = divmod(start, self.segment)
            if number >= len(segments) or within >= len(segments[number]):
                raise BytesMissing
            data = segments[number][within : within + min(end - start, READ_BYTES)]
            start += len(data)
            yield data

    async def delete(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._segments.pop(piece, None)

    async def pieces(self) -> AsyncIterator[Piece]:
        for piece in list(self._segments):
            yield piece
