"""Uploads over the wire: bytes are stored unchanged, faults are reported, and failed uploads leave nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.attachment_pb2 import Attachment, AttachmentType
from sessiond.v1.run_pb2 import RunFence
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.blobs.uploads import UploadLimits
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import StorageUnavailable
from tests.support.attachments import CHUNK, CountedBlobs, Site, chunks, noise, sha256, site
from tests.support.waiting import until
from tests.support.wire import Failure, header

SEGMENT = CountedBlobs.segment
INVALID = StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def there() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


async def core(there: Site, session_id: str = "s") -> Session:
    answer: Session = await there.wire.call("GetSession", s.GetSessionRequest(session_id=session_id))
    return answer


async def nothing_visible(there: Site, session_id: str = "s") -> None:
    session = await core(there, session_id)
    assert (session.version, session.attachment_count, session.attachment_bytes) == (1, 0, 0)
    listed = await there.wire.call("ListAttachments", a.ListAttachmentsRequest(session_id=session_id))
    assert len(listed.attachments) == 0


async def cut(there: Site, attachment_id: str, content: bytes, sent: int, **fields: Any) -> None:
    """An upload whose connection breaks when `sent` bytes have arrived and been stored."""
    stored, first = there.blobs.bytes_held, header("s", attachment_id, content, **fields)
    never = asyncio.Event()

    async def messages() -> AsyncIterator[a.UploadAttachmentRequest]:
        yield first
        for message in chunks(content[first.header.offset : sent]):
            yield message
        await never.wait()

    call = there.wire.send("UploadAttachment", messages())
    whole = (sent - first.header.offset) // SEGMENT * SEGMENT
    await until(lambda: there.blobs.bytes_held >= stored + whole and there.wire.server.calls > 0)
    if first.header.offset == sent or not whole:
        await until(lambda: there.store.attachments._pieces != {})
    call.cancel()
    await until(lambda: there.blobs.bytes_held >= stored + whole and there.wire.server.calls == 0)


@pytest.mark.parametrize("size", [0, 1, 7, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 12_345])
async def test_downloaded_bytes_equal_the_uploaded_ones(there: Site, size: int) -> None:
    content = noise(size)
    attachment = await there.upload("s", "a", content, name="ü.png", media_type="image/png")
    assert (attachment.name, attachment.size_bytes, attachment.sha256.hex()) == ("ü.png", size, sha256(content))
    assert (attachment.seq, attachment.type) == (2, AttachmentType.ATTACHMENT_TYPE_IMAGE)
    data, trailers = await there.download("s", "a")
    assert data == content
    assert trailers["sessiond-sha256"] == sha256(content)
    session = await core(there)
    assert (session.version, session.attachment_count, session.attachment_bytes) == (2, 1, size)
    assert there.blobs.bytes_held == size


async def test_an_upload_without_its_size_is_no_empty_attachment(there: Site) -> None:
    forgotten = header("s", "a", b"content", size_bytes=0)
    assert (await there.failure([forgotten])).reason == "CHECKSUM_MISMATCH"
    assert (await there.failure([forgotten, *chunks(b"content")])).reason == "UPLOAD_TOO_LONG"
    await nothing_visible(there)


@pytest.mark.parametrize("size", [1, 1000, SEGMENT, 1024 * 1024])
async def test_chunks_of_any_size(there: Site, size: int) -> None:
    content = noise(3_000 if size == 1 else 2_500_000)
    await there.send([header("s", "a", content), *chunks(content, size)])
    assert (await there.download("s", "a"))[0] == content


async def test_an_upload_in_a_run_carries_its_name(there: Site) -> None:
    failure = await there.failure([_in_run(header("s", "a"), "r", 1), *chunks(b"content")])
    assert (failure.code, failure.reason) == (StatusCode.ABORTED, "RUN_FENCED")
    await nothing_visible(there)
    # The bytes are stored: a call with the successor's fence, or without one, completes it without sending any.
    assert (await there.status("s", "a")).committed_bytes == 7
    assert (await there.send([header("s", "a", offset=7)])).run_id == ""


async def test_call_without_chunks_completes_an_upload_that_the_folder_has_in_full(tmp_path: Path) -> None:
    """A server that was killed between the last byte and its answer left all of the file, and the next call no file of
    its own: completing it was an internal error, again and again."""
    async with site(blobs=FolderBlobs(tmp_path)) as there:
        failure = await there.failure([_in_run(header("s", "a"), "r", 1), *chunks(b"content")])
        assert failure.reason == "RUN_FENCED"
        await there.send([header("s", "a", offset=7)])
        assert (await there.download("s", "a"))[0] == b"content"


async def test_bytes_lost_by_the_storage_fail_the_upload(tmp_path: Path) -> None:
    async with site(blobs=FolderBlobs(tmp_path)) as there:
        assert (await there.failure([_in_run(header("s", "a"), "r", 1), *chunks(b"content")])).reason == "RUN_FENCED"
        arrived, go = asyncio.Event(), asyncio.Event()

        async def messages() -> AsyncIterator[a.UploadAttachmentRequest]:
            yield header("s", "a", offset=4)
            arrived.set()
            await go.wait()
            yield a.UploadAttachmentRequest(chunk=b"ent")

        upload = asyncio.ensure_future(there.failure(messages()))
        await arrived.wait()
        for file in tmp_path.glob("*/*"):
            file.unlink()
        go.set()
        failure = await upload
        assert (failure.code, failure.reason) == (INVALID, "CHECKSUM_MISMATCH")
        assert (await there.wire.failure("GetUploadStatus", status_of("a"))).reason == "UPLOAD_NOT_FOUND"
        await nothing_visible(there)


def _in_run(message: a.UploadAttachmentRequest, run_id: str, fence: int) -> a.UploadAttachmentRequest:
    message.header.run.CopyFrom(RunFence(run_id=run_id, fence=fence))
    return message


BAD_HEADERS: list[tuple[dict[str, Any], str]] = [
    ({"size_bytes": -1}, "header.size_bytes"),
    ({"size_bytes": 2**53}, "header.size_bytes"),
    ({"sha256": b""}, "header.sha256"),
    ({"sha256": bytes(31)}, "header.sha256"),
    ({"sha256": bytes(33)}, "header.sha256"),
    ({"attachment_id": "a "}, "header.attachment_id"),
    ({"attachment_id": "a\n"}, "header.attachment_id"),
    ({"attachment_id": "x" * 256}, "header.attachment_id"),
    ({"name": "a\nb"}, "header.name"),
    ({"name": "a\0b"}, "header.name"),
    ({"name": "x" * 256}, "header.name"),
    ({"media_type": "a\r\nb"}, "header.media_type"),
    ({"media_type": "x" * 256}, "header.media_type"),
    ({"type": 99}, "header.type"),
    ({"offset": -1}, "header.offset"),
    ({"offset": 8}, "header.offset"),
    ({"request_id": "a b"}, "header.request_id"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_HEADERS, ids=lambda value: str(value)[:40])
async def test_a_header_that_breaks_its_rules(there: Site, fields: dict[str, Any], field: str) -> None:
    failure = await there.failure([header("s", fields.pop("attachment_id", "a"), **fields), *chunks(b"content")])
    assert (failure.code, failure.reason, list(failure.violations)) == (INVALID, "INVALID_FIELD", [field])
    assert there.blobs.pieces_held == 0


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "header"),
        ([a.UploadAttachmentRequest()], "header"),
        ([a.UploadAttachmentRequest(chunk=b"content")], "header"),
        ([header("s", "a"), header("s", "a")], "chunk"),
        ([header("s", "a"), a.UploadAttachmentRequest()], "chunk"),
        ([header("s", "a"), a.UploadAttachmentRequest(chunk=b"")], "chunk"),
        ([header("s", "a"), a.UploadAttachmentRequest(chunk=bytes(1024 * 1024 + 1))], "chunk"),
        ([_in_run(header("s", "a"), "", 1)], "header.run.run_id"),
        ([_in_run(header("s", "a"), "r", 0)], "header.run.fence"),
    ],
)
async def test_unexpected_messages_are_refused(there: Site, messages: Any, field: str) -> None:
    failure = await there.failure(messages)
    assert (failure.code, failure.reason, list(failure.violations)) == (INVALID, "INVALID_FIELD", [field])
    await nothing_visible(there)
    assert there.blobs.bytes_held == 0


async def test_a_message_of_5_mib_is_too_large(there: Site) -> None:
    chunk = a.UploadAttachmentRequest(chunk=bytes(5 * 1024 * 1024))
    failure = await there.failure([header("s", "a", bytes(6 * 1024 * 1024)), chunk])
    assert (failure.code, failure.reason) == (INVALID, "REQUEST_TOO_LARGE")
    await nothing_visible(there)


async def test_wrong_checksum_is_refused_and_leaves_nothing(there: Site) -> None:
    content = noise(2 * SEGMENT + 5)
    failure = await there.failure([header("s", "a", content), *chunks(content[:-1] + b"x")])
    assert (failure.code, failure.reason) == (INVALID, "CHECKSUM_MISMATCH")
    await nothing_visible(there)
    assert (await there.wire.failure("GetUploadStatus", status_of("a"))).reason == "UPLOAD_NOT_FOUND"
    assert await there.reap() == 1
    assert there.blobs.bytes_held == 0
    # The id was never an attachment's.
    await there.upload("s", "a", content)


async def test_more_bytes_than_declared_are_refused_and_leave_nothing(there: Site) -> None:
    content = noise(2 * SEGMENT)
    failure = await there.failure([header("s", "a", content), *chunks(content + b"x")])
    assert (failure.code, failure.reason, failure.metadata) == (
        INVALID,
        "UPLOAD_TOO_LONG",
        {"size_bytes": str(len(content))},
    )
    await nothing_visible(there)
    assert await there.reap() == 1
    assert there.blobs.bytes_held == 0


async def test_fewer_bytes_than_declared_are_reported_and_can_be_resumed(there: Site) -> None:
    content = noise(2 * SEGMENT)
    failure = await there.failure([header("s", "a", content), *chunks(content[:-9])])
    assert (failure.code, failure.reason) == (INVALID, "UPLOAD_INCOMPLETE")
    assert failure.metadata == {"size_bytes": str(len(content)), "committed_bytes": str(len(content) - 9)}
    await nothing_visible(there)
    assert (await there.status("s", "a")).committed_bytes == len(content) - 9
    await there.upload("s", "a", content, offset=len(content) - 9)
    assert (await there.download("s", "a"))[0] == content


def status_of(attachment_id: str) -> a.GetUploadStatusRequest:
    return a.GetUploadStatusRequest(session_id="s", attachment_id=attachment_id)


async def test_5_gib_are_refused_before_a_byte_is_sent(there: Site) -> None:
    declared = header("s", "a", size_bytes=5 * 1024**3)
    failure = await there.failure([declared])
    assert (failure.code, failure.reason) == (StatusCode.FAILED_PRECONDITION, "ATTACHMENT_TOO_LARGE")
    assert failure.metadata == {"session_id": "s", "size_bytes": str(5 * 1024**3), "limit_bytes": str(1024**3)}
    assert there.blobs.pieces_held == 0


async def test_completion_beyond_a_limit_that_was_reached_meanwhile_is_refused(there: Site) -> None:
    await there.wire.create("small", config=SessionConfig(max_attachments=1))
    go = asyncio.Event()

    async def slow() -> AsyncIterator[a.UploadAttachmentRequest]:
        yield header("small", "a")
        await go.wait()
        yield chunks(b"content")[0]

    late = asyncio.ensure_future(there.failure(slow()))
    await until(lambda: there.store.attachments._pieces != {})
    await there.upload("small", "b", b"faster")
    go.set()
    failure = await late
    assert (failure.reason, failure.metadata["limit"]) == ("ATTACHMENT_LIMIT_REACHED", "1")
    assert (await there.wire.failure("GetUploadStatus", _status("small", "a"))).reason == "UPLOAD_NOT_FOUND"
    await there.reap()
    assert there.blobs.bytes_held == 6


def _status(session_id: str, attachment_id: str) -> a.GetUploadStatusRequest:
    return a.GetUploadStatusRequest(session_id=session_id, attachment_id=attachment_id)


async def test_upload_of_a_session_that_ended_meanwhile_is_refused(there: Site) -> None:
    await cut(there, "a", b"content", 7)
    await there.wire.call("EndSession", s.EndSessionRequest(session_id="s"))
    failure = await there.failure([header("s", "a", offset=0), *chunks(b"content")])
    assert (failure.code, failure.reason) == (StatusCode.FAILED_PRECONDITION, "SESSION_ENDED")
    there.clock.advance(25 * 3600)
    await there.reap()
    assert (there.blobs.pieces_held, there.store.attachments._pieces) == (0, {})


async def test_cut_upload_is_resumed_at_its_offset(there: Site) -> None:
    content = noise(3 * SEGMENT + 777)
    await cut(there, "a", content, SEGMENT + CHUNK)
    await nothing_visible(there)
    status = await there.status("s", "a")
    committed = status.committed_bytes
    assert SEGMENT <= committed <= SEGMENT + CHUNK
    assert (status.size_bytes, status.sha256.hex()) == (len(content), sha256(content))
    assert (status.HasField("attachment"), status.calls) == (False, 1)
    assert status.keep_until.ToMicroseconds() - there.clock.now_us == pytest.approx(86_400_000_000, abs=10_000)
    await cut(there, "a", content, 2 * SEGMENT + 5, offset=committed)
    committed = (await there.status("s", "a")).committed_bytes
    attachment = await there.upload("s", "a", content, offset=committed)
    complete = await there.status("s", "a")
    assert (complete.attachment, complete.calls) == (attachment, 0)
    assert (await there.status("s", "a")).committed_bytes == len(content)
    assert (await there.download("s", "a"))[0] == content
    await there.reap()
    assert there.blobs.bytes_held == len(content)


async def test_resumed_upload_verifies_the_stored_bytes_again(there: Site) -> None:
    """The checksum covers the whole file, also when several calls sent its parts."""
    content = noise(2 * SEGMENT)
    await cut(there, "a", content, SEGMENT)
    other = noise(2 * SEGMENT, seed=2)
    first = header("s", "a", content, offset=SEGMENT)
    failure = await there.failure([first, *chunks(other[SEGMENT:])])
    assert failure.reason == "CHECKSUM_MISMATCH"
    await there.reap()
    there.clock.advance(61)
    await there.reap()
    assert there.blobs.bytes_held == 0


async def test_upload_can_start_over(there: Site) -> None:
    content = noise(2 * SEGMENT)
    await cut(there, "a", content, SEGMENT)
    await there.upload("s", "a", content)
    assert (await there.download("s", "a"))[0] == content
    there.clock.advance(61)
    assert await there.reap() == 1
    assert there.blobs.bytes_held == len(content)


async def test_offset_beyond_the_committed_bytes_is_refused(there: Site) -> None:
    content = noise(2 * SEGMENT)
    failure = await there.failure([header("s", "a", content, offset=SEGMENT), *chunks(content[SEGMENT:])])
    assert (failure.code, failure.reason) == (StatusCode.ABORTED, "UPLOAD_OFFSET_MISMATCH")
    assert failure.metadata == {"session_id": "s", "attachment_id": "a", "committed_bytes": "0"}
    await cut(there, "a", content, SEGMENT)
    failure = await there.failure([header("s", "a", content, offset=SEGMENT + 1)])
    assert failure.metadata["committed_bytes"] == str(SEGMENT)


async def test_another_declaration_is_another_upload(there: Site) -> None:
    await cut(there, "a", b"content", 7)
    for other in (header("s", "a", b"another"), header("s", "a", name="x"), header("s", "a", media_type="text/x")):
        failure = await there.failure([other])
        assert (failure.code, failure.reason) == (StatusCode.ALREADY_EXISTS, "UPLOAD_DECLARED_OTHERWISE")
    # The server gives the same type to the same words.
    await there.upload("s", "a", b"content")


async def test_later_of_two_upload_calls_wins(there: Site) -> None:
    content = noise(2 * SEGMENT)
    go = asyncio.Event()

    async def first() -> AsyncIterator[a.UploadAttachmentRequest]:
        yield header("s", "a", content)
        messages = chunks(content)
        for message in messages[:-1]:
            yield message
        await go.wait()
        yield messages[-1]

    slow = asyncio.ensure_future(there.failure(first()))
    await until(lambda: there.blobs.bytes_held >= SEGMENT)
    attachment = await there.upload("s", "a", content)
    go.set()
    failure = await slow
    assert (failure.code, failure.reason) in (
        (StatusCode.ABORTED, "UPLOAD_SUPERSEDED"),
        (StatusCode.ALREADY_EXISTS, "ATTACHMENT_ALREADY_EXISTS"),
    )
    assert (await there.download("s", "a"))[0] == content
    assert (await core(there)).attachment_count == 1
    there.clock.advance(61)
    await there.reap()
    assert (there.blobs.bytes_held, attachment.seq) == (len(content), 2)


async def test_many_calls_of_one_upload_make_one_attachment(there: Site) -> None:
    content = noise(SEGMENT + 9)
    answers = await asyncio.gather(*(there.upload("s", "a", content) for _ in range(6)), return_exceptions=True)
    made = [answer for answer in answers if isinstance(answer, Attachment)]
    assert len(made) == 1
    assert {answer.reason for answer in answers if isinstance(answer, Failure)} <= {
        "UPLOAD_SUPERSEDED",
        "ATTACHMENT_ALREADY_EXISTS",
        "UPLOAD_OFFSET_MISMATCH",
    }
    assert (await there.download("s", "a"))[0] == content
    there.clock.advance(61)
    await there.reap()
    assert there.blobs.bytes_held == len(content)


async def test_replaced_upload_call_gets_an_error_before_it_ends() -> None:
    async with site(uploads=UploadLimits(touch=0.0)) as there:
        content = noise(2 * SEGMENT)
        go = asyncio.Event()

        async def endless() -> AsyncIterator[a.UploadAttachmentRequest]:
            yield header("s", "a", content)
            yield chunks(content)[0]
            await go.wait()
            yield chunks(content)[1]
            await asyncio.Event().wait()

        slow = asyncio.ensure_future(there.failure(endless()))
        await until(lambda: there.store.attachments._pieces != {})
        await there.upload("s", "a", content)
        go.set()
        assert (await slow).reason == "UPLOAD_SUPERSEDED"


async def test_a_client_that_stops_is_not_waited_for() -> None:
    async with site(transfer_idle=0.4, most_transfers=1) as there:
        content = noise(2 * SEGMENT)
        never = asyncio.Event()

        async def stopping() -> AsyncIterator[a.UploadAttachmentRequest]:
            yield header("s", "a", content)
            for message in chunks(content)[:3]:
                yield message
            await never.wait()

        failure = await there.failure(stopping())
        assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "TRANSFER_STALLED")

        async def silent() -> AsyncIterator[a.UploadAttachmentRequest]:
            await never.wait()
            yield header("s", "a")

        assert (await there.failure(silent())).reason == "TRANSFER_STALLED"
        await nothing_visible(there)
        assert there.blobs.bytes_held <= 3 * CHUNK
        status = await there.status("s", "a")
        assert status.committed_bytes == there.blobs.bytes_held


async def test_more_transfers_than_places_are_refused() -> None:
    async with site(most_transfers=3) as there:  # one tenant of several may hold two of three
        go = asyncio.Event()

        async def slow(attachment_id: str) -> AsyncIterator[a.UploadAttachmentRequest]:
            yield header("s", attachment_id)
            await go.wait()
            yield chunks(b"content")[0]

        first = [asyncio.ensure_future(there.send(slow(name))) for name in "ab"]
        await until(lambda: len(there.store.attachments._pieces) == 2)
        failure = await there.failure([header("s", "c")])
        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSFERS")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0
        request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
        assert (await there.wire.failure("DownloadAttachment", request)).reason == "TOO_MANY_TRANSFERS"
        go.set()
        await asyncio.gather(*first)
        await there.upload("s", "c", b"content")


async def test_number_of_unfinished_uploads_is_bounded() -> None:
    async with site(store_options={"policy": Policy(max_unfinished_uploads=1)}) as there:
        await cut(there, "a", b"content", 7)
        failure = await there.failure([header("s", "b")])
        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_UPLOADS")
        assert "grpc-retry-pushback-ms" not in failure.trailers


async def test_a_retry_of_a_completed_upload_gets_its_outcome_without_sending(there: Site) -> None:
    first = await there.upload("s", "a", b"content", request_id="r-1")
    assert await there.send([header("s", "a", request_id="r-1")]) == first
    assert await there.send([header("s", "a", request_id="r-1", offset=7)]) == first
    failure = await there.failure([header("s", "a", request_id="r-1", name="x")])
    assert (failure.reason, list(failure.violations)) == ("REQUEST_ID_REUSED", ["request_id"])
    failure = await there.failure([header("s", "a", request_id="r-2")])
    assert failure.reason == "ATTACHMENT_ALREADY_EXISTS"
    await there.wire.call("EndSession", s.EndSessionRequest(session_id="s"))
    assert await there.send([header("s", "a", request_id="r-1")]) == first


async def test_server_derives_an_id_from_the_request_id_or_generates_one(there: Site) -> None:
    one, two = [await there.upload("s", "", b"content") for _ in range(2)]
    assert one.attachment_id != two.attachment_id
    three = await there.upload("s", "", b"content", request_id="r-1")
    assert await there.upload("s", "", b"content", request_id="r-1") == three
    await there.wire.create("t")
    four = await there.upload("t", "", b"content", request_id="r-1")
    assert four.attachment_id != three.attachment_id


async def test_deleted_upload_leaves_no_bytes_and_frees_its_id(there: Site) -> None:
    await cut(there, "a", b"content", 7)
    deleted = await there.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id="a"))
    assert deleted.version == 0
    await nothing_visible(there)
    there.clock.advance(61)
    await there.reap()
    assert there.blobs.pieces_held == 0
    assert (await there.upload("s", "a", b"another")).size_bytes == 7


async def test_abandoned_uploads_leave_nothing(there: Site) -> None:
    await cut(there, "a", noise(2 * SEGMENT), SEGMENT)
    there.clock.advance(23 * 3600)
    await there.reap()
    assert there.blobs.bytes_held == SEGMENT
    there.clock.advance(2 * 3600)
    await there.reap()
    assert (there.blobs.pieces_held, there.store.attachments._pieces) == (0, {})
    assert (await there.wire.failure("GetUploadStatus", status_of("a"))).reason == "UPLOAD_NOT_FOUND"


class Fragile(CountedBlobs):
    """Fails at the append with this number, counted from 0."""

    failing = -1
    appends = 0

    async def append(self, piece: Piece, offset: int, data: Any) -> None:
        number, self.appends = self.appends, self.appends + 1
        if number == self.failing:
            raise StorageUnavailable
        assert offset == await self.length(piece), "a hole"
        await super().append(piece, offset, data)


async def test_failing_storage_leaves_no_gap_in_the_bytes() -> None:
    content = noise(5 * SEGMENT)
    for failing in range(5):
        blobs = Fragile()
        blobs.failing = failing
        async with site(blobs=blobs) as there:
            failure = await there.failure([header("s", "a", content), *chunks(content[: (failing + 1) * SEGMENT])])
            assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
            await nothing_visible(there)
            committed = (await there.status("s", "a")).committed_bytes
            assert committed == failing * SEGMENT
            await there.upload("s", "a", content, offset=committed)
            assert (await there.download("s", "a"))[0] == content


async def test_number_of_cut_uploads_kept_in_memory_is_bounded() -> None:
    """A cut call gives its place back: other calls come and are cut as well."""

    class Hanging(CountedBlobs):
        def __init__(self) -> None:
            super().__init__()
            self.back = asyncio.Event()

        async def append(self, piece: Piece, offset: int, data: Any) -> None:
            await self.back.wait()
            await super().append(piece, offset, data)

    blobs = Hanging()
    async with site(blobs=blobs, uploads=UploadLimits(appends=1, kept=2)) as there:
        for number in range(4):
            failure = await there.failure(
                [header("s", str(number)), *chunks(b"con"), a.UploadAttachmentRequest(chunk=b"")]
            )
            assert failure.reason == "INVALID_FIELD"
        blobs.back.set()
        await until(lambda: blobs.bytes_held >= 6)
        assert [(await there.status("s", str(number))).committed_bytes for number in range(4)] == [3, 3, 0, 0]


async def test_cancelled_storing_does_not_hide_the_first_error() -> None:
    """A storage's client may give up by itself; the task that waits for it is not cancelled."""

    class Cancelled(CountedBlobs):
        async def append(self, piece: Piece, offset: int, data: Any) -> None:
            raise asyncio.CancelledError

    async with site(blobs=Cancelled()) as there:
        content = noise(SEGMENT)
        too_long = [header("s", "a", content), *chunks(content), a.UploadAttachmentRequest(chunk=b"x")]
        failure = await there.failure(too_long)
        assert (failure.code, failure.reason) == (INVALID, "UPLOAD_TOO_LONG")
        assert (await there.wire.failure("GetUploadStatus", status_of("a"))).reason == "UPLOAD_NOT_FOUND"
        failure = await there.failure([header("s", "b", content), *chunks(content)])
        assert (failure.code, failure.reason) == (StatusCode.INTERNAL, "INTERNAL")
        await nothing_visible(there)
        assert (await there.status("s", "b")).committed_bytes == 0


async def test_equal_content_is_stored_once(there: Site) -> None:
    content = noise(SEGMENT + 1)
    await there.upload("s", "a", content)
    await there.upload("s", "b", content, name="another")
    await there.reap()
    assert (there.blobs.pieces_held, there.blobs.bytes_held) == (1, len(content))
    for name in "ab":
        await there.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id=name))
        await there.reap()
        assert there.blobs.pieces_held == (1 if name == "a" else 0)


async def test_a_deleted_session_leaves_nothing(there: Site) -> None:
    await there.upload("s", "a", noise(SEGMENT))
    await cut(there, "b", noise(2 * SEGMENT, seed=2), SEGMENT)
    await there.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
    there.clock.advance(61)
    await there.reap()
    assert (there.blobs.pieces_held, there.store.attachments._pieces) == (0, {})
