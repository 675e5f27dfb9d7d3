"""Sessions that take the id of a deleted one: nothing of the one is mistaken for anything of the other."""

import asyncio
from datetime import timedelta

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain.fold import fold
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import (
    MessageNotFound,
    RequestIdReused,
    SessionAlreadyExists,
    SessionNotFound,
    SessionQuotaReached,
    UploadSuperseded,
)
from sessiond_server.store.contract import Store
from tests.support.caller import OTHER_PRINT, Caller, accepted, message, one, refused, session, struct, whole_log
from tests.support.run_actions import begin, request
from tests.support.store_backend import Backend, Open
from tests.support.stored_uploads import begun, completion, declared, reaped, uploaded

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED


async def reused(store: Store, caller: Caller, session_id: str = "s") -> int:
    """Creates, fills, deletes and creates the session; returns the version of the deletion."""
    await accepted(store, caller.create(session_id, state=struct(life=1)), caller.append_ids(session_id, "a", "b"))
    gone = await one(store, caller.delete(session_id), c.SessionDeleted)
    await accepted(store, caller.create(session_id, reuse=True, state=struct(life=2)))
    return gone.version


async def test_versions_go_on_behind_the_deletion(store: Store, caller: Caller) -> None:
    base = await reused(store, caller)
    assert base == 4
    snapshot = await store.get_session(caller.scope, "s", content=True)
    made = Session.FromString(snapshot.core + snapshot.content)
    assert (snapshot.version, made.version, made.base_version, made.content_version) == (5, 5, 4, 5)
    assert (made.message_count, made.request_count, made.state) == (0, 1, struct(life=2))
    done = await one(store, caller.append_ids("s", "a", "c"), c.MessagesAppended)
    assert (done.first_seq, done.version) == (6, 7)
    log = await whole_log(store, caller.scope, "s")
    assert [(event.seq, event.type) for event in log] == [(5, CREATED), (6, APPENDED), (7, APPENDED)]
    assert log[0].previous_event_id == ""
    folded = Session()
    for event in log:
        folded = fold(folded, event)
    now = await store.get_session(caller.scope, "s", content=True)
    assert folded == Session.FromString(now.core + now.content)


async def test_nothing_is_left_of_the_session_before(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a"), caller.command("s", begin("r")))
    await accepted(store, caller.command("s", request("t")), caller.delete("s"), caller.create("s", reuse=True))
    with pytest.raises(MessageNotFound):
        await store.get_message(caller.scope, "s", "a")
    page = await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=9)
    assert list(page.messages) == []
    # Their ids are free.
    await accepted(
        store, caller.append_ids("s", "a"), caller.command("s", begin("r")), caller.command("s", request("t"))
    )


@pytest.mark.parametrize("how", ["never used", "gone"])
async def test_an_id_without_a_tombstone_is_taken_as_any_other(open_backend: Open, caller: Caller, how: str) -> None:
    backend = await open_backend(tombstone_retention=timedelta(days=30))
    if how == "gone":
        await accepted(backend.store, caller.create("s"), caller.delete("s"))
        await backend.advance(31 * 86_400)
        await backend.store.purge(100)
    done = await one(backend.store, caller.create("s", reuse=True), c.SessionWritten)
    assert (done.version, Session.FromString(done.session.core).base_version) == (1, 0)


async def test_a_live_or_ended_session_is_not_taken(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("live"), caller.create("over"), caller.end("over"))
    for session_id in ("live", "over"):
        await refused(store, caller.create(session_id, reuse=True), SessionAlreadyExists)


async def test_a_deleted_session_is_taken_only_with_the_flag_and_by_its_user(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="ada"), caller.delete("s"))
    await refused(store, caller.create("s", user_id="ada"), SessionAlreadyExists)
    await refused(store, caller.create("s", reuse=True), SessionAlreadyExists)
    bob = Caller(c.Scope("tenant", "bob"))
    await refused(store, bob.create("s", reuse=True, user_id="bob"), SessionAlreadyExists)
    ada = Caller(c.Scope("tenant", "ada"))
    done = await one(store, ada.create("s", reuse=True, user_id="ada"), c.SessionWritten)
    assert done.version == 3
    with pytest.raises(SessionNotFound):
        await store.get_session(bob.scope, "s", content=False)


async def test_an_id_can_be_taken_again_and_again(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.delete("s"))
    for life in range(1, 5):
        done = await one(store, caller.create("s", reuse=True), c.SessionWritten)
        assert (done.version, Session.FromString(done.session.core).base_version) == (2 * life + 1, 2 * life)
        assert (await one(store, caller.delete("s"), c.SessionDeleted)).version == 2 * life + 2


