"""What a blob store is: a place for bytes, without any notion of sessions. Every implementation passes tests/blobs.

Bytes lie in pieces (see `Piece`), which grow at their end until their one writer stops. Which piece belongs to what is
written in the session store before a piece gets its first byte, so that nothing is ever stored that nobody knows.

No method holds more than a few segments in memory. Any raises StorageUnavailable when the storage cannot be reached.
Cancelling `append`, the end of the process in it, or an error leave the outcome unknown: the piece then has all of the
segment, some of its beginning, or nothing. Cancelling anything else abandons it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sessiond_server.domain.attachments.rows import Piece

Buffer = bytes | memoryview
"""Bytes that nobody changes. A view keeps all of what it is a view of: those who wait with one should not wait long."""

READ_BYTES = 256 * 1024
"""Most bytes that `BlobStore.read` gives at a time."""


class BytesMissing(Exception):
    """The piece does not have these bytes: it was deleted, or the storage lost it. No answer of a call by itself."""


class BlobStore(Protocol):
    """Pieces by (tenant, id)."""

    @property
    def segment(self) -> int:
        """Bytes that `append` takes at a time. The same for all time, since pieces are stored by it."""
        ...

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        """Adds `data`, joined, at `offset`, which is where the piece ends; 0 begins it.

        Exactly `segment` bytes, or fewer (at least one) with the last append of the piece. When it returns, the bytes
        survive the end of this process. The piece has one writer: concurrent appends to it are a defect.
        """
        ...

    async def commit(self, piece: Piece) -> None:
        """Returns when every byte that was appended survives the end of this machine, as far as the storage can.

        The piece has bytes. Where it is gone, raises BytesMissing or nothing: not every storage looks.
        """
        ...

    async def length(self, piece: Piece) -> int:
        """Bytes that were appended; 0 for a piece that is not there. What an unknown outcome left counts, or not."""
        ...

    def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        """The bytes from `start` up to before `end`, in order, 1 to READ_BYTES at a time.

        Raises BytesMissing where the piece does not have them all, which may be after some were given. A piece that is
        deleted meanwhile gives the right bytes or BytesMissing, never others. Close the iterator when you leave it.
        """
        ...

    async def delete(self, pieces: Sequence[Piece]) -> None:
        """Removes the pieces, whatever there is of them. Safe to repeat, and for several callers at once."""
        ...

    def pieces(self) -> AsyncIterator[Piece]:
        """All pieces that have bytes, in any order, each once; what comes and goes meanwhile perhaps. Nothing else that
        may lie there."""
        ...
