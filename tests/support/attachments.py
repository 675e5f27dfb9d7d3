"""A server over stores whose attachments tests can inspect."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import grpc

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import (
    DownloadAttachmentRequest,
    DownloadAttachmentResponse,
    GetUploadStatusRequest,
    UploadAttachmentRequest,
    UploadStatus,
)
from sessiond_server.blobs.reaper import reap, reap_orphans
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.store import MemoryStore
from tests.support.wire import Failure, Wire, header, serving

CHUNK = 100_000


class Clock:
    """Microseconds since 1970, moved by tests."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000_000_000

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


class CountedBlobs(MemoryBlobs):
    """Counts what it holds."""

    @property
    def pieces_held(self) -> int:
        return len(self._segments)

    @property
    def bytes_held(self) -> int:
        return sum(len(segment) for segments in self._segments.values() for segment in segments)


class Site:
    """A server, and what stands behind it."""

    def __init__(self, wire: Wire, store: MemoryStore, blobs: CountedBlobs, clock: Clock) -> None:
        self.wire = wire
        self.store = store
        self.blobs = blobs
        self.clock = clock

    async def upload(self, session_id: str, attachment_id: str, content: bytes, **fields: Any) -> Attachment:
        """All of it in one call, from `offset` on where that is given."""
        first = header(session_id, attachment_id, content, **fields)
        return await self.send([first, *chunks(content[first.header.offset :])])

    async def send(self, messages: Any, **options: Any) -> Attachment:
        """One call with these messages; Failure."""
        return await send(self.wire, messages, **options)

    async def failure(self, messages: Any, **options: Any) -> Failure:
        return await failure(self.wire, messages, **options)

    async def status(self, session_id: str, attachment_id: str) -> UploadStatus:
        request = GetUploadStatusRequest(session_id=session_id, attachment_id=attachment_id)
        answer: UploadStatus = await self.wire.call("GetUploadStatus", request)
        return answer

    async def download(self, session_id: str, attachment_id: str, **fields: Any) -> tuple[bytes, dict[str, Any]]:
        """(bytes, trailing metadata); Failure."""
        request = DownloadAttachmentRequest(session_id=session_id, attachment_id=attachment_id, **fields)
        watch = self.wire.watch("DownloadAttachment", request)
        first: DownloadAttachmentResponse = await watch.read()
        assert first.header.attachment.attachment_id == attachment_id
        data = b""
        while (frame := await watch.read()) is not None:
            assert 1 <= len(frame.chunk) <= 256 * 1024
            data += frame.chunk
        assert len(data) == first.header.length
        return data, dict(await watch.call.trailing_metadata())

    async def reap(self) -> int:
        """What the reaper would remove by now."""
        removed = await reap(self.store.attachments, self.blobs)
        assert await reap_orphans(self.blobs, self.store.attachments) == 0
        return removed


async def send(wire: Wire, messages: Any, **options: Any) -> Attachment:
    """One upload with these messages; Failure."""
    call = wire.open("UploadAttachment", **options)
    writing = asyncio.ensure_future(_write(call, messages))
    try:
        return Attachment.FromString(await call)
    except grpc.aio.AioRpcError as error:
        raise Failure.of(error) from None
    finally:
        writing.cancel()
        await asyncio.wait([writing])


async def failure(wire: Wire, messages: Any, **options: Any) -> Failure:
    """How an upload that must fail does."""
    try:
        answer = await send(wire, messages, **options)
    except Failure as failure:
        return failure
    raise AssertionError(f"the upload succeeded: {answer}")


async def _write(call: Any, messages: Any) -> None:
    """Sends the messages, once the upload was taken up: a call that is refused while it sends may end with an error of
    grpc's own in place of the server's."""
    first = True
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        async for message in _each(messages):
            await call.write(message.SerializeToString())
            if first and "sessiond-upload-call" not in dict(await call.initial_metadata()):
                return
            first = False
        await call.done_writing()


async def _each(messages: Any) -> AsyncIterator[UploadAttachmentRequest]:
    if isinstance(messages, AsyncIterable):
        async for message in messages:
            yield message
    else:
        for message in messages:
            yield message


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    clock, blobs = Clock(), options.pop("blobs", None) or CountedBlobs()
    store = options.pop("store", None) or MemoryStore(clock=clock, **options.pop("store_options", {}))
    async with serving(store, blobs=blobs, **options) as wire:
        await wire.create("s")
        yield Site(wire, store, blobs, clock)


def chunks(content: bytes, size: int = CHUNK) -> Sequence[UploadAttachmentRequest]:
    return [UploadAttachmentRequest(chunk=content[at : at + size]) for at in range(0, len(content), size)]


def noise(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
