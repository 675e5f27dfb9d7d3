"""Downloads of attachments."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from sessiond.connection import Connection
from sessiond.errors import ChecksumMismatch, InvalidFields, SessiondError, Unavailable
from sessiond.file_names import beside
from sessiond.streams import Stream
from sessiond.transfer import Patience, Progress, stalled
from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import DownloadAttachmentRequest, DownloadAttachmentResponse, DownloadHeader

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

END_SECONDS: Final = 1.0
"""How long a call whose bytes are all here may take to end."""


class Download:
    """A download of an attachment's bytes; see `Client.download`. It begins when it is read, in one of three ways:

        content = await client.download(session_id, attachment_id).read()
        attachment = await client.download(session_id, attachment_id).save(path)
        async for chunk in client.download(session_id, attachment_id): ...

    When a connection breaks, the download resumes on another one at the next byte. The SHA-256 of a whole attachment is
    verified, and the end raises ChecksumMismatch if it differs; a part cannot be verified. A download is read once, by
    one task. A reader that stops early calls `aclose`, or uses the download as a context manager.
    """

    def __init__(
        self,
        connection: Connection,
        request: DownloadAttachmentRequest,
        patience: Callable[[], Patience],
        progress: Progress | None,
        idle_timeout: float,
    ) -> None:
        self._connection = connection
        self._request = request
        self._patience = patience
        self._progress = progress
        self._idle_timeout = idle_timeout
        self._chunks: AsyncIterator[bytes] | None = None
        self._attachment: Attachment | None = None
        self._stream: Stream[DownloadAttachmentResponse] | None = None
        self._digest = hashlib.sha256()
        self._whole = not (request.offset or request.length)

    @property
    def attachment(self) -> Attachment | None:
        """The attachment that is read; None before the first chunk."""
        return self._attachment

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of 1 byte to 256 KiB."""
        if self._chunks is None:
            self._chunks = self._read()
        return self._chunks

    async def read(self) -> bytes:
        """Reads all bytes into memory. Raises AttachmentNotFound, AttachmentLost, ChecksumMismatch."""
        return b"".join([chunk async for chunk in self])

    async def save(self, path: "str | os.PathLike[str]") -> Attachment:
        """Saves a whole attachment to a file, which appears when it is complete and replaces an existing file.

        Until then its bytes are in a file beside it, whose name ends in `.part`. The next call with the same path, in
        any process, resumes where this one stopped. Raises AttachmentNotFound, AttachmentLost, ChecksumMismatch;
        OSError of the file, BlockingIOError while another call saves the same attachment to the same path; ValueError
        for a part of an attachment.
        """
        if not self._whole:
            raise ValueError("save: takes a whole attachment")
        target = Path(path)
        mark = hashlib.sha256(f"{self._request.session_id}\0{self._request.attachment_id}".encode()).hexdigest()[:16]
        part = beside(target, f".{mark}.part")
        file = reserved(part)
        try:
            self._request.offset = await asyncio.to_thread(_recall, file, self._digest)
            try:
                async for chunk in self:
                    await asyncio.to_thread(file.write, chunk)
            except (ChecksumMismatch, InvalidFields):
                # The bytes of the file are not the beginning of this attachment.
                part.unlink(missing_ok=True)
                raise
            await asyncio.to_thread(flushed, file)
            if fcntl is not None:
                # The lock is still held: another `save` to this path must not find the complete file before it moves.
                await asyncio.to_thread(os.replace, part, target)
        finally:
            file.close()
        if fcntl is None:  # Windows cannot move a file that is open
            await asyncio.to_thread(os.replace, part, target)
        assert self._attachment is not None
        return self._attachment

    async def aclose(self) -> None:
        """Cancels the call. Idempotent."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._connection.end(stream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _read(self) -> AsyncIterator[bytes]:
        patience = self._patience()
        place, end = self._request.offset, -1
        try:
            while place != end:
                try:
                    if self._stream is None:
                        header = await self._open(place, end)
                        end = header.offset + header.length
                        continue
                    chunk = await self._next(self._stream)
                except SessiondError as error:
                    await self.aclose()
                    await patience.after(error)
                    continue
                patience.progressed()
                self._digest.update(chunk)
                place += len(chunk)
                if self._progress is not None:
                    self._progress(place, end)
                yield chunk
            if self._stream is not None:
                await _ended(self._stream)
            self._verify(end)
        finally:
            await self.aclose()

    async def _open(self, place: int, end: int) -> DownloadHeader:
        request = DownloadAttachmentRequest()
        request.CopyFrom(self._request)
        request.offset = place
        if request.length:
            request.length = self._request.offset + self._request.length - place
        self._stream = self._connection.receive(lambda stubs: stubs.attachments.DownloadAttachment, request)
        header = (await self._response(self._stream)).header
        self._attachment = header.attachment
        return header

    async def _next(self, stream: Stream[DownloadAttachmentResponse]) -> bytes:
        return (await self._response(stream)).chunk

    async def _response(self, stream: Stream[DownloadAttachmentResponse]) -> DownloadAttachmentResponse:
        try:
            async with asyncio.timeout(self._idle_timeout):
                response = await stream.read()
        except TimeoutError:
            raise stalled(self._idle_timeout) from None
        if response is None:
            raise Unavailable("the stream ended early", code="UNAVAILABLE")
        return response

    def _verify(self, end: int) -> None:
        attachment = self._attachment
        assert attachment is not None
        if self._whole and end == attachment.size_bytes and self._digest.digest() != attachment.sha256:
            raise ChecksumMismatch(
                "what was received has another SHA-256",
                reason="CHECKSUM_MISMATCH",
                code="DATA_LOSS",
                metadata={"session_id": attachment.session_id, "attachment_id": attachment.attachment_id},
            )


async def _ended(stream: Stream[DownloadAttachmentResponse]) -> None:
    """Lets a call whose bytes are all here end by itself: else its server counts it as cancelled, and may not count its
    last bytes. How it ends does not matter any more."""
    with suppress(TimeoutError, SessiondError):
        async with asyncio.timeout(END_SECONDS):
            await stream.read()


def reserved(path: Path) -> BinaryIO:
    """Opens the file and locks it until it is closed, so that two callers do not mix their bytes. Raises
    BlockingIOError."""
    while True:
        file = path.open("a+b")
        try:
            if _is_ours(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _is_ours(file: BinaryIO, path: Path) -> bool:
    """Locks the file, where the system has locks, and returns whether it still has its name: its last user may have
    moved it since it was opened. Raises BlockingIOError."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _recall(file: BinaryIO, digest: "hashlib._Hash") -> int:
    """Feeds the bytes that an earlier call left to the digest, and returns their number."""
    file.seek(0)
    size = 0
    while chunk := file.read(1024 * 1024):
        digest.update(chunk)
        size += len(chunk)
    return size


def flushed(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
