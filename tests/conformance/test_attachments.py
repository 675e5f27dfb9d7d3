"""Every sentence of store/attachments.py, and the rules of attachments, over every store."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments.rows import Extent, Piece
from sessiond_server.domain.fold import fold
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import (
    AttachmentAlreadyExists,
    AttachmentLimitReached,
    AttachmentNotFound,
    AttachmentSpaceExhausted,
    AttachmentTooLarge,
    RequestIdReused,
    SessionEnded,
    SessionNotFound,
    TooManyUploads,
    UploadSuperseded,
)
from tests.support.caller import OTHER_PRINT, Caller, accepted, one, refused, whole_log
from tests.support.store_backend import Backend, Open
from tests.support.stored_uploads import begun, completion, declared, new_piece, reaped, uploaded

GRACE = 61
"""Seconds after which a writer must have noticed that its piece was replaced."""


async def core(backend: Backend, caller: Caller, session_id: str = "s") -> Session:
    return Session.FromString((await backend.store.get_session(caller.scope, session_id, content=False)).core)


@pytest.fixture
async def with_session(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))


@pytest.mark.usefixtures("with_session")
async def test_an_upload_becomes_an_attachment_with_its_event(backend: Backend, caller: Caller) -> None:
    given = declared("a", b"12345")
    upload = await begun(backend, caller, given)
    with pytest.raises(AttachmentNotFound):
        await backend.attachments.get_attachment(caller.scope, "s", "a")
    assert (await core(backend, caller)).version == 1
    done = await one(backend.store, caller.command("s", completion(upload)), c.AttachmentUploaded)
    assert done.version == 2
    attachment = Attachment.FromString(done.attachment)
    assert (attachment.session_id, attachment.seq) == ("s", 2)
    for name in ("attachment_id", "name", "media_type", "type", "size_bytes", "sha256"):
        assert getattr(attachment, name) == getattr(given, name)
    event = (await whole_log(backend.store, caller.scope, "s"))[-1]
    assert event.type == EventType.EVENT_TYPE_ATTACHMENT_UPLOADED
    assert event.attachment == attachment
    assert event.create_time == attachment.create_time
    assert await backend.attachments.get_attachment(caller.scope, "s", "a") == done.attachment
    file = await backend.other_attachments.get_file(caller.scope, "s", "a")
    assert file.attachment == done.attachment
    assert list(file.extents) == [Extent(upload.piece, 5)]
    assert await backend.attachments.get_upload(caller.scope, "s", "a") is None


@pytest.mark.usefixtures("with_session")
async def test_the_session_counts_its_attachments_and_folds_to_them(backend: Backend, caller: Caller) -> None:
    await uploaded(backend, caller, declared("a", b"123"))
    await uploaded(backend, caller, declared("b", b"45678"))
    await one(backend.store, caller.command("s", c.DeleteAttachment("a")), c.AttachmentDeleted)
    session = await core(backend, caller)
    assert (session.attachment_count, session.attachment_bytes, session.version) == (1, 5, 4)
    folded = Session()
    for event in await whole_log(backend.store, caller.scope, "s"):
        folded = fold(folded, event)
    assert folded == session
    assert session.last_activity_time.ToMicroseconds() < session.update_time.ToMicroseconds()


@pytest.mark.usefixtures("with_session")
async def test_a_retried_completion_has_one_effect(backend: Backend, caller: Caller) -> None:
    upload = await begun(backend, caller, declared("a"))
    command = caller.command("s", completion(upload), "r-1")
    first = await one(backend.store, command, c.AttachmentUploaded)
    assert await one(backend.other, command, c.AttachmentUploaded) == first
    # A retry that found no upload to resume knows no epoch.
    again = caller.command("s", replace(completion(upload), epoch=0), "r-1")
    assert await one(backend.store, again, c.AttachmentUploaded) == first
    other = caller.command("s", completion(upload), "r-1", fingerprint=OTHER_PRINT)
    await refused(backend.store, other, RequestIdReused)
    await refused(backend.store, caller.command("s", completion(upload)), AttachmentAlreadyExists)
    assert (await core(backend, caller)).attachment_count == 1
    first_in_batch, second = (await backend.store.apply([command, command])).results
    assert first_in_batch == second == first


@pytest.mark.usefixtures("with_session")
async def test_a_batch_completes_an_upload_once(backend: Backend, caller: Caller) -> None:
    upload = await begun(backend, caller, declared("a"))
    commands = [caller.command("s", completion(upload)) for _ in range(2)]
    first, second = (await backend.store.apply(commands)).results
    assert isinstance(first, c.AttachmentUploaded)
    assert type(second) is AttachmentAlreadyExists
    assert (await core(backend, caller)).attachment_count == 1


@pytest.mark.usefixtures("with_session")
async def test_an_id_is_taken_for_ever(backend: Backend, caller: Caller) -> None:
    attachments = backend.attachments
    await begun(backend, caller, declared("a"))
    assert await attachments.begin_upload(caller.scope, "s", declared("a"), new_piece(caller)) is None
    upload = await attachments.get_upload(caller.scope, "s", "a")
    assert upload is not None
    await accepted(backend.store, caller.command("s", completion(upload)))
    assert await attachments.begin_upload(caller.scope, "s", declared("a"), new_piece(caller)) is None
    await accepted(backend.store, caller.command("s", c.DeleteAttachment("a")))
    assert await attachments.begin_upload(caller.scope, "s", declared("a"), new_piece(caller)) is None
    assert await attachments.resume_upload(caller.scope, upload, [], new_piece(caller)) is None


@pytest.mark.usefixtures("with_session")
async def test_resuming_an_upload_takes_it_over(backend: Backend, caller: Caller) -> None:
    first = await begun(backend, caller, declared("a", b"0123456789"))
    kept = Extent(first.piece, 4)
    found = await backend.other_attachments.get_upload(caller.scope, "s", "a")
    assert found == first
    second = await backend.other_attachments.resume_upload(caller.scope, found, [kept], new_piece(caller))
    assert second is not None
    assert (second.epoch, second.extents, second.start) == (2, (kept,), 4)
    assert await backend.attachments.get_upload(caller.scope, "s", "a") == second
    # The first one is told, whatever it does.
    assert not await backend.attachments.touch_upload(first)
    assert await backend.attachments.touch_upload(second)
    assert await backend.attachments.resume_upload(caller.scope, first, [kept], new_piece(caller)) is None
    assert not await backend.attachments.discard_upload(caller.scope, "s", "a", first.epoch)
    await refused(backend.store, caller.command("s", completion(first)), UploadSuperseded)
    await accepted(backend.store, caller.command("s", completion(second)))
    file = await backend.attachments.get_file(caller.scope, "s", "a")
    assert list(file.extents) == [kept, Extent(second.piece, 6)]


@pytest.mark.usefixtures("with_session")
async def test_pieces_left_by_a_resumed_upload_are_released_after_the_grace(backend: Backend, caller: Caller) -> None:
    first = await begun(backend, caller, declared("a", b"0123456789"))
    second = await backend.attachments.resume_upload(caller.scope, first, [Extent(first.piece, 4)], new_piece(caller))
    assert second is not None
    third = await backend.attachments.resume_upload(caller.scope, second, [Extent(first.piece, 2)], new_piece(caller))
    assert third is not None
    assert third.start == 2
    assert await reaped(backend) == set()
    await backend.advance(GRACE)
    assert await reaped(backend) == {second.piece}
    await accepted(backend.store, caller.command("s", completion(third)))
    await backend.advance(GRACE)
    assert await reaped(backend) == set()
    file = await backend.attachments.get_file(caller.scope, "s", "a")
    assert list(file.extents) == [Extent(first.piece, 2), Extent(third.piece, 8)]


@pytest.mark.usefixtures("with_session")
async def test_discarded_upload_is_released_at_once_by_its_own_writer_only(backend: Backend, caller: Caller) -> None:
    own = await begun(backend, caller, declared("own"))
    others = await begun(backend, caller, declared("others"))
    assert await backend.attachments.discard_upload(caller.scope, "s", "own", own.epoch)
    assert not await backend.attachments.discard_upload(caller.scope, "s", "own", own.epoch)
    assert await backend.attachments.discard_upload(caller.scope, "s", "others", None)
    assert not await backend.attachments.touch_upload(others)
    await refused(backend.store, caller.command("s", completion(own)), UploadSuperseded)
    assert await reaped(backend) == {own.piece}
    await backend.advance(GRACE)
    assert await reaped(backend) == {others.piece}
    # Their ids were never an attachment's.
    await begun(backend, caller, declared("own"))


async def test_silent_uploads_are_abandoned(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(upload_retention=timedelta(hours=1))
    await accepted(backend.store, caller.create("s"))
    silent = await begun(backend, caller, declared("silent"))
    alive = await begun(backend, caller, declared("alive"))
    await backend.advance(3000)
    assert await backend.attachments.touch_upload(alive)
    await backend.advance(700)
    assert await backend.attachments.abandon_uploads(10) == 1
    assert await backend.attachments.abandon_uploads(10) == 0
    assert await backend.attachments.get_upload(caller.scope, "s", "silent") is None
    assert await reaped(backend) == {silent.piece}
    await accepted(backend.store, caller.command("s", completion(alive)))


@pytest.mark.usefixtures("with_session")
async def test_equal_content_is_kept_once_within_a_tenant(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s2"))
    _, first = await uploaded(backend, caller, declared("a", b"same"))
    _, second = await uploaded(backend, caller, declared("b", b"same"), "s2")
    assert [e.piece for e in (await backend.attachments.get_file(caller.scope, "s2", "b")).extents] == [first]
    assert await reaped(backend) == {second}
    stranger = Caller(c.Scope("elsewhere"))
    await accepted(backend.store, stranger.create("s"))
    _, third = await uploaded(backend, stranger, declared("a", b"same"))
    assert [e.piece for e in (await backend.attachments.get_file(stranger.scope, "s", "a")).extents] == [third]
    assert await reaped(backend) == set()


@pytest.mark.usefixtures("with_session")
async def test_equal_content_in_one_batch(backend: Backend, caller: Caller) -> None:
    uploads = [await begun(backend, caller, declared(name, b"same")) for name in "abc"]
    await accepted(backend.store, *(caller.command("s", completion(upload)) for upload in uploads))
    files = [await backend.attachments.get_file(caller.scope, "s", name) for name in "abc"]
    assert {file.extents[0].piece for file in files} == {uploads[0].piece}
    assert await reaped(backend) == {uploads[1].piece, uploads[2].piece}


@pytest.mark.usefixtures("with_session")
async def test_bytes_are_released_with_their_last_reference(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s2"))
    _, piece = await uploaded(backend, caller, declared("a", b"same"))
    _, double = await uploaded(backend, caller, declared("b", b"same"), "s2")
    assert await reaped(backend) == {double}
    await one(backend.store, caller.command("s", c.DeleteAttachment("a")), c.AttachmentDeleted)
    assert await reaped(backend) == set()
    assert len((await backend.attachments.get_file(caller.scope, "s2", "b")).extents) == 1
    await accepted(backend.store, caller.delete("s2"))
    assert await reaped(backend) == {piece}
    # The content is new again.
    _, anew = await uploaded(backend, caller, declared("c", b"same"))
    assert await reaped(backend) == set()
    assert (await backend.attachments.get_file(caller.scope, "s", "c")).extents[0].piece == anew


@pytest.mark.usefixtures("with_session")
async def test_content_released_and_uploaded_concurrently_is_kept(backend: Backend, caller: Caller) -> None:
    """The reaper races uploads that complete with the same content: no attachment may end up without bytes."""
    _, piece = await uploaded(backend, caller, declared("a0", b"same"))
    live = {piece}
    for number in range(1, 13):
        upload = await begun(backend, caller, declared(f"a{number}", b"same"))
        live.add(upload.piece)
        delete = caller.command("s", c.DeleteAttachment(f"a{number - 1}"))
        complete = caller.command("s", completion(upload))
        await accepted(backend.store, delete)
        results = await asyncio.gather(
            backend.attachments.release_blobs(10),
            backend.other.apply([complete]),
            backend.other_attachments.release_blobs(10),
        )
        assert isinstance(results[1].results[0], c.AttachmentUploaded)
        live -= await reaped(backend)
        file = await backend.attachments.get_file(caller.scope, "s", f"a{number}")
        assert sum(extent.length for extent in file.extents) == 4
        assert {extent.piece for extent in file.extents} <= live
    assert len(live) == 1


@pytest.mark.usefixtures("with_session")
async def test_two_replicas_complete_equal_content_at_once(backend: Backend, caller: Caller) -> None:
    for number in range(8):
        names = (f"a{number}", f"b{number}")
        uploads = [await begun(backend, caller, declared(name, b"%d" % number)) for name in names]
        await accepted(backend.store, caller.create(f"t{number}"))
        elsewhere = await begun(backend, caller, declared("x", b"%d" % number), f"t{number}")
        await asyncio.gather(
            backend.store.apply([caller.command("s", completion(upload)) for upload in uploads]),
            backend.other.apply([caller.command(f"t{number}", completion(elsewhere))]),
        )
        files = [await backend.attachments.get_file(caller.scope, "s", name) for name in names]
        files.append(await backend.attachments.get_file(caller.scope, f"t{number}", "x"))
        (kept,) = {extent.piece for file in files for extent in file.extents}
        assert await reaped(backend) == {upload.piece for upload in (*uploads, elsewhere)} - {kept}


@pytest.mark.usefixtures("with_session")
async def test_deleting(backend: Backend, caller: Caller) -> None:
    attachment, _ = await uploaded(backend, caller, declared("a"))
    done = await one(backend.store, caller.command("s", c.DeleteAttachment("a"), "r"), c.AttachmentDeleted)
    assert done.version == 3
    event = (await whole_log(backend.store, caller.scope, "s"))[-1]
    assert (event.type, event.attachment) == (EventType.EVENT_TYPE_ATTACHMENT_DELETED, attachment)
    assert await one(backend.store, caller.command("s", c.DeleteAttachment("a"), "r"), c.AttachmentDeleted) == done
    await refused(backend.store, caller.command("s", c.DeleteAttachment("a")), AttachmentNotFound)
    await refused(backend.store, caller.command("s", c.DeleteAttachment("never")), AttachmentNotFound)
    for read in (backend.attachments.get_attachment, backend.attachments.get_file):
        with pytest.raises(AttachmentNotFound):
            await read(caller.scope, "s", "a")


@pytest.mark.usefixtures("with_session")
async def test_uploaded_and_deleted_in_one_batch(backend: Backend, caller: Caller) -> None:
    upload = await begun(backend, caller, declared("a"))
    await accepted(backend.store, caller.command("s", completion(upload)), caller.command("s", c.DeleteAttachment("a")))
    assert await reaped(backend) == {upload.piece}
    session = await core(backend, caller)
    assert (session.version, session.attachment_count, session.attachment_bytes) == (3, 0, 0)


@pytest.mark.usefixtures("with_session")
async def test_attachments_are_listed_in_pages(backend: Backend, caller: Caller) -> None:
    bodies = [(await uploaded(backend, caller, declared(f"a{n}", b"%d" % n)))[0] for n in range(5)]
    await accepted(backend.store, caller.append("s"), caller.command("s", c.DeleteAttachment("a2")))
    expected = [body for body in bodies if body.attachment_id != "a2"]
    found: list[Attachment] = []
    after, more = 0, True
    while more:
        page = await backend.attachments.list_attachments(caller.scope, "s", after_seq=after, limit=3)
        found += map(Attachment.FromString, page.attachments)
        assert (page.version, page.last_seq) == (8, found[-1].seq)
        after, more = page.last_seq, page.more
    assert found == expected
    page = await backend.attachments.list_attachments(caller.scope, "s", after_seq=after, limit=3)
    assert (page.attachments, page.last_seq, page.more) == ([], 0, False)
    assert not (await backend.attachments.list_attachments(caller.scope, "s", after_seq=0, limit=4)).more


async def test_limits_of_the_session(backend: Backend, caller: Caller) -> None:
    config = SessionConfig(max_attachments=2, max_attachment_bytes=5)
    await accepted(backend.store, caller.create("s", config=config))
    with pytest.raises(AttachmentTooLarge) as too_large:
        await begun(backend, caller, declared("a", b"123456"))
    assert too_large.value.metadata == {"session_id": "s", "size_bytes": "6", "limit_bytes": "5"}
    uploads = [await begun(backend, caller, declared(name, b"12345")) for name in "abc"]
    results = (await backend.store.apply([caller.command("s", completion(upload)) for upload in uploads])).results
    assert [type(result) for result in results] == [c.AttachmentUploaded, c.AttachmentUploaded, AttachmentLimitReached]
    with pytest.raises(AttachmentLimitReached):
        await begun(backend, caller, declared("d", b"1"))
    with pytest.raises(AttachmentLimitReached):
        await backend.attachments.resume_upload(caller.scope, uploads[2], [], new_piece(caller))
    await accepted(backend.store, caller.command("s", c.DeleteAttachment("a")))
    await accepted(backend.store, caller.command("s", completion(uploads[2])))


async def test_limits_of_the_server(open_backend: Open, caller: Caller) -> None:
    policy = Policy(max_attachment_bytes=10, max_session_attachment_bytes=25, max_unfinished_uploads=2)
    backend = await open_backend(policy=policy)
    await accepted(backend.store, caller.create("s", config=SessionConfig(max_attachment_bytes=1000)))
    with pytest.raises(AttachmentTooLarge):
        await begun(backend, caller, declared("a", bytes(11)))
    await uploaded(backend, caller, declared("a", bytes(10)))
    upload = await begun(backend, caller, declared("b", bytes(9)))
    with pytest.raises(AttachmentSpaceExhausted):
        await begun(backend, caller, declared("c", bytes(7)))
    await begun(backend, caller, declared("c", bytes(6)))
    with pytest.raises(AttachmentSpaceExhausted):
        await begun(backend, caller, declared("d", bytes(1)))
    assert await backend.attachments.discard_upload(caller.scope, "s", "c", None)
    await begun(backend, caller, declared("d", bytes(1)))
    with pytest.raises(TooManyUploads):
        await begun(backend, caller, declared("e", bytes(1)))
    # What is resumed is not counted twice.
    assert await backend.attachments.resume_upload(caller.scope, upload, [], new_piece(caller)) is not None


async def test_concurrent_uploads_stay_within_the_limits(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(max_unfinished_uploads=3))
    await accepted(backend.store, caller.create("s"))
    results = await asyncio.gather(
        *(
            store.begin_upload(caller.scope, "s", declared(f"a{n}"), new_piece(caller))
            for n, store in enumerate([backend.attachments, backend.other_attachments] * 3)
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["TooManyUploads"] * 3 + ["Upload"] * 3


async def test_uploads_follow_the_life_of_their_session(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.create("short", ttl=Duration(seconds=60)))
    await uploaded(backend, caller, declared("kept"))
    upload = await begun(backend, caller, declared("a", b"other"))
    expiring = await begun(backend, caller, declared("a", b"third"), "short")
    await accepted(backend.store, caller.suspend("s"))
    assert await backend.attachments.touch_upload(upload)
    await uploaded(backend, caller, declared("suspended", b"2"))
    await accepted(backend.store, caller.end("s"))
    await refused(backend.store, caller.command("s", completion(upload)), SessionEnded)
    await refused(backend.store, caller.command("s", c.DeleteAttachment("kept")), SessionEnded)
    with pytest.raises(SessionEnded):
        await begun(backend, caller, declared("b"))
    with pytest.raises(SessionEnded):
        await backend.attachments.resume_upload(caller.scope, upload, [], new_piece(caller))
    assert (await backend.attachments.get_file(caller.scope, "s", "kept")).extents
    assert await backend.attachments.discard_upload(caller.scope, "s", "a", upload.epoch)
    await backend.advance(61)
    await refused(backend.store, caller.command("short", completion(expiring)), SessionEnded)


@pytest.mark.usefixtures("with_session")
async def test_deleting_a_session_leaves_nothing_of_its_files(backend: Backend, caller: Caller) -> None:
    _, piece = await uploaded(backend, caller, declared("a", b"one"))
    upload = await begun(backend, caller, declared("b", b"two"))
    in_batch = await begun(backend, caller, declared("c", b"three"))
    await accepted(backend.store, caller.command("s", completion(in_batch)), caller.delete("s"))
    for call in (backend.attachments.get_attachment, backend.attachments.get_upload, backend.attachments.get_file):
        with pytest.raises(SessionNotFound):
            await call(caller.scope, "s", "a")
    assert not await backend.attachments.touch_upload(upload)
    removed = await reaped(backend)
    assert piece in removed
    await backend.advance(GRACE)
    removed |= await reaped(backend)
    assert removed == {piece, upload.piece, in_batch.piece}


@pytest.mark.usefixtures("with_session")
async def test_attachments_are_not_found_for_others(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("owned", user_id="ada"))
    await uploaded(backend, caller, declared("a"), "owned")
    upload = await begun(backend, caller, declared("b"), "owned")
    attachments = backend.attachments
    for scope in (c.Scope("elsewhere"), c.Scope(caller.scope.tenant_id, "bob")):
        stranger = Caller(scope)
        for read in (attachments.get_attachment, attachments.get_file, attachments.get_upload):
            with pytest.raises(SessionNotFound):
                await read(scope, "owned", "a")
        with pytest.raises(SessionNotFound):
            await attachments.list_attachments(scope, "owned", after_seq=0, limit=1)
        with pytest.raises(SessionNotFound):
            await begun(backend, stranger, declared("c"), "owned")
        with pytest.raises(SessionNotFound):
            await attachments.discard_upload(scope, "owned", "b", None)
        for action in (completion(upload), c.DeleteAttachment("a")):
            await refused(backend.store, stranger.command("owned", action), SessionNotFound)
    owner = c.Scope(caller.scope.tenant_id, "ada")
    assert await attachments.get_upload(owner, "owned", "b") == upload
    assert await attachments.get_attachment(owner, "owned", "a")


@pytest.mark.usefixtures("with_session")
async def test_pieces_are_known_until_they_are_forgotten(backend: Backend, caller: Caller) -> None:
    upload = await begun(backend, caller, declared("a"))
    stranger, elsewhere = new_piece(caller), Piece("elsewhere", upload.piece.piece_id)
    asked = [stranger, upload.piece, elsewhere]
    assert list(await backend.attachments.unknown_pieces(asked)) == [stranger, elsewhere]
    await backend.attachments.forget_pieces(asked)
    assert list(await backend.attachments.unknown_pieces(asked)) == [stranger, elsewhere]
    await backend.attachments.discard_upload(caller.scope, "s", "a", upload.epoch)
    assert await backend.attachments.dropped_pieces(0) == []
    assert await reaped(backend) == {upload.piece}
    assert set(await backend.attachments.unknown_pieces(asked)) == set(asked)


@pytest.mark.usefixtures("with_session")
async def test_events_of_attachments_are_streamed(backend: Backend, caller: Caller) -> None:
    attachment, _ = await uploaded(backend, caller, declared("a"))
    page = await backend.store.read_log((caller.scope.tenant_id, "s"), after_seq=1, limit=10)
    (entry,) = page.entries
    assert Event.FromString(entry.data).attachment == attachment
