"""One session's log as streams read it: the end, pages, the chain, what redaction and deletion leave."""

from datetime import timedelta

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.errors import SessionNotFound
from sessiond_server.store.contract import Store
from sessiond_server.store.log_reads import LogHead, LogPage
from sessiond_server.store.session_reads import PAGE_BYTES
from tests.support.caller import Caller, accepted, message, struct
from tests.support.feeds import same
from tests.support.store_backend import Backend, Open

KEY = ("tenant", "s")
DELETED = EventType.EVENT_TYPE_SESSION_DELETED


def checked(page: LogPage, after_seq: int) -> list[Event]:
    """The page's events; fails unless everything that the page says of them is so."""
    events = []
    before = page.before
    for entry in page.entries:
        event = same(entry)
        if before is not None:
            assert (event.seq, event.previous_event_id) == (before.seq + 1, before.event_id)
        assert event.seq > after_seq
        before = entry
        events.append(event)
    if page.before is not None:
        assert same(page.before).seq == after_seq
    return events


async def read(store: Store, after_seq: int, limit: int = 1000) -> list[Event]:
    return checked(await store.read_log(KEY, after_seq=after_seq, limit=limit), after_seq)


async def test_the_log_is_a_chain(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "one", "two"), caller.suspend("s"))
    await accepted(store, caller.command("s", c.ResumeSession()), caller.append("s", "three"))
    await accepted(store, caller.end("s"))
    page = await store.read_log(KEY, after_seq=0, limit=1000)
    events = checked(page, 0)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.previous_event_id for event in events] == ["", *(event.event_id for event in events[:-1])]
    assert len({event.event_id for event in events}) == 7
    assert (page.head, page.user_id, page.before) == (LogHead(7, deleted=False), "", None)
    session = await store.get_session(caller.scope, "s", content=False)
    assert Session.FromString(session.core).last_event_id == events[-1].event_id


async def test_pages_begin_behind_an_event(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="alice"), caller.append("s", *"abcdefghi"))
    for after in range(11):
        page = await store.read_log(KEY, after_seq=after, limit=4)
        assert [event.seq for event in checked(page, after)] == list(range(after + 1, min(after + 4, 10) + 1))
        assert (page.before is None) == (after == 0)
        assert (page.head, page.user_id) == (LogHead(10, deleted=False), "alice")
    beyond = await store.read_log(KEY, after_seq=11, limit=4)
    assert (list(beyond.entries), beyond.before, beyond.head.version) == ([], None, 10)


async def test_the_event_before_is_that_event(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.append("s", "two"))
    all_of_it = (await store.read_log(KEY, after_seq=0, limit=10)).entries
    assert (await store.read_log(KEY, after_seq=1, limit=10)).before == all_of_it[0]
    assert Event.FromString(all_of_it[0].data).session.state == struct(a=1)
    assert (await store.read_log(KEY, after_seq=2, limit=10)).before == all_of_it[1]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_limits(store: Store, caller: Caller, limit: int) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "one", "two", "three", "four"))
    seen: list[Event] = []
    while page := await read(store, len(seen), limit):
        assert len(page) == min(limit, 5 - len(seen))
        seen += page
    assert [event.seq for event in seen] == [1, 2, 3, 4, 5]


