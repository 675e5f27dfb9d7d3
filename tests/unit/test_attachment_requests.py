"""What the RPCs of AttachmentService accept: both sides of every bound, and what requests mean."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sessiond.v1.attachment_pb2 import AttachmentType
from sessiond.v1.attachment_service_pb2 import (
    DeleteAttachmentRequest,
    DownloadAttachmentRequest,
    ListAttachmentsRequest,
    UploadAttachmentRequest,
    UploadHeader,
)
from sessiond.v1.run_pb2 import RunFence
from sessiond_server.domain.commands import Fence, Scope
from sessiond_server.errors import InvalidFields, MalformedRequest
from sessiond_server.rpc.attachments import checks as requests

SCOPE = Scope("tenant")
MIB = 1024 * 1024


def header(**fields: Any) -> bytes:
    made = UploadHeader(session_id="s", attachment_id="a", size_bytes=10, sha256=bytes(32))
    for name, value in fields.items():
        setattr(made, name, value)
    return UploadAttachmentRequest(header=made).SerializeToString()


@pytest.mark.parametrize(
    "fields",
    [
        {"size_bytes": 1},
        {"size_bytes": 2**53 - 1},
        {"attachment_id": ""},
        {"attachment_id": "x" * 128},
        {"name": "x" * 255},
        {"name": "../../etc/passwd"},
        {"media_type": "x" * 255},
        {"offset": 10},
        {"type": 5},
        {"request_id": "x" * 128},
    ],
)
def test_headers_within_their_bounds(fields: dict[str, Any]) -> None:
    start = requests.upload_header(header(**fields), SCOPE)
    for name, value in fields.items():
        if value != "":
            assert getattr(start.header, name) == value


def test_what_a_header_declares() -> None:
    start = requests.upload_header(header(name="a.csv", media_type="text/csv", offset=3), SCOPE)
    declared = start.declared
    assert (declared.attachment_id, declared.name, declared.media_type) == ("a", "a.csv", "text/csv")
    assert (declared.size_bytes, declared.sha256, declared.type) == (10, bytes(32), AttachmentType.ATTACHMENT_TYPE_DATA)
    # Of where it goes, and when, it says nothing: the same for every attempt.
    assert (declared.session_id, declared.seq, declared.HasField("create_time")) == ("", 0, False)
    assert start.fence is None


def test_a_type_that_is_given_is_kept() -> None:
    start = requests.upload_header(header(name="a.csv", type=AttachmentType.ATTACHMENT_TYPE_OTHER), SCOPE)
    assert start.declared.type == AttachmentType.ATTACHMENT_TYPE_OTHER


def test_an_id_comes_from_the_request_id_or_is_new() -> None:
    def made(scope: Scope = SCOPE, **fields: Any) -> str:
        start = requests.upload_header(header(attachment_id="", **fields), scope, lambda: "new")
        return start.declared.attachment_id

    assert made() == "new"
    first = made(request_id="r-1")
    assert first not in ("new", "")
    assert made(request_id="r-1", offset=5, name="x") == first
    others = {made(request_id="r-2"), made(request_id="r-1", session_id="t"), made(Scope("other"), request_id="r-1")}
    assert len(others | {first}) == 4


def test_the_fence_of_a_run() -> None:
    message = UploadAttachmentRequest.FromString(header())
    message.header.run.CopyFrom(RunFence(run_id="r", fence=2))
    assert requests.upload_header(message.SerializeToString(), SCOPE).fence == Fence("r", 2)
    delete = DeleteAttachmentRequest(session_id="s", attachment_id="a", run=RunFence(run_id="r", fence=1))
    assert requests.delete_attachment(delete) == Fence("r", 1)


async def chunks(*messages: bytes) -> Sequence[bytes]:
    async def arriving() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    return [bytes(chunk) async for chunk in requests.upload_chunks(arriving(), size_bytes=0)]


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, 2_097_151 // 2, MIB])
async def test_chunks_come_as_they_are(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    message = UploadAttachmentRequest(chunk=data[:size]).SerializeToString()
    assert await chunks(message, message) == [data[:size]] * 2


async def test_a_chunk_beside_unknown_fields_or_sent_twice_is_parsed() -> None:
    plain = UploadAttachmentRequest(chunk=b"abc").SerializeToString()
    unknown = b"\x78\x01"  # field 15, a number
    assert (
        await chunks(plain + unknown, unknown + plain, UploadAttachmentRequest(chunk=b"x").SerializeToString() + plain)
        == [b"abc"] * 3
    )


@pytest.mark.parametrize("data", [b"", bytes(MIB + 1)])
async def test_chunks_beyond_their_bounds(data: bytes) -> None:
    with pytest.raises(InvalidFields) as caught:
        await chunks(UploadAttachmentRequest(chunk=data).SerializeToString())
    assert [violation.field for violation in caught.value.violations] == ["chunk"]


@pytest.mark.parametrize("message", [b"\x12\x05abc", b"\x12", b"\x12\xff\xff\xff\xff\xff\xff", b"\x0f"])
async def test_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(MalformedRequest):
        await chunks(message)
    with pytest.raises(MalformedRequest):
        requests.upload_header(message, SCOPE)


@pytest.mark.parametrize(
    ("offset", "length", "size", "expected"),
    [(0, 0, 10, (0, 10)), (3, 0, 10, (3, 10)), (3, 4, 10, (3, 7)), (3, 100, 10, (3, 10)), (10, 0, 10, (10, 10))],
)
def test_ranges(offset: int, length: int, size: int, expected: tuple[int, int]) -> None:
    request = DownloadAttachmentRequest(session_id="s", attachment_id="a", offset=offset, length=length)
    requests.download_attachment(request)
    assert requests.download_range(request, size) == expected


def test_a_range_that_begins_behind_the_end() -> None:
    request = DownloadAttachmentRequest(session_id="s", attachment_id="a", offset=11)
    with pytest.raises(InvalidFields):
        requests.download_range(request, 10)


@pytest.mark.parametrize(("asked", "limit"), [(0, 20), (1, 1), (100, 100), (101, 100)])
def test_pages(asked: int, limit: int) -> None:
    assert requests.list_attachments(ListAttachmentsRequest(session_id="s", page_size=asked)) == limit


async def test_more_tiny_chunks_than_a_file_may_have_are_refused() -> None:
    assert len(await chunks(*[CHUNK] * requests.SMALL_CHUNKS)) == requests.SMALL_CHUNKS
    with pytest.raises(InvalidFields, match="on the average"):
        await chunks(*[CHUNK] * (requests.SMALL_CHUNKS + 1))


CHUNK = UploadAttachmentRequest(chunk=b"x").SerializeToString()
