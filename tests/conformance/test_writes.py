"""Store.apply: what it promises to one caller at a time."""

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionFilter
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold, ids
from sessiond_server.domain.rows import Policy, Writes
from sessiond_server.errors import (
    MessageAlreadyExists,
    MessageNotFound,
    SessionAlreadyExists,
    SessiondError,
    SessionEnded,
    SessionNotActive,
    SessionNotFound,
    SessionQuotaReached,
    VersionMismatch,
)
from sessiond_server.store.contract import Store
from tests.support.caller import ACTIVE, CREATED, Caller, accepted, message, one, refused, struct, whole_log
from tests.support.store_backend import Open


async def test_no_commands_give_no_results(store: Store) -> None:
    applied = await store.apply([])
    assert list(applied.results) == []
    assert applied.writes == Writes()


async def test_results_come_in_the_order_of_the_commands(store: Store, caller: Caller) -> None:
    results = await accepted(store, caller.create("b"), caller.append("b"), caller.create("a"), caller.append("a"))
    kinds = [type(result) for result in results]
    assert kinds == [c.SessionWritten, c.MessagesAppended, c.SessionWritten, c.MessagesAppended]
    written = [r.session for r in results if isinstance(r, c.SessionWritten)]
    assert [Session.FromString(snapshot.core).session_id for snapshot in written] == ["b", "a"]


async def test_the_log_is_gapless_and_folds_to_the_session(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1), status=CREATED))
    await accepted(
        store,
        caller.command("s", c.ActivateSession()),
        caller.append_ids("s", "m1", "m2", "m3"),
        caller.update("s", state=struct(b=[1, 2]), merge=True),
    )
    await accepted(store, caller.redact("s", "m2", "privacy"))
    await accepted(store, caller.suspend("s"), caller.command("s", c.ResumeSession()), caller.touch("s", 0))
    await accepted(store, caller.update("s", name="renamed"), caller.end("s"))

    folded = Session()
    for event in await whole_log(store, caller.scope, "s"):
        folded = fold.fold(folded, event)
    stored = await store.get_session(caller.scope, "s", content=True)
    assert folded == Session.FromString(stored.core + stored.content)
    assert stored.version == folded.version == 12


async def test_appended_messages_stand_at_consecutive_seqs(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s"))
    appended = await one(store, caller.append("s", "one", "two", "three"), c.MessagesAppended)
    assert (appended.first_seq, appended.version) == (3, 5)
    page = await store.list_messages(caller.scope, "s", after_seq=2, before_seq=0, descending=False, limit=10)
    stored = [Message.FromString(item) for item in page.messages]
    assert [m.seq for m in stored] == [3, 4, 5]
    assert tuple(m.message_id for m in stored) == appended.message_ids


async def test_commands_see_those_before_them_in_the_batch(store: Store, caller: Caller) -> None:
    applied = await store.apply(
        [
            caller.append("s"),
            caller.create("s", status=CREATED),
            caller.append("s"),
            caller.command("s", c.ActivateSession()),
            caller.append_ids("s", "m"),
            caller.append_ids("s", "m"),
            caller.delete("s"),
            caller.append("s"),
        ]
    )
    assert [type(result) for result in applied.results] == [
        SessionNotFound,
        c.SessionWritten,
        SessionNotActive,
        c.SessionWritten,
        c.MessagesAppended,
        MessageAlreadyExists,
        c.SessionDeleted,
        SessionNotFound,
    ]


async def test_a_refusal_leaves_its_neighbours_and_no_trace(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "taken"))
    before = await store.get_session(caller.scope, "s", content=True)
    await refused(store, caller.append_ids("s", "new", "taken"), MessageAlreadyExists)
    assert await store.get_session(caller.scope, "s", content=True) == before
    with pytest.raises(MessageNotFound):
        await store.get_message(caller.scope, "s", "new")

    results = (
        await store.apply([caller.append_ids("s", "a"), caller.append_ids("s", "taken"), caller.append("s")])
    ).results
    assert [isinstance(result, SessiondError) for result in results] == [False, True, False]
    assert len(await whole_log(store, caller.scope, "s")) == 4


async def test_all_or_nothing_when_it_raises(open_backend: Open, caller: Caller) -> None:
    """Mutant: heads, events or request records committed apart."""
    broken = False

    def new_id() -> str:
        if broken:
            raise ZeroDivisionError
        return ids.uuid7()

    store = (await open_backend(new_id=new_id)).store
    await accepted(store, caller.create("s"))
    batch = [caller.end("s", "r"), caller.create("t"), caller.append("t")]
    broken = True
    with pytest.raises(ZeroDivisionError):
        await store.apply(batch)
    broken = False
    assert (await store.get_session(caller.scope, "s", content=False)).version == 1
    with pytest.raises(SessionNotFound):
        await store.get_session(caller.scope, "t", content=False)
    results = await accepted(store, *batch)
    assert isinstance(results[0], c.SessionWritten)
    assert results[0].session.version == 2


