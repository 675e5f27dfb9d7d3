"""Receives the bytes of uploads: checks them while they stream, stores them in segments, and resumes at any byte."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
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

_log = logging.getLogger("sessiond.uploads")

ATTEMPTS: Final = 5
"""Times that a call tries to take an upload up while others do the same. Each time one of them has."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Times in seconds."""

    touch: float = 10.0
    """Pause between two signs of life that an upload gives, and by which it learns that another call has taken it up.
    With the pause that clients are allowed, and one append, it must stay below the grace that the stores give to
    writers who do not know yet."""
    appends: int = 8
    """Segments on their way to the storage at the same time, of all uploads. Only those uploads take in the next
    segment meanwhile; for each of these there are up to three in memory, for all others one."""
    kept: int = 64
    """Uploads that were cut whose last bytes wait for the storage. Those of more are dropped: they are sent again."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """The progress of an upload."""

    attachment: Attachment
    """As declared, or as it is."""
    committed_bytes: int
    touch_time_us: int
    """Of its last sign of life; 0 when it is complete."""
    calls: int
    """That have taken it up; 0 when it is complete."""


class Uploads:
    """All uploads that this process receives. Use as an async context: closing it waits for what is being stored."""

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
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Uploads":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._background:
            await asyncio.wait(self._background)

    async def receive(
        self,
        scope: Scope,
        session_id: str,
        declared: Attachment,
        offset: int,
        chunks: AsyncIterator[Buffer],
        complete: Callable[[int], Awaitable[_T]],
        on_taken_up: Callable[[int], Awaitable[None]],
    ) -> _T:
        """Takes the upload up, stores the chunks, and returns what `complete` does, called with the upload's epoch.

        `complete` makes the attachment; it is called with 0 where the id is an attachment's already, before any chunk
        is read. Else `on_taken_up` is called with the epoch first, once chunks may come. Raises what UploadAttachment
        documents. Cancelled, or failed, what has arrived is stored in the background, as far as `kept` allows; it is
        dropped where the upload can never be complete.
        """
        upload = await self._take_up(scope, session_id, declared, offset)
        if upload is None:
            return await complete(0)
        writing = _Writing(self._blobs, upload, declared, self._appending)
        try:
            await on_taken_up(upload.epoch)
            await writing.rehash()
            await self._store_all(writing, chunks)
            await writing.finish()
            return await complete(upload.epoch)
        except (UploadTooLong, ChecksumMismatch, Refused):
            await asyncio.shield(self._run_in_background(self._give_up(scope, writing)))
            raise
        except BytesMissing:
            # A storage that has lost what it had acknowledged: nothing of this upload is worth keeping.
            await asyncio.shield(self._run_in_background(self._give_up(scope, writing)))
            raise ChecksumMismatch(session_id, declared.attachment_id) from None
        except BaseException:
            if len(self._background) >= self._limits.kept:
                writing.drop()
            self._run_in_background(writing.keep())
            raise

    async def state(self, scope: Scope, session_id: str, attachment_id: str) -> UploadState:
        """Where an upload is, complete ones included. Raises SessionNotFound, UploadNotFound."""
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
        """What became of the command that deletes the attachment; None where it was an upload, which is given up."""
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

    async def _take_up(self, scope: Scope, session_id: str, declared: Attachment, offset: int) -> Upload | None:
        """The upload, begun or resumed; None where the id is an attachment's."""
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
                    await self._store.discard_upload(scope, session_id, attachment_id, begun.epoch)
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

    async def _give_up(self, scope: Scope, writing: "_Writing") -> None:
        """Drops what was stored, once nothing more is being stored. What cannot be dropped now goes when it is found to
        be abandoned."""
        upload = writing.upload
        epoch = upload.epoch if await writing.settled() else None
        try:
            await self._store.discard_upload(scope, upload.key[1], upload.attachment_id, epoch)
        except SessiondError as error:
            _log.warning("an upload that failed stays until it is abandoned: %s", error)

    def _run_in_background(self, ending: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(ending)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


class _Writing:
    """One call's part of an upload: a piece that grows by segments, and the checksum of all before and in it.

    Storing goes on in the background, one segment at a time, while the next one arrives.
    """

    def __init__(self, blobs: BlobStore, upload: Upload, declared: Attachment, appending: asyncio.Semaphore) -> None:
        self.upload = upload
        self._blobs = blobs
        self._declared = declared
        self._appending = appending
        self._hash = hashlib.sha256()
        self._position = upload.start
        """In the file: of what has arrived."""
        self._stored = 0
        """In the piece: of what is stored or on its way."""
        self._waiting: list[Buffer] = []
        self._waiting_bytes = 0
        self._storing: asyncio.Task[None] | None = None

    async def rehash(self) -> None:
        """Reads what earlier calls have stored: its checksum cannot be kept anywhere but in their processes.

        Raises BytesMissing.
        """
        for extent in self.upload.extents:
            async for data in self._blobs.read(extent.piece, 0, extent.length):
                await asyncio.to_thread(self._hash.update, data)

    async def add(self, chunk: Buffer) -> None:
        """Takes what arrived. Returns when it may have more: the segment before this one has been stored."""
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
        """Returns when every byte is there, right and safe.

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
        if self._stored:  # else the calls before this one had brought everything
            await self._blobs.commit(self.upload.piece)

    async def settled(self) -> bool:
        """Returns when nothing is being stored: whether all of it was. Cancelling it leaves the storing alone."""
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
        """Returns when nothing is being stored. Raises what came of it, every time: nothing may follow a hole."""
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