@pytest.mark.parametrize("together", [True, False])
async def test_requests_of_a_session_before_do_nothing_to_the_next(
    store: Store, caller: Caller, together: bool
) -> None:
    lives = [
        [caller.create("s", f"create-{n}", reuse=True), caller.append("s", "x"), caller.delete("s", f"delete-{n}")]
        for n in range(3)
    ]
    if together:
        await accepted(store, *(command for life in lives for command in life))
    else:
        for command in (command for life in lives for command in life):
            await accepted(store, command)
    for alive in (False, True):
        if alive:
            await accepted(store, caller.create("s", "create-3", reuse=True), caller.append("s", "kept"))
        for n, (create, _, delete) in enumerate(lives):
            await refused(store, create, SessionAlreadyExists)
            assert (await one(store, delete, c.SessionDeleted)).version == 3 * n + 3
            other = caller.command("s", c.DeleteSession(), f"delete-{n}", fingerprint=OTHER_PRINT)
            await refused(store, other, RequestIdReused)
    snapshot = await store.get_session(caller.scope, "s", content=False)
    assert (snapshot.version, Session.FromString(snapshot.core).message_count) == (11, 1)


async def test_request_ids_of_the_session_before_are_free_in_the_batch_of_its_deletion(
    store: Store, caller: Caller
) -> None:
    """The deletion has removed their records, though the batch has read them before."""
    await accepted(store, caller.create("s"), caller.append("s", "one", request_id="r"))
    fresh = caller.command("s", c.AppendMessages([message("two")]), "r", fingerprint=OTHER_PRINT)
    results = await accepted(store, caller.delete("s"), caller.create("s", reuse=True), fresh)
    done = results[-1]
    assert isinstance(done, c.MessagesAppended)
    assert (done.first_seq, done.version) == (5, 5)
    assert await one(store, fresh, c.MessagesAppended) == done
    await refused(store, caller.append("s", "one", request_id="r"), RequestIdReused)


async def test_retry_of_the_creation_gets_the_session(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.delete("s"))
    create = caller.create("s", "again", reuse=True, summary="two")
    first = await one(store, create, c.SessionWritten)
    await accepted(store, caller.append("s", "x"))
    assert await one(store, create, c.SessionWritten) == first


async def test_of_two_that_take_an_id_at_once_one_gets_it(backend: Backend, caller: Caller) -> None:
    for _ in range(10):
        await accepted(backend.store, caller.create("s", reuse=True), caller.delete("s"))
        results = await asyncio.gather(
            *(store.apply([caller.create("s", reuse=True)]) for store in (backend.store, backend.other) * 3)
        )
        outcomes = [result for applied in results for result in applied.results]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["SessionAlreadyExists"] * 5 + [
            "SessionWritten"
        ]
        await accepted(backend.store, caller.delete("s"))


async def test_taking_an_id_races_the_removal_of_its_tombstone(open_backend: Open, caller: Caller) -> None:
    """Either the log goes on behind the tombstone, or it begins anew: never a bit of both."""
    backend = await open_backend(tombstone_retention=timedelta(days=30))
    names = [f"s{n}" for n in range(30)]
    for name in names:
        await accepted(backend.store, caller.create(name), caller.append(name, "x"), caller.delete(name))
    await backend.advance(31 * 86_400)
    purges = [backend.store.purge(3) for _ in range(8)]
    creations = [one(backend.store, caller.create(name, reuse=True), c.SessionWritten) for name in names]
    mixed = [task for pair in zip(creations, [*purges, *[None] * 22], strict=True) for task in pair if task is not None]
    await asyncio.gather(*mixed)
    await backend.store.purge(1000)
    for name in names:
        snapshot = await backend.store.get_session(caller.scope, name, content=False)
        base = Session.FromString(snapshot.core).base_version
        assert (base, snapshot.version) in ((0, 1), (3, 4))
        assert len(await whole_log(backend.store, caller.scope, name)) == 1
        await accepted(backend.store, caller.append(name, "y"))


async def test_all_in_one_batch(store: Store, caller: Caller) -> None:
    """Also a message id that the session before had, and its request ids."""
    await accepted(store, caller.create("s", summary="one"), caller.append_ids("s", "a"))
    fresh = caller.command("s", c.AppendMessages([message("new", "a")]), "r")
    await accepted(
        store,
        caller.append_ids("s", "b"),
        caller.update("s", name="changed"),
        caller.command("s", begin("run")),
        caller.delete("s"),
        caller.create("s", reuse=True, name="second", state=struct(life=2)),
        fresh,
        caller.command("s", begin("run")),
        fresh,
    )
    log = await whole_log(store, caller.scope, "s")
    assert [event.seq for event in log] == [7, 8, 9]
    snapshot = await store.get_session(caller.scope, "s", content=True)
    made = Session.FromString(snapshot.core + snapshot.content)
    assert (made.name, made.summary, made.state, made.message_count, made.run_count) == (
        "second", "", struct(life=2), 1, 1,
    )  # fmt: skip
    _, data = await store.get_message(caller.scope, "s", "a")
    assert Message.FromString(data).parts[0].text == "new"
    page = await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=False, limit=10)
    assert [Message.FromString(data).message_id for data in page.messages] == ["a"]


async def test_preset_runs_are_of_the_first_event(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.delete("s"))
    runs = [Run(run_id="earlier", status=RunStatus.RUN_STATUS_COMPLETED)]
    action = c.CreateSession(session(session_id="s"), runs, reuse_deleted=True)
    await accepted(store, caller.command("s", action))
    (event,) = await whole_log(store, caller.scope, "s")
    assert [(run.run_id, run.seq, run.version) for run in event.preset_runs] == [("earlier", 3, 3)]


