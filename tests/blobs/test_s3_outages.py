"""A storage is killed during uploads, over the wire: the error is typed, no partial attachment is visible, and the
upload resumes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import session_service_pb2 as s
from sessiond_server.blobs.contract import Buffer
from sessiond_server.blobs.objects import ObjectBlobs, opened
from sessiond_server.domain.attachments.rows import Piece
from tests.support import s3
from tests.support.attachments import Site, chunks, noise, site
from tests.support.proxy import Proxy
from tests.support.wire import header

SEGMENT = ObjectBlobs.segment
CONTENT = noise(2 * SEGMENT + 5)


class Way(Proxy):
    """To the storage. Stalls when `until` says so of what is about to go through."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.until: Callable[[bytes], bool] = lambda data: False
        self.stalled = asyncio.Event()

    def _pieces(self, data: bytes) -> Sequence[bytes]:
        if not self.stalled.is_set() and self.until(data):
            self.stall()
            self.stalled.set()
        return [data]


def bytes_passed(count: int) -> Callable[[bytes], bool]:
    passed = 0

    def until(data: bytes) -> bool:
        nonlocal passed
        passed += len(data)
        return passed >= count

    return until


def segment_sent(number: int) -> Callable[[bytes], bool]:
    """The request that stores it is about to go through."""
    return lambda data: f"/{number:08d} ".encode() in data


def segment_answered(number: int) -> Callable[[bytes], bool]:
    """It has been stored, and the answer is about to go through."""
    sent, is_sent = segment_sent(number), False

    def until(data: bytes) -> bool:
        nonlocal is_sent
        is_sent = is_sent or sent(data)
        return is_sent and data.startswith(b"HTTP/1.1 200")

    return until


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3Server]:
    s3.needed()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)
    with s3.running() as server:
        yield server


@asynccontextmanager
async def served(storage: s3.S3Server) -> AsyncIterator[tuple[Site, Way]]:
    """A server, and its way to the storage."""
    way = Way(storage.port)
    async with way:
        blobs = opened(storage.bucket().replace(f"%3A{storage.port}", f"%3A{way.port}"))
        async with site(blobs=blobs) as there:
            yield there, way
            # Once all is given up, nothing is there but what belongs to attachments.
            await there.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
            there.clock.advance(61)
            await there.reap()
            assert [piece async for piece in blobs.pieces()] == []
            assert there.store.attachments._pieces == {}


def kill(storage: s3.S3Server, way: Way) -> None:
    storage.stop()
    way.cut()
    way.flow()


def _asked() -> a.GetUploadStatusRequest:
    return a.GetUploadStatusRequest(session_id="s", attachment_id="a")


async def test_a_storage_that_is_killed_in_the_middle_of_an_append(storage: s3.S3Server) -> None:
    async with served(storage) as (there, way):
        # Half of the second segment arrives at the storage.
        way.until = bytes_passed(SEGMENT * 3 // 2)
        uploading = asyncio.ensure_future(there.failure([header("s", "a", CONTENT), *chunks(CONTENT)]))
        await way.stalled.wait()
        kill(storage, way)
        failure = await uploading
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        away = await there.wire.failure("GetUploadStatus", _asked())
        assert (away.code, away.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        resumed = await there.failure([header("s", "a", CONTENT, offset=SEGMENT), *chunks(CONTENT[SEGMENT:])])
        assert resumed.reason == "STORAGE_UNAVAILABLE"
        listed = await there.wire.call("ListAttachments", a.ListAttachmentsRequest(session_id="s"))
        assert len(listed.attachments) == 0

        await asyncio.to_thread(storage.start)
        committed = (await there.status("s", "a")).committed_bytes
        assert committed == SEGMENT, "a segment is there whole, or not at all"
        await there.upload("s", "a", CONTENT, offset=committed)
        assert (await there.download("s", "a"))[0] == CONTENT


@pytest.mark.parametrize(
    ("until", "stored"), [(segment_sent, 2 * SEGMENT), (segment_answered, len(CONTENT))], ids=["sent", "stored"]
)
async def test_a_storage_that_is_killed_while_an_upload_completes(
    storage: s3.S3Server, until: Callable[[int], Callable[[bytes], bool]], stored: int
) -> None:
    """The last segment is on its way, or its answer, when the client has sent all."""
    async with served(storage) as (there, way):
        way.until = until(2)
        completing = asyncio.ensure_future(there.failure([header("s", "a", CONTENT), *chunks(CONTENT)]))
        await way.stalled.wait()
        kill(storage, way)
        failure = await completing
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        await asyncio.to_thread(storage.start)
        assert (await there.wire.failure("GetAttachment", _attachment())).reason == "ATTACHMENT_NOT_FOUND"
        committed = (await there.status("s", "a")).committed_bytes
        assert committed == stored, "acknowledged or not, what is there counts"
        await there.upload("s", "a", CONTENT, offset=committed)
        assert (await there.download("s", "a"))[0] == CONTENT


async def test_a_storage_that_is_killed_once_all_is_stored(
    storage: s3.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the bytes that it has acknowledged: completing does not need it, and no call reports lost bytes."""
    append, acknowledged = ObjectBlobs.append, asyncio.Semaphore(0)

    async def noted(self: ObjectBlobs, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        await append(self, piece, offset, data)
        acknowledged.release()

    monkeypatch.setattr(ObjectBlobs, "append", noted)
    async with served(storage) as (there, way):
        content, go = CONTENT[: 2 * SEGMENT], asyncio.Event()

        async def messages() -> AsyncIterator[a.UploadAttachmentRequest]:
            yield header("s", "a", content)
            for message in chunks(content):
                yield message
            await go.wait()

        completing = asyncio.ensure_future(there.send(messages()))
        for _ in range(2):
            await acknowledged.acquire()
        kill(storage, way)
        go.set()
        made = await completing
        assert made.size_bytes == len(content)
        download = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
        watch = there.wire.watch("DownloadAttachment", download)
        away = await watch.failure()
        assert (away.code, away.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert await there.wire.call("GetAttachment", _attachment()) == made
        await asyncio.to_thread(storage.start)
        assert (await there.download("s", "a"))[0] == content


def _attachment() -> a.GetAttachmentRequest:
    return a.GetAttachmentRequest(session_id="s", attachment_id="a")
