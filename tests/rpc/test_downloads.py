"""Downloads over the wire: any part of an attachment, and typed ends where the bytes are gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import session_service_pb2 as s
from sessiond_server.blobs.contract import Buffer
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable
from tests.support.attachments import CountedBlobs, Site, noise, sha256, site
from tests.support.waiting import until
from tests.support.wire import serving

SEGMENT = CountedBlobs.segment


@pytest.fixture
async def there() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 1), (1, 0), (1, 1), (SEGMENT - 1, 2), (SEGMENT, SEGMENT), (5, 2 * SEGMENT), (0, 10**9)],
)
async def test_any_range_is_downloaded(there: Site, offset: int, length: int) -> None:
    content = noise(3 * SEGMENT + 99)
    await there.upload("s", "a", content)
    data, trailers = await there.download("s", "a", offset=offset, length=length)
    assert data == content[offset : offset + length if length else None]
    assert trailers["sessiond-sha256"] == sha256(content)


async def test_a_download_goes_on_at_the_end_of_the_last_one(there: Site) -> None:
    content = noise(2 * SEGMENT + 7)
    await there.upload("s", "a", content)
    data = b""
    while len(data) < len(content):
        data += (await there.download("s", "a", offset=len(data), length=200_000))[0]
    assert data == content
    assert await there.download("s", "a", offset=len(content)) == (b"", {"sessiond-sha256": sha256(content)})


@pytest.mark.parametrize("fields", [{"offset": -1}, {"length": -1}, {"offset": 8}])
async def test_invalid_ranges_are_refused(there: Site, fields: dict[str, int]) -> None:
    await there.upload("s", "a", b"content")
    request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a", **fields)
    failure = await there.wire.failure("DownloadAttachment", request)
    assert (failure.reason, list(failure.violations)) == ("INVALID_FIELD", list(fields))


async def test_both_ids_are_echoed_in_the_trailers(there: Site) -> None:
    await there.upload("s", "a", b"content")
    request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
    watch = there.wire.watch("DownloadAttachment", request, metadata=(("x-request-id", "call-1"),))
    while await watch.read() is not None:
        continue
    trailers = dict(await watch.call.trailing_metadata())
    assert trailers == {"x-request-id": "call-1", "sessiond-sha256": sha256(b"content")}


async def test_an_ended_session_is_still_read(there: Site) -> None:
    await there.upload("s", "a", b"content")
    await there.wire.call("EndSession", s.EndSessionRequest(session_id="s"))
    assert (await there.download("s", "a"))[0] == b"content"


class Gated(CountedBlobs):
    """Reads wait before each part, and may find the storage gone."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.fails = False

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        async for data in super().read(piece, start, end):
            yield data
            await self.go.wait()
            if self.fails:
                raise StorageUnavailable


@pytest.mark.parametrize("session", [False, True])
async def test_deletion_during_a_download_is_reported(session: bool) -> None:
    blobs = Gated()
    async with site(blobs=blobs) as there:
        await there.upload("s", "a", noise(3 * SEGMENT))
        watch = there.wire.watch("DownloadAttachment", a.DownloadAttachmentRequest(session_id="s", attachment_id="a"))
        await watch.read()
        assert len((await watch.read()).chunk) == SEGMENT
        if session:
            await there.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
        else:
            await there.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id="a"))
        await there.reap()
        assert blobs.bytes_held == 0
        blobs.go.set()
        failure = await watch.failure()
    assert failure.code is StatusCode.NOT_FOUND
    assert failure.reason == ("SESSION_NOT_FOUND" if session else "ATTACHMENT_NOT_FOUND")
    assert "sessiond-sha256" not in failure.trailers


async def test_lost_bytes_are_reported(there: Site) -> None:
    await there.upload("s", "a", noise(2 * SEGMENT))
    await there.blobs.delete([piece async for piece in there.blobs.pieces()])
    request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
    failure = await there.wire.watch("DownloadAttachment", request).failure()
    assert (failure.code, failure.reason) == (StatusCode.DATA_LOSS, "ATTACHMENT_LOST")
    assert failure.metadata == {"session_id": "s", "attachment_id": "a"}


async def test_a_storage_out_of_reach_is_unavailable() -> None:
    blobs = Gated()
    blobs.fails = True
    blobs.go.set()
    async with site(blobs=blobs) as there:
        await there.upload("s", "a", noise(2 * SEGMENT))
        request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
        failure = await there.wire.watch("DownloadAttachment", request).failure()
    assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


async def test_client_that_does_not_read_is_disconnected_and_frees_its_place() -> None:
    content = noise(32 * 1024 * 1024)
    request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
    async with site() as patient:
        await patient.upload("s", "a", content)
        async with serving(
            patient.store, blobs=patient.blobs, transfer_idle=0.3, most_transfers=1, watch_write_timeout=0.3
        ) as wire:
            watch = wire.watch("DownloadAttachment", request)
            await until(lambda: wire.server.calls == 1)
            await until(lambda: wire.server.calls == 0)
            assert (await wire.call("DownloadAttachment", request)).header.length == len(content)
            watch.cancel()


async def test_attachments_are_listed_page_by_page(there: Site) -> None:
    made = [await there.upload("s", f"a{number}", b"%d" % number) for number in range(5)]
    await there.wire.create("t")
    await there.upload("t", "other", b"other")
    found, token = [], ""
    while True:
        request = a.ListAttachmentsRequest(session_id="s", page_size=2, page_token=token)
        page = await there.wire.call("ListAttachments", request)
        assert page.version == 6
        found += page.attachments
        if not (token := page.next_page_token):
            break
        foreign = a.ListAttachmentsRequest(session_id="t", page_token=token)
        assert (await there.wire.failure("ListAttachments", foreign)).reason == "INVALID_PAGE_TOKEN"
    assert found == made
    request = a.ListAttachmentsRequest(session_id="s", page_size=1000)
    assert len((await there.wire.call("ListAttachments", request)).attachments) == 5
    failure = await there.wire.failure("ListAttachments", a.ListAttachmentsRequest(session_id="s", page_size=-1))
    assert list(failure.violations) == ["page_size"]
