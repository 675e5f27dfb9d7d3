"""Uploads of attachments."""

import asyncio
import errno
import hashlib
import io
import mimetypes
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, cast

from sessiond.connection import Connection
from sessiond.errors import SessiondError, UploadNotFound, UploadSuperseded
from sessiond.file_names import storable
from sessiond.transfer import CHUNK_BYTES, Patience, Progress, Source, stalled
from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import GetUploadStatusRequest, UploadAttachmentRequest, UploadHeader

_IN_MEMORY = 8 * 1024 * 1024
"""Bytes of an iterator that are kept in memory; more go to a temporary file."""


MOST_NAME = 255
"""Characters of an attachment's name, as the service takes it."""

CALL_KEY = "sessiond-upload-call"


class Upload:
    """One upload, made by as many calls as it takes. Each call's header is `header` with an offset."""

    def __init__(
        self,
        connection: Connection,
        header: UploadHeader,
        content: BinaryIO,
        patience: Patience,
        progress: Progress | None,
        idle_timeout: float,
    ) -> None:
        self._connection = connection
        self._header = header
        self._content = content
        self._patience = patience
        self._progress = progress
        self._idle_timeout = idle_timeout
        self._committed = 0
        self._calls = 0
        """The service's number of the last call of ours that it is known to have accepted; 0 while there is none."""
        self._untold = 0
        """Later calls that the service may have accepted: they ended before they received their number."""

    async def run(self, *, begun: bool) -> Attachment:
        """Uploads and returns the attachment. `begun`: another process may have uploaded a part of it.

        Raises the errors that UploadAttachment documents when another attempt cannot help. After a cancellation, the
        bytes that have arrived can be resumed from.
        """
        ask = begun
        while True:
            try:
                if ask:
                    await self._find_place()
                return await self._attempt()
            except SessiondError as error:
                error.request_id = self._header.request_id
                await self._patience.after(error)
                ask = True

    async def _find_place(self) -> None:
        request = GetUploadStatusRequest(session_id=self._header.session_id, attachment_id=self._header.attachment_id)
        try:
            status = await self._connection.call(self._connection.attachments.GetUploadStatus, request, None)
        except UploadNotFound:
            if self._calls:  # the upload existed: another caller has deleted it
                raise superseded(self._header) from None
            committed = 0
        else:
            if self._calls and status.calls > self._calls + self._untold:
                # Two callers that take the upload from each other would go on for ever.
                raise superseded(self._header)
            # The service refuses an upload that was declared otherwise.
            committed = min(status.committed_bytes, self._header.size_bytes)
        if committed > self._committed:
            self._patience.progressed()
        self._committed = committed

    async def _attempt(self) -> Attachment:
        sending = self._connection.send(lambda stubs: stubs.attachments.UploadAttachment)
        self._untold += 1
        try:
            header = UploadHeader(offset=self._committed)
            header.MergeFrom(self._header)
            place, size = self._committed, header.size_bytes
            await asyncio.to_thread(self._content.seek, place)
            async with asyncio.timeout(self._idle_timeout) as limit:
                taken = await sending.write(UploadAttachmentRequest(header=header))
                # A refusal arrives before any byte is sent; grpc would lose it after them.
                begun = await sending.begun()
                if CALL_KEY in begun:
                    self._calls, self._untold = int(begun[CALL_KEY]), 0
                while taken and place < size:
                    chunk = await asyncio.to_thread(self._content.read, min(CHUNK_BYTES, size - place))
                    if not chunk:  # the file has become shorter, as the service will say
                        break
                    limit.reschedule(asyncio.get_running_loop().time() + self._idle_timeout)
                    taken = await sending.write(UploadAttachmentRequest(chunk=chunk))
                    place += len(chunk)
                    if taken and self._progress is not None:
                        self._progress(place, size)
                limit.reschedule(asyncio.get_running_loop().time() + self._idle_timeout)
                return await sending.answer()
        except TimeoutError:
            raise stalled(self._idle_timeout) from None
        finally:
            self._connection.end(sending)


def superseded(header: UploadHeader) -> UploadSuperseded:
    told = {"session_id": header.session_id, "attachment_id": header.attachment_id}
    return UploadSuperseded(
        "another call goes on with the upload, or it was given up",
        reason="UPLOAD_SUPERSEDED",
        code="ABORTED",
        metadata=told,
    )


@asynccontextmanager
async def opened(source: Source) -> AsyncIterator[tuple[BinaryIO, str]]:
    """Opens the source as a seekable file and yields it with the source's own name. An iterator is read to its end
    first."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if stat.S_ISFIFO(path.stat().st_mode):  # noqa: ASYNC240 - as quick as opening it
            # Opening a pipe blocks the event loop until a writer opens it.
            raise OSError(errno.ESPIPE, "a pipe cannot be uploaded by its path; pass an iterator of bytes", str(path))
        file, name = cast("BinaryIO", path.open("rb")), storable(path.name, MOST_NAME)  # noqa: ASYNC230 - a thread's could leak
    elif isinstance(source, bytes | bytearray | memoryview):
        file, name = io.BytesIO(source), ""
    else:
        file, name = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)), ""  # noqa: SIM115 - closed below
    try:
        if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
            async for piece in source:
                await asyncio.to_thread(file.write, piece)
        yield file, name
    finally:
        file.close()


async def declared(file: BinaryIO) -> tuple[int, bytes]:
    """Reads the file and returns its size in bytes and its SHA-256."""

    def read() -> tuple[int, bytes]:
        file.seek(0)
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
            size += len(chunk)
        return size, digest.digest()

    return await asyncio.to_thread(read)


def media_type_of(name: str) -> str:
    """Guesses the media type from the file name's extension; empty where that is unknown."""
    return mimetypes.guess_type(name)[0] or ""