async def test_expected_version(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s"))
    error = await refused(store, caller.append("s", expected_version=1), VersionMismatch)
    assert error.metadata["current_version"] == "2"
    appended = await one(store, caller.append("s", expected_version=2), c.MessagesAppended)
    assert appended.version == 3
    results = (
        await store.apply([caller.append("s", expected_version=3), caller.append("s", expected_version=3)])
    ).results
    assert [type(result) for result in results] == [c.MessagesAppended, VersionMismatch]
    await refused(store, caller.delete("s", expected_version=3), VersionMismatch)


async def test_an_id_is_taken_once_per_tenant(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="alice"))
    other = Caller(c.Scope("tenant", "bob"))
    mine = await refused(store, caller.create("s"), SessionAlreadyExists)
    theirs = await refused(store, other.create("s", user_id="bob"), SessionAlreadyExists)
    assert mine.message == theirs.message
    await accepted(store, Caller(c.Scope("another tenant")).create("s"))


async def test_an_ended_session_takes_only_deletion(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "m"), caller.end("s"))
    for command in (caller.append("s"), caller.update("s", name="x"), caller.touch("s", 0), caller.redact("s", "m")):
        await refused(store, command, SessionEnded)
    again = await one(store, caller.end("s"), c.SessionWritten)
    assert again.session.version == 3
    assert (await one(store, caller.delete("s"), c.SessionDeleted)).version == 4


async def test_what_the_caller_does_to_its_objects_later_changes_nothing(store: Store, caller: Caller) -> None:
    made, said = caller.create("s", state=struct(nested={"a": [1]})), message("as it was", "m")
    assert isinstance(made.action, c.CreateSession)
    await accepted(store, made, caller.command("s", c.AppendMessages([said])))
    made.action.session.state.update({"nested": "changed"})
    made.action.session.name = "changed"
    said.parts[0].text = "changed"
    stored = await store.get_session(caller.scope, "s", content=True)
    read = Session.FromString(stored.core + stored.content)
    assert (read.name, read.state) == ("named", struct(nested={"a": [1]}))
    assert Message.FromString((await store.get_message(caller.scope, "s", "m"))[1]).parts[0].text == "as it was"


async def test_content_survives_events_that_do_not_write_it(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(kept="yes"), summary="first"))
    await accepted(store, caller.append("s"), caller.update("s", name="renamed"), caller.suspend("s"))
    updated = await one(store, caller.update("s", summary="second"), c.SessionWritten)
    stored = await store.get_session(caller.scope, "s", content=True)
    assert updated.session == stored
    read = Session.FromString(stored.core + stored.content)
    assert (read.state, read.summary, read.content_version) == (struct(kept="yes"), "second", 5)


async def test_the_quota_counts_sessions_that_have_not_ended(open_backend: Open, caller: Caller) -> None:
    store = (await open_backend(policy=Policy(max_live_sessions=2))).store
    await accepted(store, caller.create("a"))
    results = (await store.apply([caller.create("b"), caller.create("c")])).results
    assert [type(result) for result in results] == [c.SessionWritten, SessionQuotaReached]
    await accepted(store, Caller(c.Scope("another")).create("c"))
    await accepted(store, caller.end("a"))
    await accepted(store, caller.create("c"))
    await refused(store, caller.create("d"), SessionQuotaReached)
    await accepted(store, caller.delete("b"), caller.create("d"))
    assert await store.count_sessions(caller.scope, SessionFilter()) == 3


async def test_deleting_leaves_a_tombstone(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.append_ids("s", "m"))
    deleted = await one(store, caller.delete("s", "bye"), c.SessionDeleted)
    assert deleted.version == 3
    with pytest.raises(SessionNotFound):
        await store.get_session(caller.scope, "s", content=True)
    with pytest.raises(SessionNotFound):
        await store.get_message(caller.scope, "s", "m")
    with pytest.raises(SessionNotFound):
        await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=False, limit=1)
    assert await store.get_sessions(caller.scope, ["s"], content=False) == [None]
    assert await store.count_sessions(caller.scope, SessionFilter()) == 0
    await refused(store, caller.append("s"), SessionNotFound)
    await refused(store, caller.delete("s"), SessionNotFound)
    await refused(store, caller.create("s"), SessionAlreadyExists)
    assert await one(store, caller.delete("s", "bye"), c.SessionDeleted) == deleted


async def test_every_event_names_its_actor(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", "r1"), caller.append("s", "said"), caller.end("s"))
    events = await whole_log(store, caller.scope, "s")
    assert [event.type for event in events] == [
        EventType.EVENT_TYPE_SESSION_CREATED,
        EventType.EVENT_TYPE_MESSAGE_APPENDED,
        EventType.EVENT_TYPE_SESSION_ENDED,
    ]
    assert [(event.actor, event.request_id) for event in events] == [("test", "r1"), ("test", ""), ("test", "")]
    assert events[0].session.status == ACTIVE
    assert events[1].message.parts[0].text == "said"
    assert len({event.event_id for event in events}) == 3
