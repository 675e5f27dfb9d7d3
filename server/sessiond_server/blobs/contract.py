"""The contract of blob stores, which store bytes and know nothing of sessions. Every implementation passes tests/blobs.

Bytes are stored in pieces (see `Piece`), which grow at their end until their single writer stops. The session store
records each piece before its first byte is written, so that no bytes are ever stored without a record.

No method holds more than a few segments in memory. Every method raises StorageUnavailable if the storage cannot be
reached. If `append` is cancelled or fails, or the process ends in it, the outcome is unknown: the piece then has all of
the segment, a part from its beginning, or nothing of it. Cancelling any other method abandons the call.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sessiond_server.domain.attachments.rows import Piece

Buffer = bytes | memoryview
"""Bytes that must not change. A view keeps its whole underlying buffer in memory, so do not hold one for long."""

READ_BYTES = 256 * 1024
"""Most bytes that `BlobStore.read` yields at a time."""


class BytesMissing(Exception):
    """The piece does not have these bytes: it was deleted, or the storage lost it. Callers turn it into an error of the
    API."""


class BlobStore(Protocol):
    """Stores pieces by (tenant, id)."""

    @property
    def segment(self) -> int:
        """Bytes that `append` takes at a time. It must never change, because stored pieces depend on it."""
        ...

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        """Adds the joined `data` at `offset`, which is the end of the piece; 0 creates the piece.

        `data` has exactly `segment` bytes, or fewer (at least one) in the last append of the piece. Once `append` has
        returned, the bytes survive the end of this process. A piece has one writer: concurrent appends are a defect.
        """
        ...

    async def commit(self, piece: Piece) -> None:
        """Returns once all appended bytes survive a crash of this machine, as far as the storage can ensure that.

        The piece must have bytes. If it is gone, some storages raise BytesMissing, others nothing.
        """
        ...

    async def length(self, piece: Piece) -> int:
        """Number of appended bytes; 0 if there is no such piece. Bytes of an append with unknown outcome may count or
        not."""
        ...

    def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        """The bytes from `start` to `end` (exclusive), in order, 1 to READ_BYTES at a time.

        Raises BytesMissing if the piece does not have all of them, possibly after some were yielded. A piece that is
        deleted meanwhile yields the right bytes or raises BytesMissing. Close the iterator if you leave it early.
        """
        ...

    async def delete(self, pieces: Sequence[Piece]) -> None:
        """Removes everything stored of the pieces. Safe to repeat, and to call concurrently."""
        ...

    def pieces(self) -> AsyncIterator[Piece]:
        """All pieces that have bytes, in any order, each once. Pieces that appear or disappear meanwhile may be
        missing. Other objects in the storage are ignored."""
        ...