async def test_feed_has_the_deletion_and_then_the_creation(store: Store, caller: Caller) -> None:
    await reused(store, caller)
    await accepted(store, caller.append("s", "x"))
    page = await store.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    assert [(entry.entry.seq, entry.entry.type) for entry in page.entries] == [
        (4, DELETED), (5, CREATED), (6, APPENDED),
    ]  # fmt: skip
    await accepted(store, caller.delete("s"))
    page = await store.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    assert [(entry.entry.seq, entry.entry.type) for entry in page.entries] == [(7, DELETED)]


async def test_events_of_the_session_before_are_not_lost(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "x"))
    page = await store.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    anchors = [(entry.place, entry.entry.event_id) for entry in page.entries]
    await accepted(store, caller.delete("s"))
    page = await store.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    anchors += [(entry.place, entry.entry.event_id) for entry in page.entries]
    await accepted(store, caller.create("s", reuse=True), caller.append("s", "y"))
    page = await store.read_feed("tenant", after=anchors[-1][0], limit=100)
    now = [(entry.place, entry.entry.event_id) for entry in page.entries]
    assert len(now) == 2
    assert await store.find_lost("tenant", [*anchors, *now]) is None
    # What the new session never had is.
    place, _ = now[-1]
    absent = FeedPlace(place.commit_xid, "s", place.seq + 1)
    assert await store.find_lost("tenant", [(absent, now[-1][1])]) == absent


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_pages_of_the_log_begin_with_the_creation(store: Store, caller: Caller, limit: int) -> None:
    base = await reused(store, caller)
    await accepted(store, caller.append("s", "x"))
    for after in range(base + 2):
        page = await store.read_log(("tenant", "s"), after_seq=after, limit=limit)
        first = max(after, base) + 1
        assert [entry.seq for entry in page.entries] == list(range(first, base + 3))[:limit]
        assert (page.before is not None) == (after >= base)
        assert page.head.version == base + 2
    before = (await store.read_log(("tenant", "s"), after_seq=base, limit=1)).before
    assert before is not None
    assert before.type == DELETED


async def test_a_counted_tenant_counts_the_new_session(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(max_live_sessions=1))
    await accepted(backend.store, caller.create("s"), caller.delete("s"), caller.create("other"))
    await refused(backend.store, caller.create("s", reuse=True), SessionQuotaReached)
    await accepted(backend.store, caller.delete("other"), caller.create("s", reuse=True))


async def test_files_of_the_session_before_are_reaped_and_those_of_the_next_are_not(
    backend: Backend, caller: Caller
) -> None:
    await accepted(backend.store, caller.create("s"))
    await uploaded(backend, caller, declared("a", b"same"))
    _, alone = await uploaded(backend, caller, declared("b", b"only before"))
    for _ in range(2):
        await accepted(backend.store, caller.delete("s"), caller.create("s", reuse=True))
        again, _ = await uploaded(backend, caller, declared("a", b"same"))
        assert again.seq > 1
    gone = await reaped(backend)
    assert alone in gone
    file = await backend.attachments.get_file(caller.scope, "s", "a")
    kept = {extent.piece for extent in file.extents}
    assert kept
    assert not kept & gone
    await backend.advance(3600)
    assert not kept & await reaped(backend)


async def test_an_upload_to_the_session_before_completes_and_discards_nothing_of_the_next(
    backend: Backend, caller: Caller
) -> None:
    await accepted(backend.store, caller.create("s"))
    before = await begun(backend, caller, declared("a", b"12345"))
    await accepted(backend.store, caller.delete("s"), caller.create("s", reuse=True))
    after = await begun(backend, caller, declared("a", b"12345"))
    assert before.epoch == after.epoch
    stale, fresh = (completion(upload) for upload in (before, after))
    assert stale != fresh
    await refused(backend.store, caller.command("s", stale), UploadSuperseded)
    for epoch in (None, before.epoch):
        assert not await backend.attachments.discard_upload(caller.scope, "s", "a", epoch, before.blob_id)
    assert not await backend.attachments.touch_upload(before)
    await one(backend.store, caller.command("s", fresh), c.AttachmentUploaded)


async def test_cached_reads_see_the_new_session_at_once(backend: Backend, caller: Caller) -> None:
    for life in range(3):
        await accepted(backend.store, caller.create("s", reuse=True, name=f"life {life}"))
        await accepted(backend.store, caller.append("s", *["x"] * (life + 1)))
        for store in (backend.store, backend.other):
            snapshot = await store.get_session(caller.scope, "s", content=True)
            made = Session.FromString(snapshot.core)
            assert (made.name, made.message_count) == (f"life {life}", life + 1)
            page = await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=50)
            assert len(page.messages) == life + 1
        await accepted(backend.store, caller.delete("s"))
        for store in (backend.store, backend.other):
            with pytest.raises(SessionNotFound):
                await store.get_session(caller.scope, "s", content=True)
