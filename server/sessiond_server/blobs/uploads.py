"""Receives the bytes of uploads: checks them while they stream, stores them in segments, and resumes at any byte."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sessiond.v1.attachment_pb2 import Attachment
from sessiond_server.blobs.contract import BlobStore, Buffer, BytesMissing
from sessiond_server.domain import ids
from sessiond_server.domain.attachments.rows import Extent, Piece, Upload
from sessiond_server.domain.commands import Command, Scope
from sessiond_server.errors import (
    AttachmentNotFound,
    ChecksumMismatch,
    Refused,
    SessiondError,
    UploadDeclaredOtherwise,
    UploadIncomplete,
    UploadNotFound,
    UploadOffsetMismatch,
    UploadSuperseded,
    UploadTooLong,
)
from sessiond_server.store.attachments import AttachmentStore
from sessiond_server.tasks import Endings

_log = logging.getLogger("sessiond.uploads")

ATTEMPTS: Final = 5
"""Most times that a call tries to begin or resume an upload while other calls do the same. Each failed attempt means
that another call succeeded."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Bounds of uploads; times in seconds."""

    touch: float = 10.0
    """Interval at which an upload records its activity, and learns whether another call has resumed it. Together with
    the longest pause of clients and the time of one append, it must be shorter than the stores' grace period for
    superseded writers."""
    appends: int = 8
    """Most segments in flight to the storage, of all uploads together. Only uploads with a segment in flight receive
    their next one meanwhile. Such an upload has up to three segments in memory, any other has one."""
    kept: int = 64
    """Most interrupted uploads whose last bytes are still being stored in the background. Beyond that, those bytes are
    dropped, and the client sends them again."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """The progress of an upload."""

    attachment: Attachment
    """The attachment as declared, or as it is once it is complete."""
    committed_bytes: int
    touch_time_us: int
    """Time of the upload's last activity; 0 if it is complete."""
    calls: int
    """Number of calls that have begun or resumed the upload; 0 if it is complete."""


