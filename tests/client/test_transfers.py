"""Uploads and downloads: which bytes move, what is resumed, and which errors are raised."""

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]

import sessiond
from sessiond.transfer import Source
from sessiond.v1.attachment_service_pb2 import (
    DownloadAttachmentRequest,
    DownloadAttachmentResponse,
    DownloadHeader,
    UploadStatus,
)
from tests.support.both_clients import async_only
from tests.support.client_service import RECONNECT, Service
from tests.support.proxy import Proxy
from tests.support.scripted_server import Fail, ScriptedServer, Step, Steps, Take, Wait

BOTH_CLIENTS = True

CONTENT = Random(1).randbytes(1_500_000)
DIGEST = hashlib.sha256(CONTENT).digest()
ATTACHMENT = sessiond.Attachment(session_id="s", attachment_id="a", size_bytes=len(CONTENT), sha256=DIGEST)
UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)


def refused(reason: str, code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION) -> Fail:
    return Fail(code, details=[ErrorInfo(reason=reason, domain="sessiond")])


def uploads(server: ScriptedServer) -> list[list[Any]]:
    """The messages of each call."""
    return [seen.request for seen in server.seen if seen.method == "UploadAttachment"]


def sent(messages: list[Any]) -> bytes:
    return b"".join(message.chunk for message in messages[1:])


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 100_000):
        yield content[start : start + 100_000]


@pytest.fixture
async def session_id(sessions: sessiond.Client) -> str:
    return (await sessions.create_session(active=True)).session_id


