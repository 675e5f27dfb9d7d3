"""Uploads that fail, over durable storages: a typed error, no partial attachment, and after the reaper has run no row
and no byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.run_pb2 import RunFence
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.postgres.blobs import PostgresBlobs
from sessiond_server.postgres.store import PostgresStore
from tests.support.attachments import chunks, failure, noise, send
from tests.support.movable_clock import move_clock
from tests.support.shared_database import SharedDatabase
from tests.support.stored_files import ROWS, Stored, reaped
from tests.support.waiting import until
from tests.support.wire import Failure, Wire, header, serving

CONTENT = noise(3 * 512 * 1024 + 777)
SENT = len(CONTENT) // 2
"""What arrives before something happens: more than a segment, less than all."""
INVALID = StatusCode.INVALID_ARGUMENT
MIB = 1024 * 1024
DAY = 86_400.0


@dataclass
class Site:
    """A server, its database, and where the bytes lie."""

    wire: Wire
    database: asyncpg.Connection
    folder: Path | None
    kept: int = 0
    """Bytes of the one attachment that the test leaves."""

    async def rows(self) -> dict[str, int]:
        return {name: await self.database.fetchval(f"select count(*) from {name}") for name in ROWS}

    async def arrived(self) -> None:
        """Returns when something of an upload has been stored."""
        while not (await self.database.fetchval("select count(*) from blob_rows") or self._files()):  # noqa: ASYNC110
            await asyncio.sleep(0)

    def _files(self) -> bool:
        return self.folder is not None and any(path.stat().st_size for path in self.folder.glob("*/*"))

    async def nothing_visible(self) -> None:
        listed = await self.wire.call("ListAttachments", a.ListAttachmentsRequest(session_id="s"))
        session = await self.wire.call("GetSession", s.GetSessionRequest(session_id="s"))
        assert (len(listed.attachments), session.attachment_count, session.attachment_bytes) == (0, 0, 0)
        request = a.DownloadAttachmentRequest(session_id="s", attachment_id="a")
        assert (await self.wire.failure("DownloadAttachment", request)).reason == "ATTACHMENT_NOT_FOUND"
        assert (await self.rows())["blobs"] == 0


@pytest.fixture(params=["postgres", "folder"])
def storage(request: pytest.FixtureRequest, emptied: SharedDatabase, tmp_path: Path) -> tuple[str, Path | None]:
    """A database, and the folder that the bytes lie in, where they are not in the database too."""
    return emptied.dsn, tmp_path / "blobs" if request.param == "folder" else None


@asynccontextmanager
async def site(storage: tuple[str, Path | None], idle: float = 30.0) -> AsyncIterator[Site]:
    """Once it is left there must be nothing but what the test has kept."""
    dsn, folder = storage
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(PostgresStore(dsn))
        blobs: BlobStore = FolderBlobs(folder) if folder else await stack.enter_async_context(PostgresBlobs(dsn))
        database = await asyncpg.connect(dsn)
        stack.push_async_callback(database.close)
        wire = await stack.enter_async_context(
            serving(store, work=store, attachments=store.attachments, blobs=blobs, transfer_idle=idle)
        )
        await wire.create("s", ttl=Duration(seconds=round(DAY)))
        made = Site(wire, database, folder)
        yield made
    kept = 1 if made.kept else 0
    rows = {"attachments": kept, "uploads": 0, "blobs": kept, "releases": 0, "pieces": kept}
    assert await reaped(dsn, folder) == Stored(rows, made.kept, strays=0)


@pytest.fixture
async def there(storage: tuple[str, Path | None]) -> AsyncIterator[Site]:
    async with site(storage) as made:
        yield made


class Halted:
    """An upload that waits in its middle until `go` is set."""

    def __init__(self, there: Site, last: bytes = CONTENT[SENT:], **fields: object) -> None:
        self.go = asyncio.Event()
        self._last = last
        self._header = header("s", "a", CONTENT, **fields)
        self.task = asyncio.ensure_future(send(there.wire, self._messages()))

    async def _messages(self) -> AsyncIterator[a.UploadAttachmentRequest]:
        yield self._header
        for message in chunks(CONTENT[:SENT]):
            yield message
        await self.go.wait()
        for message in chunks(self._last):
            yield message

    async def failure(self) -> Failure:
        self.go.set()
        with pytest.raises(Failure) as caught:
            await self.task
        return caught.value


BAD = {
    "wrong checksum": ([header("s", "a", CONTENT), *chunks(CONTENT[:-1] + b"x")], "CHECKSUM_MISMATCH", INVALID, []),
    "beyond the declared": ([header("s", "a", CONTENT), *chunks(CONTENT + b"x")], "UPLOAD_TOO_LONG", INVALID, []),
    "below the declared": ([header("s", "a", CONTENT), *chunks(CONTENT[:-1])], "UPLOAD_INCOMPLETE", INVALID, []),
    "a negative size": ([header("s", "a", size_bytes=-1)], "INVALID_FIELD", INVALID, ["header.size_bytes"]),
    "a declaration of 5 GiB": (
        [header("s", "a", size_bytes=5 * 1024 * MIB)], "ATTACHMENT_TOO_LARGE", StatusCode.FAILED_PRECONDITION, [],
    ),
    "a chunk of nothing": (
        [header("s", "a", CONTENT), *chunks(CONTENT[:SENT]), a.UploadAttachmentRequest(chunk=b"")],
        "INVALID_FIELD", INVALID, ["chunk"],
    ),
    "a chunk above 1 MiB": (
        [header("s", "a", CONTENT), a.UploadAttachmentRequest(chunk=bytes(MIB + 1))],
        "INVALID_FIELD", INVALID, ["chunk"],
    ),
    "a chunk of 5 MiB": (
        [header("s", "a", bytes(6 * MIB)), a.UploadAttachmentRequest(chunk=bytes(5 * MIB))],
        "REQUEST_TOO_LARGE", INVALID, [],
    ),
    "another header": (
        [header("s", "a", CONTENT), *chunks(CONTENT[:SENT]), header("s", "a", CONTENT)],
        "INVALID_FIELD", INVALID, ["chunk"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
async def test_bad_input_leaves_nothing(there: Site, bad: str) -> None:
    messages, reason, code, fields = BAD[bad]
    refused = await failure(there.wire, messages)
    assert (refused.code, refused.reason, list(refused.violations)) == (code, reason, fields)
    await there.nothing_visible()


async def test_a_client_that_stops_leaves_nothing(storage: tuple[str, Path | None]) -> None:
    async with site(storage, idle=0.4) as there:
        halted = Halted(there)
        with pytest.raises(Failure) as caught:
            await halted.task
        assert (caught.value.code, caught.value.reason) == (StatusCode.DEADLINE_EXCEEDED, "TRANSFER_STALLED")
        await there.nothing_visible()


async def test_a_client_that_is_cut_off_leaves_nothing(there: Site) -> None:
    never = asyncio.Event()

    async def messages() -> AsyncIterator[a.UploadAttachmentRequest]:
        yield header("s", "a", CONTENT)
        for message in chunks(CONTENT[:SENT]):
            yield message
        await never.wait()

    call = there.wire.send("UploadAttachment", messages())
    await there.arrived()
    await there.nothing_visible()
    call.cancel()
    await until(lambda: there.wire.server.calls == 0)
    await there.nothing_visible()


async def test_a_stale_fence_leaves_nothing(there: Site) -> None:
    halted = Halted(there)
    halted._header.header.run.CopyFrom(RunFence(run_id="r", fence=1))
    refused = await halted.failure()
    assert (refused.code, refused.reason) == (StatusCode.ABORTED, "RUN_FENCED")
    await there.nothing_visible()


async def test_two_uploads_of_one_id_leave_one(there: Site) -> None:
    halted = Halted(there)
    await there.arrived()
    made = await send(there.wire, [header("s", "a", CONTENT), *chunks(CONTENT)])
    refused = await halted.failure()
    assert (refused.code, refused.reason) in (
        (StatusCode.ABORTED, "UPLOAD_SUPERSEDED"),
        (StatusCode.ALREADY_EXISTS, "ATTACHMENT_ALREADY_EXISTS"),
    )
    there.kept = made.size_bytes


async def suspend(there: Site) -> None:
    await there.wire.call("SuspendSession", s.SuspendSessionRequest(session_id="s"))


async def end(there: Site) -> None:
    await there.wire.call("EndSession", s.EndSessionRequest(session_id="s"))


async def delete(there: Site) -> None:
    await there.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))


async def expire(there: Site) -> None:
    await move_clock(there.database, 2 * DAY)


async def expire_and_sweep(there: Site) -> None:
    await expire(there)
    assert len((await there.wire.store.expire_due(10)).heads) == 1


ENDINGS: dict[str, tuple[Callable[[Site], Awaitable[None]], StatusCode, str]] = {
    "ended": (end, StatusCode.FAILED_PRECONDITION, "SESSION_ENDED"),
    "expired": (expire, StatusCode.FAILED_PRECONDITION, "SESSION_ENDED"),
    "expired and swept": (expire_and_sweep, StatusCode.FAILED_PRECONDITION, "SESSION_ENDED"),
    "deleted": (delete, StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_session_that_ends_during_an_upload_keeps_no_bytes(there: Site, ending: str) -> None:
    what, code, reason = ENDINGS[ending]
    halted = Halted(there)
    await there.arrived()
    await what(there)
    refused = await halted.failure()
    assert (refused.code, refused.reason) == (code, reason)
    if ending != "deleted":
        await there.nothing_visible()


@pytest.mark.parametrize("ending", ENDINGS)
async def test_ended_session_resumes_no_upload(there: Site, ending: str) -> None:
    what, code, reason = ENDINGS[ending]
    incomplete = await failure(there.wire, [header("s", "a", CONTENT), *chunks(CONTENT[:SENT])])
    assert incomplete.reason == "UPLOAD_INCOMPLETE"
    await what(there)
    for attachment_id, offset in (("a", SENT), ("a", 0), ("b", 0)):
        first = header("s", attachment_id, CONTENT, offset=offset)
        refused = await failure(there.wire, [first, *chunks(CONTENT[offset:])])
        assert (refused.code, refused.reason) == (code, reason)
    # What had arrived can be given up, or is when it is too old.
    gone = await there.wire.failure("GetUploadStatus", a.GetUploadStatusRequest(session_id="s", attachment_id="b"))
    assert gone.reason == ("SESSION_NOT_FOUND" if ending == "deleted" else "UPLOAD_NOT_FOUND")


async def test_suspending_leaves_uploads_alone(there: Site) -> None:
    halted = Halted(there)
    await there.arrived()
    await suspend(there)
    await there.nothing_visible()
    halted.go.set()
    there.kept = (await halted.task).size_bytes


async def test_suspended_session_resumes_uploads(there: Site, storage: tuple[str, Path | None]) -> None:
    await suspend(there)
    incomplete = await failure(there.wire, [header("s", "a", CONTENT), *chunks(CONTENT[:SENT])])
    assert incomplete.reason == "UPLOAD_INCOMPLETE"
    await send(there.wire, [header("s", "a", CONTENT, offset=SENT), *chunks(CONTENT[SENT:])])
    # Of two pieces; those of another one with the same content go.
    made = await send(there.wire, [header("s", "b", CONTENT), *chunks(CONTENT)])
    await there.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id="a"))
    stored = await reaped(*storage)
    assert (stored.size_bytes, stored.rows["blobs"], stored.rows["pieces"]) == (made.size_bytes, 1, 2)
    await there.wire.call("DeleteAttachment", a.DeleteAttachmentRequest(session_id="s", attachment_id="b"))
    await there.wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))


async def test_limit_reached_during_an_upload_leaves_existing_bytes(there: Site) -> None:
    update = Session(session_id="s", config=SessionConfig(max_attachments=1))
    halted = Halted(there)
    await there.arrived()
    request = s.UpdateSessionRequest(session=update, update_mask=FieldMask(paths=["config"]))
    await there.wire.call("UpdateSession", request)
    other = await send(there.wire, [header("s", "b", CONTENT[::-1]), *chunks(CONTENT[::-1])])
    refused = await halted.failure()
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ATTACHMENT_LIMIT_REACHED")
    there.kept = other.size_bytes