async def test_pages_end_before_they_are_too_large(store: Store, caller: Caller) -> None:
    """The event before the page does not count; one event goes whatever its size."""
    large = "x" * (PAGE_BYTES // 2 - 10_000)
    await accepted(store, caller.create("s"))
    for _ in range(5):
        await accepted(store, caller.append("s", large))
    assert [event.seq for event in await read(store, 0)] == [1, 2, 3]
    assert [event.seq for event in await read(store, 3)] == [4, 5]
    assert [event.seq for event in await read(store, 5)] == [6]


async def test_one_event_goes_whatever_its_size(store: Store, caller: Caller) -> None:
    state = struct(**{f"k{i}": "x" * (PAGE_BYTES // 4) for i in range(5)})
    await accepted(store, caller.create("s", state=state), caller.append("s"))
    assert [event.seq for event in await read(store, 0)] == [1]
    assert [event.seq for event in await read(store, 1)] == [2]


async def test_redaction_is_seen_in_what_is_read_again(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "m"), caller.append("s", "rest"))
    before = (await store.read_log(KEY, after_seq=0, limit=10)).entries
    assert b"text of m" in before[1].data
    await accepted(store, caller.redact("s", "m", "privacy"))
    page = await store.read_log(KEY, after_seq=1, limit=10)
    events = checked(page, 1)
    assert [event.type for event in events] == [
        EventType.EVENT_TYPE_MESSAGE_APPENDED,
        EventType.EVENT_TYPE_MESSAGE_APPENDED,
        EventType.EVENT_TYPE_MESSAGE_REDACTED,
    ]
    assert [entry.event_id for entry in page.entries[:2]] == [entry.event_id for entry in before[1:]]
    assert not any(b"text of m" in entry.data for entry in page.entries)
    assert events[0].message.redact_reason == "privacy"
    again = await store.read_log(KEY, after_seq=2, limit=10)
    assert again.before is not None
    assert again.before == page.entries[0]


async def test_a_deleted_session_leaves_its_final_event(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", user_id="alice"), caller.append("s", "one", "two"))
    await accepted(store, caller.delete("s"))
    for after in (0, 1, 2):
        page = await store.read_log(KEY, after_seq=after, limit=1)
        (event,) = checked(page, after)
        assert (event.seq, event.type, page.before) == (4, DELETED, None)
        assert (page.head, page.user_id) == (LogHead(4, deleted=True), "alice")
    page = await store.read_log(KEY, after_seq=4, limit=10)
    assert (list(page.entries), page.head) == ([], LogHead(4, deleted=True))
    assert page.before is not None
    assert page.before.event_id == event.event_id
    beyond = await store.read_log(KEY, after_seq=5, limit=10)
    assert (list(beyond.entries), beyond.before) == ([], None)


async def test_deletion_names_what_was_before_it(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s"))
    last = (await read(store, 0))[-1]
    await accepted(store, caller.delete("s"))
    assert (await read(store, 0))[0].previous_event_id == last.event_id


async def test_no_such_log(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for key in (("tenant", "S"), ("other", "s"), ("", "s")):
        with pytest.raises(SessionNotFound) as caught:
            await store.read_log(key, after_seq=0, limit=1)
        assert caught.value.args == SessionNotFound(key[1]).args


async def test_a_purged_log_is_gone(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(tombstone_retention=timedelta(minutes=1))
    await accepted(backend.store, caller.create("s"), caller.delete("s"))
    await backend.advance(61)
    await backend.store.purge(100)
    with pytest.raises(SessionNotFound):
        await backend.store.read_log(KEY, after_seq=0, limit=1)
    assert list((await backend.store.log_heads([KEY])).heads) == [None]
    await accepted(backend.store, caller.create("s"))
    assert (await backend.store.log_heads([KEY])).heads == [LogHead(1, deleted=False)]


async def test_heads(store: Store, caller: Caller) -> None:
    other = Caller(c.Scope("other"))
    await accepted(store, caller.create("s"), caller.append("s", "one", "two"), caller.create("gone"))
    await accepted(store, other.create("s"), caller.delete("gone"))
    keys = [("tenant", "gone"), ("other", "s"), ("tenant", "none"), KEY, ("other", "gone"), KEY]
    expected = [LogHead(2, True), LogHead(1, False), None, LogHead(3, False), None, LogHead(3, False)]
    found = await store.log_heads(keys)
    assert list(found.heads) == expected
    assert found.incarnation
    assert list((await store.log_heads([])).heads) == []


async def test_many_heads(store: Store, caller: Caller) -> None:
    await accepted(store, *(caller.create(f"s{i}") for i in range(0, 100, 2)))
    found = await store.log_heads([("tenant", f"s{i}") for i in range(10_000)])
    assert len(found.heads) == 10_000
    assert [i for i, head in enumerate(found.heads) if head is not None] == list(range(0, 100, 2))


async def test_heads_tell_the_time_of_the_store(backend: Backend, caller: Caller) -> None:
    """Not after what they saw: an event that they do not count has a later time."""
    store = backend.store
    await accepted(store, caller.create("s"))
    first = (await read(store, 0))[0].create_time.ToMicroseconds()
    found = await store.log_heads([KEY])
    await accepted(store, caller.append("s"))
    second = (await read(store, 1))[0].create_time.ToMicroseconds()
    assert first <= found.now_us <= second
    await backend.advance(3600)
    later = await store.log_heads([KEY])
    assert later.now_us - found.now_us >= 3_600_000_000
    assert later.incarnation == found.incarnation


async def test_replicas_agree(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.command("s", c.AppendMessages([message("x", "m")])))
    here, there = [await s.read_log(KEY, after_seq=0, limit=10) for s in (backend.store, backend.other)]
    assert here == there
    assert Message.FromString((await backend.other.get_message(caller.scope, "s", "m"))[1]).seq == 2
    heads = [await s.log_heads([KEY]) for s in (backend.store, backend.other)]
    assert heads[0].incarnation == heads[1].incarnation