async def test_upload_header_describes_the_file(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(CONTENT)
    fence = sessiond.RunFence(run_id="r", fence=2)
    await client.upload("s", path, run=fence, request_id="mine")
    await client.upload("s", str(path), name="x", media_type="", type="code", attachment_id="a")
    (first, *_), (second, *_) = uploads(server)
    assert (first.header.name, first.header.media_type, first.header.type) == ("photo.png", "image/png", 0)
    assert (first.header.size_bytes, first.header.sha256, first.header.offset) == (len(CONTENT), DIGEST, 0)
    assert (first.header.request_id, first.header.run) == ("mine", fence)
    assert (second.header.name, second.header.media_type, second.header.attachment_id) == ("x", "", "a")
    assert second.header.type == sessiond.AttachmentType.ATTACHMENT_TYPE_CODE
    assert second.header.request_id
    assert first.header.attachment_id != second.header.attachment_id
    assert server.seen[0].time_remaining > 1_000_000


@async_only("its iterators are asynchronous")
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "path", "iterator"])
async def test_every_kind_of_source_is_uploaded(
    kind: str, sessions: sessiond.Client, session_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    sources: dict[str, Source] = {
        "bytes": CONTENT,
        "bytearray": bytearray(CONTENT),
        "path": path,
        "iterator": pieces(CONTENT),
    }
    steps: list[tuple[int, int]] = []
    attachment = await sessions.upload(session_id, sources[kind], progress=lambda done, all: steps.append((done, all)))
    assert (attachment.sha256, attachment.size_bytes) == (DIGEST, len(CONTENT))
    assert steps == sorted(steps)
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert await sessions.get_attachment(session_id, attachment.attachment_id) == attachment
    assert await sessions.download(session_id, attachment.attachment_id).read() == CONTENT


async def test_download_can_be_read_in_every_way(sessions: sessiond.Client, session_id: str, tmp_path: Path) -> None:
    attachment_id = (await sessions.upload(session_id, CONTENT, name="n")).attachment_id
    steps: list[tuple[int, int]] = []
    target = tmp_path / "there"
    target.write_bytes(b"what was there before")
    download = sessions.download(session_id, attachment_id, progress=lambda done, all: steps.append((done, all)))
    assert download.attachment is None
    saved = await download.save(target)
    assert saved == download.attachment == await sessions.get_attachment(session_id, attachment_id)
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    part = sessions.download(session_id, attachment_id, offset=1000, length=600_000)
    assert b"".join([chunk async for chunk in part]) == CONTENT[1000:601_000]
    assert await sessions.download(session_id, attachment_id, offset=len(CONTENT)).read() == b""
    assert await sessions.download(session_id, attachment_id, offset=1_000_000).read() == CONTENT[1_000_000:]
    with pytest.raises(ValueError, match="whole"):
        await sessions.download(session_id, attachment_id, offset=1).save(target)
    listed = [each.attachment_id async for each in sessions.list_attachments(session_id)]
    assert listed == [attachment_id]
    assert await sessions.delete_attachment(session_id, attachment_id) == 3
    with pytest.raises(sessiond.AttachmentNotFound):
        await sessions.download(session_id, attachment_id).read()


async def test_refused_upload_raises_its_error(sessions: sessiond.Client, session_id: str, tmp_path: Path) -> None:
    with pytest.raises(sessiond.InvalidFields):
        await sessions.upload(session_id, b"x", attachment_id="a\n")
    with pytest.raises(sessiond.SessionNotFound):
        await sessions.upload("nobody", CONTENT * 20)
    await sessions.upload(session_id, CONTENT, attachment_id="a")
    with pytest.raises(sessiond.AttachmentAlreadyExists) as caught:
        await sessions.upload(session_id, CONTENT, attachment_id="a", request_id="another")
    assert caught.value.request_id == "another"
    with pytest.raises(FileNotFoundError):
        await sessions.upload(session_id, tmp_path / "nothing")
    with pytest.raises(ValueError, match="idle_timeout"):
        await sessions.upload(session_id, b"x", idle_timeout=0)
    with pytest.raises(ValueError, match="give_up_after"):
        sessions.download(session_id, "a", give_up_after=0)


async def test_cut_upload_is_resumed(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([Take(3, UNAVAILABLE), UploadStatus(committed_bytes=500_000, calls=1), ATTACHMENT])
    steps: list[int] = []
    assert await client.upload("s", CONTENT, progress=lambda done, _: steps.append(done)) == ATTACHMENT
    first, second = uploads(server)
    assert sent(first) == CONTENT[: len(sent(first))]
    assert sent(second) == CONTENT[500_000:]
    assert (first[0].header.offset, second[0].header.offset) == (0, 500_000)
    second[0].header.offset = 0
    assert first[0] == second[0]
    assert steps[-1] == len(CONTENT)


async def test_failures_with_progress_do_not_end_an_upload(client: sessiond.Client, server: ScriptedServer) -> None:
    for _ in range(7):
        server.script.extend([Take(3, UNAVAILABLE), UploadStatus()])
    server.script.append(ATTACHMENT)
    assert await client.upload("s", CONTENT) == ATTACHMENT
    assert len(uploads(server)) == 8


async def test_upload_of_which_nothing_arrived_starts_over(client: sessiond.Client, server: ScriptedServer) -> None:
    nothing = refused("UPLOAD_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    server.script.extend([Take(0, UNAVAILABLE), nothing, ATTACHMENT])
    await client.upload("s", CONTENT)
    assert len(uploads(server)) == 2
    assert uploads(server)[1][0].header.offset == 0
    assert sent(uploads(server)[1]) == CONTENT


async def test_refusal_is_received_before_bytes_are_sent(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Take(0, refused("SESSION_ENDED"))
    moved: list[int] = []
    with pytest.raises(sessiond.SessionEnded):
        await client.upload("s", CONTENT * 20, progress=lambda done, _: moved.append(done))
    # Not how many calls it took: where the machine is busy, grpc loses it behind the header too, and it is asked again.
    assert moved == []


async def test_answer_before_the_bytes_completes_the_upload(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(Take(0, ATTACHMENT))
    assert await client.upload("s", CONTENT * 20) == ATTACHMENT


async def test_upload_that_another_caller_resumed_raises_superseded(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.extend([Take(2, UNAVAILABLE), UploadStatus(committed_bytes=500_000, calls=5)])
    with pytest.raises(sessiond.UploadSuperseded) as caught:
        await client.upload("s", CONTENT, attachment_id="")
    assert caught.value.attachment_id
    assert len(uploads(server)) == 1
    # grpc may lose what the service says while bytes are on their way; then the status tells.
    status = UploadStatus(committed_bytes=500_000, calls=100)
    server.script.extend([Take(2, refused("UPLOAD_SUPERSEDED", grpc.StatusCode.ABORTED)), status])
    with pytest.raises(sessiond.UploadSuperseded):
        await client.upload("s", CONTENT)


async def test_own_call_without_a_number_is_not_taken_for_another_callers(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.extend([Take(2, UNAVAILABLE), UploadStatus(committed_bytes=500_000, calls=1)])
    server.script.extend([Take(0, UNAVAILABLE), UploadStatus(committed_bytes=500_000, calls=2), ATTACHMENT])
    assert await client.upload("s", CONTENT) == ATTACHMENT
    assert len(uploads(server)) == 3


async def test_upload_that_another_caller_deleted_raises_superseded(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.extend([Take(2, UNAVAILABLE), refused("UPLOAD_NOT_FOUND", grpc.StatusCode.NOT_FOUND)])
    with pytest.raises(sessiond.UploadSuperseded):
        await client.upload("s", CONTENT)


async def test_upload_without_progress_raises_the_last_error(server: ScriptedServer) -> None:
    server.always = Take(0, UNAVAILABLE)
    quick = sessiond.Reconnect(initial_backoff=0.01, max_backoff=0.01)
    async with sessiond.Client(server.target, reconnect=quick, retry=sessiond.Retry(max_attempts=1)) as client:
        with pytest.raises(sessiond.Unavailable):
            await client.upload("s", CONTENT, give_up_after=0.05)
    assert len(uploads(server)) > 1
    assert server.streams == 0


async def test_upload_to_a_service_that_reads_nothing_times_out(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.always = Take(1, Wait(asyncio.Event()))
    with pytest.raises(sessiond.Unavailable, match="nothing moved"):
        await client.upload("s", CONTENT * 20, idle_timeout=0.05, give_up_after=0.01)


@async_only("cancelling the wait for a thread leaves the upload going on")
async def test_a_cancelled_upload_can_be_resumed(sessions: sessiond.Client, session_id: str) -> None:
    large = CONTENT * 8
    halfway = asyncio.Event()

    def look(done: int, _: int) -> None:
        if done > len(large) // 2:
            halfway.set()

    uploading = asyncio.create_task(sessions.upload(session_id, large, attachment_id="a", progress=look))
    await halfway.wait()
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    with pytest.raises(sessiond.UploadDeclaredOtherwise):
        await sessions.upload(session_id, CONTENT, attachment_id="a")
    attachment = await sessions.upload(session_id, large, attachment_id="a")
    assert attachment.sha256 == hashlib.sha256(large).digest()
    assert await sessions.download(session_id, "a").read() == large


async def test_transfers_complete_through_repeated_cuts(
    service: Service, sessions: sessiond.Client, tmp_path: Path
) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    large = Random(2).randbytes(8_000_000)
    host, port = service.target.rsplit(":", 1)
    async with (
        Proxy(host, int(port)) as proxy,
        sessiond.Client(f"127.0.0.1:{proxy.port}", reconnect=RECONNECT) as client,
    ):
        cuts = iter(range(1_000_000, len(large), 2_000_000))
        at = next(cuts)

        def cut(done: int, _: int) -> None:
            nonlocal at
            if done >= at:
                at = next(cuts, len(large) + 1)
                proxy.cut()

        attachment = await client.upload(session_id, large, progress=cut)
        assert attachment.sha256 == hashlib.sha256(large).digest()
        assert at > len(large)
        cuts, at = iter(range(1_000_000, len(large), 2_000_000)), 500_000
        await client.download(session_id, attachment.attachment_id, progress=cut).save(tmp_path / "there")
        assert at > len(large)
        assert (tmp_path / "there").read_bytes() == large


def downloads(server: ScriptedServer) -> list[DownloadAttachmentRequest]:
    return [seen.request for seen in server.seen if seen.method == "DownloadAttachment"]


def parts(request: DownloadAttachmentRequest, *ends: int, then: Step | None = None, content: bytes = CONTENT) -> Steps:
    """What the service sends of a download, with chunks to these places."""
    end = request.offset + request.length if request.length else len(content)
    header = DownloadHeader(attachment=ATTACHMENT, offset=request.offset, length=end - request.offset)
    steps: list[Step] = [DownloadAttachmentResponse(header=header)]
    place = request.offset
    for to in ends or (end,):
        steps.append(DownloadAttachmentResponse(chunk=content[place:to]))
        place = to
    return [*steps, then] if then is not None else steps


@pytest.mark.parametrize(
    "then",
    [
        UNAVAILABLE,
        refused("TRANSFER_STALLED", grpc.StatusCode.ABORTED),
        Fail(grpc.StatusCode.INTERNAL),
        None,
    ],
)
async def test_cut_download_is_resumed(then: Fail | None, client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(lambda request: parts(request, 1000, 3000, then=then))
    server.always = lambda request: parts(request)
    assert await client.download("s", "a").read() == CONTENT
    assert [request.offset for request in downloads(server)] == [0, 3000]


async def test_resumed_range_keeps_its_end(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(lambda request: parts(request, 300, then=UNAVAILABLE))
    server.always = lambda request: parts(request)
    assert await client.download("s", "a", offset=100, length=1000).read() == CONTENT[100:1100]
    assert [(request.offset, request.length) for request in downloads(server)] == [(100, 1000), (300, 800)]


async def test_download_with_another_checksum_is_refused(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    wrong = bytes(len(CONTENT))
    server.always = lambda request: parts(request, content=wrong)
    with pytest.raises(sessiond.ChecksumMismatch) as caught:
        await client.download("s", "a").read()
    assert (caught.value.session_id, caught.value.attachment_id) == ("s", "a")
    with pytest.raises(sessiond.ChecksumMismatch):
        await client.download("s", "a").save(tmp_path / "there")
    assert not list(tmp_path.iterdir())
    # A part cannot be verified.
    assert await client.download("s", "a", length=10).read() == wrong[:10]


async def test_save_resumes_the_part_file_of_another_call(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    server.script.append(lambda request: parts(request, 700_000, then=refused("ATTACHMENT_LOST")))
    with pytest.raises(sessiond.SessiondError):
        await client.download("s", "a").save(tmp_path / "there")
    (part,) = tmp_path.iterdir()
    assert part.name.endswith(".part")
    assert part.read_bytes() == CONTENT[:700_000]
    server.always = lambda request: parts(request)
    await client.download("s", "a").save(tmp_path / "there")
    assert [request.offset for request in downloads(server)] == [0, 700_000]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("there", CONTENT)]


async def test_save_does_not_resume_the_part_file_of_another_attachment(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    server.script.append(lambda request: parts(request, 700_000, then=refused("ATTACHMENT_LOST")))
    with pytest.raises(sessiond.SessiondError):
        await client.download("s", "another").save(tmp_path / "there")
    server.always = lambda request: parts(request)
    await client.download("s", "a").save(tmp_path / "there")
    assert [request.offset for request in downloads(server)] == [0, 0]


@async_only("threads do not begin in order")
async def test_concurrent_saves_to_one_path_do_not_mix(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path
) -> None:
    """Each call received the right bytes, and the file that both had written was reported as verified."""
    go = asyncio.Event()
    server.script.append(lambda request: parts(request, 700_000, then=Wait(go)))
    server.always = lambda request: parts(request)
    first = asyncio.create_task(client.download("s", "a").save(tmp_path / "there"))
    await server.arrived.wait()
    with pytest.raises(BlockingIOError):
        await client.download("s", "a").save(tmp_path / "there")
    first.cancel()
    await asyncio.wait([first])
    await client.download("s", "a").save(tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


async def test_file_that_was_moved_while_it_was_opened_is_not_appended_to(
    client: sessiond.Client, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before had just finished."""
    server.always = lambda request: parts(request)
    moved: list[Path] = []
    flock = fcntl.flock

    def after_it_was_moved(file: BinaryIO, operation: int) -> None:
        if not moved:
            moved.append(Path(file.name).rename(tmp_path / "moved"))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", after_it_was_moved)
    await client.download("s", "a").save(tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == CONTENT
    assert moved[0].read_bytes() == b""


async def test_aclose_of_a_download_cancels_the_call(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = lambda request: parts(request, 1000, then=Wait(asyncio.Event()))
    download = client.download("s", "a")
    async for chunk in download:
        assert chunk == CONTENT[:1000]
        break
    assert server.streams == 1
    await download.aclose()
    await server.cancelled.wait()


async def test_download_without_progress_raises_the_last_error(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = lambda request: parts(request, 1000, then=Wait(asyncio.Event())) if not request.offset else ()
    with pytest.raises(sessiond.Unavailable):
        await client.download("s", "a", idle_timeout=0.05, give_up_after=0.01).read()


async def test_close_of_the_client_ends_transfers(server: ScriptedServer) -> None:
    server.always = Take(2, Wait(asyncio.Event()))
    async with sessiond.Client(server.target) as client:
        uploading = asyncio.create_task(client.upload("s", CONTENT * 20))
        await server.arrived.wait()
        await client.close()
        with pytest.raises(sessiond.ClientClosed):
            await uploading
