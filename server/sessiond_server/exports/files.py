"""The attachments of an import while they arrive: stored in pieces, each a place at which the import can be resumed."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond_server.blobs.contract import READ_BYTES, BlobStore, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.domain.imports.log import Broken
from sessiond_server.domain.imports.rows import Arrived, Import, ImportedFile, StagedPiece
from sessiond_server.errors import ImportSuperseded
from sessiond_server.store.imports import ImportStore

PIECE_BYTES: Final = 16 * 1024 * 1024
"""Bytes after which a piece ends: a cut costs as many at most. 32 segments of half a MiB."""


class ArrivingFiles:
    """One call's part of the attachments. At most a segment and a chunk of their bytes are in memory."""

    def __init__(self, store: ImportStore, blobs: BlobStore, taken: Import, new_id: Callable[[], str]) -> None:
        self._store = store
        self._blobs = blobs
        self._taken = taken
        self._new_id = new_id
        self._expected: Sequence[ImportedFile] = ()
        self._number = -1
        """The attachment that arrives; -1 before the first."""
        self._offset = 0
        self._hash = hashlib.sha256()
        self._piece: Piece | None = None
        self._start = self._stored = 0
        """Where the piece begins in the attachment, and how many bytes of it were appended."""
        self._waiting: list[Buffer] = []
        self._waiting_bytes = 0
        self.line: int | None = None
        """The last record that is stored, if this call has stored bytes."""

    def expect(self, files: Sequence[ImportedFile]) -> None:
        """Says which attachments come, in their order."""
        self._expected = files

    async def recall(self, arrived: Arrived) -> None:
        """Goes on behind what earlier calls have stored."""
        if not arrived.attachment_seq:
            return
        self._number = next(n for n, file in enumerate(self._expected) if file.seq == arrived.attachment_seq)
        self._offset = sum(extent.length for extent in self._taken.extents)
        if self._offset != arrived.offset:
            raise self._superseded()
        if self._offset < self._file.size_bytes:
            for extent in self._taken.extents:
                try:
                    async for data in self._blobs.read(extent.piece, 0, extent.length):
                        await asyncio.to_thread(self._hash.update, data)
                except BytesMissing:
                    raise self._superseded() from None

    async def begin(self, attachment: Attachment, arrived: Arrived) -> None:
        """Takes the record that begins an attachment."""
        self._check_whole()
        self._number += 1
        attachment.session_id = self._taken.start.key[1]
        if self._number >= len(self._expected) or attachment != Attachment.FromString(self._file.body):
            raise Broken("attachment must be the next one of the session, as the events have it")
        self._offset, self._hash = 0, hashlib.sha256()
        if not self._file.size_bytes:
            self._verify()

    async def add(self, chunk: bytes, arrived: Arrived) -> None:
        """Takes the next bytes. Raises ImportSuperseded, StorageUnavailable."""
        if self._number < 0 or self._offset + len(chunk) > self._file.size_bytes:
            raise Broken("chunk must be bytes of the attachment before it, within its size_bytes")
        if not 0 < len(chunk) <= READ_BYTES:
            raise Broken(f"chunk must be 1 to {READ_BYTES} bytes")
        if self._piece is None:
            await self._begin_piece()
        self._offset += len(chunk)
        self._hash.update(chunk)
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= self._blobs.segment:
            await self._append(whole=True)
        complete = self._offset == self._file.size_bytes
        if complete:
            self._verify()
        if complete or self._offset - self._start >= PIECE_BYTES:
            await self._end_piece(arrived)

    def check_complete(self) -> None:
        """Raises Broken unless all bytes of all attachments have arrived."""
        self._check_whole()
        if self._number + 1 < len(self._expected):
            raise Broken("end must come behind all attachments")

    @property
    def _file(self) -> ImportedFile:
        return self._expected[self._number]

    def _check_whole(self) -> None:
        if self._number >= 0 and self._offset < self._file.size_bytes:
            raise Broken("record must be a chunk: bytes of the attachment are missing")

    def _verify(self) -> None:
        if self._hash.digest() != self._file.sha256:
            raise Broken("the attachment that ends here does not have its sha256")

    async def _begin_piece(self) -> None:
        piece = Piece(self._taken.start.key[0], self._new_id())
        if not await self._store.begin_piece(self._taken, self._file.attachment_id, piece, self._offset):
            raise self._superseded()
        self._piece, self._start, self._stored = piece, self._offset, 0

    async def _append(self, *, whole: bool) -> None:
        """Stores the waiting bytes; with `whole`, whole segments only."""
        assert self._piece is not None
        segment, data = self._blobs.segment, memoryview(b"".join(self._waiting))
        size = len(data) // segment * segment if whole else len(data)
        for start in range(0, size, segment):
            part = data[start : min(start + segment, size)]
            await self._blobs.append(self._piece, self._stored, [part])
            self._stored += len(part)
        self._waiting = [bytes(data[size:])] if size < len(data) else []
        self._waiting_bytes = len(data) - size

    async def _end_piece(self, arrived: Arrived) -> None:
        assert self._piece is not None
        if self._waiting:
            await self._append(whole=False)
        await self._blobs.commit(self._piece)
        piece = StagedPiece(self._file.attachment_id, self._piece.piece_id, self._start, self._stored)
        arrived = replace(arrived, attachment_seq=self._file.seq, offset=self._offset)
        if not await self._store.end_piece(self._taken, piece, arrived):
            raise self._superseded()
        self._piece, self.line = None, arrived.line

    def _superseded(self) -> ImportSuperseded:
        return ImportSuperseded(self._taken.start.key[1])
