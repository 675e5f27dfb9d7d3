"""Deleted messages: gone from everywhere but their place in the log, and popped once by whoever asked first."""

import asyncio
from dataclasses import replace

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import DeleteMessagesResponse
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold
from sessiond_server.errors import DeletionTooLarge, MessageAlreadyExists, MessageNotFound, RunFenced
from sessiond_server.postgres import write
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import Freshness, MessagesPage
from tests.support.caller import Caller, accepted, message, one, refused, struct, texts, whole_log
from tests.support.feeds import complete
from tests.support.run_actions import begin
from tests.support.store_backend import Backend

SECRET = "xyzzy-secret"


async def page(store: Store, caller: Caller, *, descending: bool = False, limit: int = 100) -> MessagesPage:
    return await store.list_messages(caller.scope, "s", after_seq=0, before_seq=0, descending=descending, limit=limit)


def returned(outcome: c.MessagesDeleted) -> list[str]:
    return [part.text for m in DeleteMessagesResponse.FromString(outcome.messages).messages for part in m.parts]


async def test_deletion_removes_the_content_from_everywhere(backend: Backend, caller: Caller) -> None:
    store = backend.store
    said = message(SECRET, "m")
    said.name = SECRET
    said.labels[SECRET] = SECRET
    said.metadata.update({"k": SECRET})
    await accepted(store, caller.create("s", name=""), caller.append("s", "before"))
    await accepted(store, caller.command("s", c.AppendMessages([said])), caller.append("s", "after"))
    for read in (store, backend.other):
        assert texts((await page(read, caller, descending=True)).messages) == ["after", SECRET, "before"]
    done = await one(store, caller.delete_messages("s", "m"), c.MessagesDeleted)
    assert (done.seqs, done.message_ids, done.version, done.messages) == ((3,), ("m",), 5, b"")

    await refused(store, caller.redact("s", "m"), MessageNotFound)
    for read in (store, backend.other):
        for descending in (False, True):
            listed = await page(read, caller, descending=descending)
            assert (listed.version, texts(listed.messages)[:: -1 if descending else 1]) == (5, ["before", "after"])
        with pytest.raises(MessageNotFound):
            await read.get_message(caller.scope, "s", "m")
    events = await whole_log(store, caller.scope, "s")
    feed = await complete(store)
    for data in [*(event.SerializeToString() for event in events), *(entry.entry.data for entry in feed)]:
        assert SECRET.encode() not in data
    remains = events[2]
    assert remains.type == EventType.EVENT_TYPE_MESSAGE_APPENDED
    assert (remains.message.message_id, remains.message.seq) == ("m", 3)
    assert remains.message.HasField("delete_time")
    assert [entry.entry.type for entry in feed] == [event.type for event in events]
    session = Session.FromString((await store.get_session(caller.scope, "s", content=True)).core)
    folded = Session()
    for event in events:
        folded = fold.fold(folded, event)
    assert folded == session
    assert session.message_count == 2


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("remove", ["redact", "delete"])
@pytest.mark.parametrize("renamed", [False, True])
async def test_a_name_leaves_the_log_with_the_message_that_gave_it(
    backend: Backend, caller: Caller, monkeypatch: pytest.MonkeyPatch, remove: str, batched: bool, renamed: bool
) -> None:
    """Every event with a session has its name, such as those of updates and transitions."""
    monkeypatch.setattr(write, "REPEATING_AT_ONCE", 2)
    store = backend.store
    update = caller.update("s", state=struct(a=1), request_id="u")
    before = [
        caller.create("s", name=""),
        caller.append_ids("s", "m"),
        update,
        caller.touch("s", 1),
        caller.suspend("s"),
    ]
    if renamed:
        before.append(caller.update("s", name="chosen"))
    removal = caller.redact("s", "m") if remove == "redact" else caller.delete_messages("s", "m")
    if batched:
        await accepted(store, *before, removal)
    else:
        for command in before:
            await accepted(store, command)
        await accepted(backend.other, removal)
    events, feed = await whole_log(store, caller.scope, "s"), await complete(store)
    for data in [*(event.SerializeToString() for event in events), *(entry.entry.data for entry in feed)]:
        assert b"text of m" not in data
    folded = Session()
    for event in events:
        folded = fold.fold(folded, event)
        assert folded.name == ("chosen" if renamed and folded.version >= 6 else "")
    read = await store.get_session(caller.scope, "s", content=True)
    assert folded == Session.FromString(read.core + (read.content or b""))
    retried = await one(store, update, c.SessionWritten)
    assert b"text of m" not in retried.session.core