class Uploads:
    """Receives all uploads of this process. Use as an async context manager: leaving it waits for storage to finish."""

    def __init__(
        self,
        store: AttachmentStore,
        blobs: BlobStore,
        limits: UploadLimits | None = None,
        new_id: Callable[[], str] = ids.uuid7,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits or UploadLimits()
        self._new_id = new_id
        self._appending = asyncio.Semaphore(self._limits.appends)
        self._endings = Endings()

    async def __aenter__(self) -> "Uploads":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endings.finished()

    async def receive(
        self,
        scope: Scope,
        session_id: str,
        declared: Attachment,
        offset: int,
        chunks: AsyncIterator[Buffer],
        complete: Callable[[Upload | None], Awaitable[_T]],
        on_taken_up: Callable[[int], Awaitable[None]],
    ) -> _T:
        """Begins or resumes the upload, stores the chunks, and returns the result of `complete(upload)`.

        `complete` creates the attachment. If an attachment already has the id, `complete(None)` is called before any
        chunk is read. Otherwise `on_taken_up(epoch)` is called first, once chunks may arrive. Raises what
        UploadAttachment documents. After cancellation or a failure, bytes that have arrived are stored in the
        background, within the limit `kept`; if the upload can never complete, they are dropped.
        """
        upload = await self._begin_or_resume(scope, session_id, declared, offset)
        if upload is None:
            return await complete(None)
        writing = _Writing(self._blobs, upload, declared, self._appending)
        try:
            await on_taken_up(upload.epoch)
            await writing.rehash()
            await self._store_all(writing, chunks)
            await writing.finish()
            return await complete(upload)
        except (UploadTooLong, ChecksumMismatch, Refused):
            await asyncio.shield(self._endings.begin(self._discard(scope, writing)))
            raise
        except BytesMissing:
            # The storage has lost bytes that it had acknowledged, so this upload is discarded as a whole.
            await asyncio.shield(self._endings.begin(self._discard(scope, writing)))
            raise ChecksumMismatch(session_id, declared.attachment_id) from None
        except BaseException:
            if len(self._endings) >= self._limits.kept:
                writing.drop()
            self._endings.begin(writing.keep())
            raise

    async def state(self, scope: Scope, session_id: str, attachment_id: str) -> UploadState:
        """The progress of an upload, also of a complete one. Raises SessionNotFound, UploadNotFound."""
        upload = await self._store.get_upload(scope, session_id, attachment_id)
        if upload is not None:
            declared = Attachment.FromString(upload.declared)
            return UploadState(declared, await self._committed(upload), upload.touch_time_us, upload.epoch)
        try:
            attachment = await self._store.get_attachment(scope, session_id, attachment_id)
        except AttachmentNotFound:
            raise UploadNotFound(session_id, attachment_id) from None
        complete = Attachment.FromString(attachment)
        return UploadState(complete, complete.size_bytes, 0, 0)

    async def deleted(
        self, command: Command, attachment_id: str, write: Callable[[Command], Awaitable[_T]]
    ) -> _T | None:
        """Executes the command that deletes an attachment and returns its outcome. If the id is that of an unfinished
        upload, discards the upload and returns None."""
        try:
            return await write(command)
        except AttachmentNotFound:
            if not await self._store.discard_upload(command.scope, command.session_id, attachment_id, None):
                raise
            return None

    async def _committed(self, upload: Upload) -> int:
        """How many of the upload's first bytes are stored durably."""
        declared = Attachment.FromString(upload.declared)
        return min(upload.start + await self._blobs.length(upload.piece), declared.size_bytes)

    async def _begin_or_resume(self, scope: Scope, session_id: str, declared: Attachment, offset: int) -> Upload | None:
        """The upload, begun or resumed; None if an attachment has the id."""
        attachment_id = declared.attachment_id
        for _ in range(ATTEMPTS):
            piece = Piece(scope.tenant_id, self._new_id())
            found = await self._store.get_upload(scope, session_id, attachment_id)
            if found is not None:
                if found.declared != declared.SerializeToString():
                    raise UploadDeclaredOtherwise(session_id, attachment_id)
                extents = await self._extents(found, offset)
                if (resumed := await self._store.resume_upload(scope, found, extents, piece)) is not None:
                    return resumed
                continue
            if (begun := await self._store.begin_upload(scope, session_id, declared, piece)) is not None:
                if offset:
                    await self._store.discard_upload(scope, session_id, attachment_id, begun.epoch, begun.blob_id)
                    raise UploadOffsetMismatch(session_id, attachment_id, 0, offset)
                return begun
            if await self._store.get_upload(scope, session_id, attachment_id) is None:
                return None
        raise UploadSuperseded(session_id, attachment_id)

    async def _extents(self, upload: Upload, offset: int) -> Sequence[Extent]:
        """The extents of the first `offset` bytes. Raises UploadOffsetMismatch if fewer bytes are stored."""
        committed = await self._committed(upload)
        if offset > committed:
            raise UploadOffsetMismatch(upload.key[1], upload.attachment_id, committed, offset)
        extents: list[Extent] = []
        for extent in (*upload.extents, Extent(upload.piece, committed - upload.start)):
            length = min(extent.length, offset)
            if length:
                extents.append(Extent(extent.piece, length))
                offset -= length
        return extents

    async def _store_all(self, writing: "_Writing", chunks: AsyncIterator[Buffer]) -> None:
        clock = asyncio.get_running_loop().time
        touched = clock()
        async for chunk in chunks:
            await writing.add(chunk)
            del chunk
            if clock() - touched >= self._limits.touch:
                if not await self._store.touch_upload(writing.upload):
                    raise UploadSuperseded(writing.upload.key[1], writing.upload.attachment_id)
                touched = clock()

    async def _discard(self, scope: Scope, writing: "_Writing") -> None:
        """Discards the upload once no segment is in flight. If that fails, the upload is removed later as abandoned."""
        upload = writing.upload
        epoch = upload.epoch if await writing.settled() else None
        try:
            await self._store.discard_upload(scope, upload.key[1], upload.attachment_id, epoch, upload.blob_id)
        except SessiondError as error:
            _log.warning("cannot discard a failed upload now; it will be removed as abandoned: %s", error)


class _Writing:
    """One call's part of an upload: a piece that grows by segments, and the checksum of the file up to its end.

    Segments are stored in the background, one at a time, while the next one arrives.
    """

    def __init__(self, blobs: BlobStore, upload: Upload, declared: Attachment, appending: asyncio.Semaphore) -> None:
        self.upload = upload
        self._blobs = blobs
        self._declared = declared
        self._appending = appending
        self._hash = hashlib.sha256()
        self._position = upload.start
        """End of the received bytes, as an offset in the file."""
        self._stored = 0
        """End of the bytes that are stored or in flight, as an offset in the piece."""
        self._waiting: list[Buffer] = []
        self._waiting_bytes = 0
        self._storing: asyncio.Task[None] | None = None

    async def rehash(self) -> None:
        """Reads the bytes that earlier calls have stored into the checksum, whose state cannot be stored.

        Raises BytesMissing.
        """
        for extent in self.upload.extents:
            async for data in self._blobs.read(extent.piece, 0, extent.length):
                await asyncio.to_thread(self._hash.update, data)

    async def add(self, chunk: Buffer) -> None:
        """Adds received bytes. Waits, whenever a segment is full, until the previous segment has been stored."""
        size = self._declared.size_bytes
        if self._position + len(chunk) > size:
            raise UploadTooLong(size)
        self._position += len(chunk)
        while self._waiting_bytes + len(chunk) >= self._blobs.segment:
            room = self._blobs.segment - self._waiting_bytes
            self._waiting.append(chunk[:room])
            chunk = chunk[room:]
            await self._store_waiting()
        if chunk:
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk)

    async def finish(self) -> None:
        """Stores the last bytes, and returns once the file is complete, its checksum is right, and it is durable.

        Raises UploadIncomplete, ChecksumMismatch, BytesMissing.
        """
        if self._waiting:
            await self._store_waiting()
        await self._settle()
        size = self._declared.size_bytes
        if self._position < size:
            raise UploadIncomplete(size, self._position)
        if self._hash.digest() != self._declared.sha256:
            raise ChecksumMismatch(self.upload.key[1], self.upload.attachment_id)
        for extent in self.upload.extents:
            await self._blobs.commit(extent.piece)
        if self._stored:  # otherwise earlier calls had stored everything
            await self._blobs.commit(self.upload.piece)

    async def settled(self) -> bool:
        """Waits until no segment is in flight; returns whether the last one was stored. Cancelling does not stop it."""
        if self._storing is None:
            return True
        await asyncio.wait((self._storing,))
        return not self._storing.cancelled() and self._storing.exception() is None

    def drop(self) -> None:
        """Drops received bytes that are not being stored."""
        self._waiting, self._waiting_bytes = [], 0

    async def keep(self) -> None:
        """Stores the received bytes as far as possible, for a call that resumes the upload."""
        try:
            if self._waiting and await self.settled():
                await self._store_waiting()
            await self._settle()
        except (SessiondError, BytesMissing) as error:
            _log.debug("the last bytes of an upload were not stored: %s", error)

    async def _settle(self) -> None:
        """Waits until no segment is in flight. Raises the error of the last segment, every time: no segment may follow
        one that is missing."""
        if self._storing is not None:
            await asyncio.wait((self._storing,))
            self._storing.result()

    async def _store_waiting(self) -> None:
        await self._settle()
        await self._appending.acquire()
        segment, self._waiting, self._waiting_bytes = self._waiting, [], 0
        offset = self._stored
        self._stored += sum(map(len, segment))
        self._storing = asyncio.get_running_loop().create_task(self._store(offset, segment))

    async def _store(self, offset: int, segment: list[Buffer]) -> None:
        hashing = asyncio.get_running_loop().run_in_executor(None, _update, self._hash, segment)
        try:
            await self._blobs.append(self.upload.piece, offset, segment)
        finally:
            self._appending.release()
            await hashing


def _update(digest: "hashlib._Hash", parts: Sequence[Buffer]) -> None:
    for part in parts:
        digest.update(part)