@pytest.mark.parametrize("remove", ["redact", "delete"])
async def test_fields_of_later_versions_go_with_the_content(store: Store, caller: Caller, remove: str) -> None:
    """A client of a later version may put content into fields that this service does not know, and keeps."""
    unknown = encoding.field(encoding.tag(900), SECRET.encode())
    said = Message.FromString(message("hello", "m").SerializeToString() + unknown)
    said.usage.MergeFromString(b"\x08\x01" + unknown)
    await accepted(store, caller.create("s"), caller.command("s", c.AppendMessages([said])))
    _, stored = await store.get_message(caller.scope, "s", "m")
    assert SECRET.encode() in stored
    await accepted(store, caller.redact("s", "m") if remove == "redact" else caller.delete_messages("s", "m"))
    for event in await whole_log(store, caller.scope, "s"):
        assert SECRET.encode() not in event.SerializeToString()


async def test_pages_skip_what_was_deleted(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", *(f"m{i}" for i in range(10))))
    await accepted(store, caller.trim("s", 4, 8), caller.delete_messages("s", "m9"))
    first = await page(store, caller, limit=3)
    assert [Message.FromString(m).message_id for m in first.messages] == ["m0", "m1", "m7"]
    assert first.more
    last = await page(store, caller, limit=2, descending=True)
    assert [Message.FromString(m).message_id for m in last.messages] == ["m8", "m7"]


async def test_the_id_of_a_deleted_message_is_free(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b"))
    await refused(store, caller.append_ids("s", "a"), MessageAlreadyExists)
    await accepted(store, caller.delete_messages("s", "a"), caller.append_ids("s", "a"))
    await accepted(store, caller.delete_messages("s", "a"))
    await accepted(store, caller.append_ids("s", "a"))
    listed = [Message.FromString(m) for m in (await page(store, caller)).messages]
    assert [(m.message_id, m.seq) for m in listed] == [("b", 3), ("a", 7)]


async def test_messages_of_one_batch_are_deleted_in_it(store: Store, caller: Caller) -> None:
    append, pop = caller.append_ids("s", "a", "b", "c", request_id="a"), caller.pop("s", 2, "p")
    results = await accepted(
        store, caller.create("s"), append, caller.redact("s", "c"), pop, caller.append_ids("s", "b"), caller.pop("s")
    )
    assert results[3].message_ids == ("b", "c")  # type: ignore[union-attr]
    assert returned(results[3]) == ["text of b"]  # type: ignore[arg-type]
    assert texts((await page(store, caller)).messages) == ["text of a"]
    assert not any(b"text of b" in e.SerializeToString() for e in await whole_log(store, caller.scope, "s"))
    assert await accepted(store, append, pop) == [results[1], results[3]]


async def test_a_retried_pop_returns_the_same_messages(backend: Backend, caller: Caller) -> None:
    """Also for a request without an id of the caller's: a batch whose commit is unknown is applied again."""
    await accepted(backend.store, caller.create("s"), caller.append("s", "one", "two", "three"))
    for pop in (caller.pop("s", 2, "p"), caller.pop("s")):
        first = await accepted(backend.store, pop)
        assert await accepted(backend.other, pop) == first
        assert await accepted(backend.store, pop, pop) == [*first, *first]
    assert texts((await page(backend.store, caller)).messages) == []
    nothing = await one(backend.store, caller.pop("s", 1, "q"), c.MessagesDeleted)
    await accepted(backend.store, caller.append("s", "later"))
    assert await one(backend.other, caller.pop("s", 1, "q"), c.MessagesDeleted) == nothing


async def test_raced_pops_take_different_messages(backend: Backend, caller: Caller) -> None:
    count = 24
    await accepted(backend.store, caller.create("s"), caller.append("s", *(str(i) for i in range(count))))
    pops = [caller.pop("s", 1, f"p{i}") for i in range(count)]
    stores = (backend.store, backend.other)
    # Each is sent through both instances.
    calls = [stores[turn % 2].apply([pop]) for turn in range(2) for pop in pops]
    results = [result for applied in await asyncio.gather(*calls) for result in applied.results]
    popped = [returned(result) for result in results if isinstance(result, c.MessagesDeleted)]
    assert popped[:count] == popped[count:]
    assert sorted(int(text) for (text,) in popped[:count]) == list(range(count))
    assert (await page(backend.other, caller)).messages == []
    core = await backend.store.get_session(caller.scope, "s", content=False, freshness=Freshness(strong=True))
    assert Session.FromString(core.core).message_count == 0
    await whole_log(backend.store, caller.scope, "s")


async def test_raced_appends_redactions_and_pops_lose_nothing(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.append_ids("s", *(f"m{i}" for i in range(12))))
    commands: list[c.Command] = []
    for i in range(12):
        commands += [
            caller.append("s", f"new {i}", request_id=f"a{i}"),
            caller.pop("s", 2, f"p{i}"),
            caller.redact("s", f"m{i}", request_id=f"r{i}"),
        ]
    stores = (backend.store, backend.other)
    calls = (stores[i % 2].apply([command]) for i, command in enumerate(commands))
    results = [result for applied in await asyncio.gather(*calls) for result in applied.results]
    assert not [r for r in results if isinstance(r, Exception) and not isinstance(r, MessageNotFound)]
    popped = [seq for r in results if isinstance(r, c.MessagesDeleted) for seq in r.seqs]
    assert len(set(popped)) == len(popped)
    events = await whole_log(backend.store, caller.scope, "s")
    appended = {event.seq for event in events if event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED}
    left = [Message.FromString(m).seq for m in (await page(backend.store, caller)).messages]
    assert sorted(left + popped) == sorted(appended)
    gone = [event for event in events if event.seq in popped]
    assert all(not event.message.parts and event.message.HasField("delete_time") for event in gone)


async def test_pop_of_a_live_run_carries_its_fence(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "one", "two"), caller.command("s", begin("r1")))
    fenced = replace(caller.pop("s"), fence=c.Fence("r1", 3))
    await refused(store, fenced, RunFenced)
    popped = await one(store, replace(caller.pop("s"), fence=c.Fence("r1", 4)), c.MessagesDeleted)
    assert returned(popped) == ["two"]


async def test_limits_of_one_deletion(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for start in range(0, 1001, 251):
        await accepted(store, caller.append("s", *(str(i) for i in range(start, min(start + 251, 1001)))))
    await refused(store, caller.trim("s", 1, 5000), DeletionTooLarge)
    assert len((await page(store, caller, limit=1000)).messages) == 1000
    popped = await one(store, caller.pop("s", 1000), c.MessagesDeleted)
    assert returned(popped) == [str(i) for i in range(1, 1001)]
    assert texts((await page(store, caller)).messages) == ["0"]
    await accepted(store, caller.append_ids("s", "a", "b"))
    many = c.DeleteMessages(("a", "b", *(f"x{i}" for i in range(998))))
    await refused(store, caller.command("s", many), MessageNotFound)
    assert len((await page(store, caller)).messages) == 3


async def test_large_messages_are_bounded_by_bytes(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for i in range(5):
        await accepted(store, caller.command("s", c.AppendMessages([message("x" * 900_000, f"m{i}")])))
    for selection in (
        c.DeleteMessages(last_n=4, return_messages=True),
        c.DeleteMessages(from_seq=1, to_seq=9, return_messages=True),
        c.DeleteMessages(("m4", "m0", "m2", "m3"), return_messages=True),
    ):
        await refused(store, caller.command("s", selection), DeletionTooLarge)
    three = await one(store, caller.pop("s", 3), c.MessagesDeleted)
    assert three.message_ids == ("m2", "m3", "m4")
    rest = await one(store, caller.command("s", c.DeleteMessages(("m1", "m0"))), c.MessagesDeleted)
    assert rest.seqs == (2, 3)


async def test_watchers_page_has_the_event(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b"), caller.delete_messages("s", "b", "a"))
    log = await store.read_log(("tenant", "s"), after_seq=1, limit=10)
    last = log.entries[-1]
    assert last.type == EventType.EVENT_TYPE_MESSAGES_DELETED
    assert list(Event.FromString(last.data).deleted_messages.seqs) == [2, 3]
    assert [entry.type for entry in log.entries[:2]] == [EventType.EVENT_TYPE_MESSAGE_APPENDED] * 2
