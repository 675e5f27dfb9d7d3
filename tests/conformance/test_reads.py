"""Reads of one session: the session, its messages, its events."""

import pytest

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain import commands as c
from sessiond_server.errors import MessageNotFound, SessionNotFound
from sessiond_server.memory import pages
from sessiond_server.postgres import filters, read
from sessiond_server.store.cached import windows
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import PAGE_BYTES, MessagesPage
from tests.support.caller import Caller, accepted, message, struct, texts, whole_log

MEBIBYTE = 1 << 20


async def test_get_session_with_and_without_content(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a="b"), summary="long"))
    full = await store.get_session(caller.scope, "s", content=True)
    core = await store.get_session(caller.scope, "s", content=False)
    assert (core.version, core.core, core.content) == (1, full.core, b"")
    assert Session.FromString(full.core + full.content).state == struct(a="b")
    assert not Session.FromString(core.core).HasField("state")


async def test_get_session_without_any_content(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    full = await store.get_session(caller.scope, "s", content=True)
    assert full.content == b""
    assert full == await store.get_session(caller.scope, "s", content=False)


async def test_content_that_was_cleared(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.update("s", state=struct()))
    full = await store.get_session(caller.scope, "s", content=True)
    assert not Session.FromString(full.content).state.fields


async def test_an_unknown_session(store: Store, caller: Caller) -> None:
    for content in (True, False):
        with pytest.raises(SessionNotFound):
            await store.get_session(caller.scope, "none", content=content)
        assert await store.get_sessions(caller.scope, ["none"], content=content) == [None]
    with pytest.raises(SessionNotFound):
        await store.get_message(caller.scope, "none", "m")
    for descending in (True, False):
        with pytest.raises(SessionNotFound):
            await store.list_messages(caller.scope, "none", after_seq=0, before_seq=0, descending=descending, limit=1)


@pytest.mark.parametrize("content", [True, False])
async def test_get_sessions_keeps_the_order_of_the_ids(store: Store, caller: Caller, content: bool) -> None:
    names = [f"s{i}" for i in range(6)]
    await accepted(store, *(caller.create(name, state=struct(me=name)) for name in names), caller.delete("s3"))
    asked = ["s5", "none", "s0", "s3", "s4"]
    found = await store.get_sessions(caller.scope, asked, content=content)
    assert [None if s is None else Session.FromString(s.core).session_id for s in found] == [
        "s5",
        None,
        "s0",
        None,
        "s4",
    ]
    for session_id, snapshot in zip(asked, found, strict=True):
        if snapshot is not None:
            assert snapshot == await store.get_session(caller.scope, session_id, content=content)
    assert list(await store.get_sessions(caller.scope, [], content=content)) == []


async def test_get_message(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b"), caller.touch("s", 0))
    version, body = await store.get_message(caller.scope, "s", "b")
    stored = Message.FromString(body)
    assert (version, stored.seq, stored.message_id, stored.session_id) == (4, 3, "b", "s")
    assert stored.parts[0].text == "text of b"
    with pytest.raises(MessageNotFound) as caught:
        await store.get_message(caller.scope, "s", "c")
    assert caught.value.metadata == {"session_id": "s", "message_id": "c"}


async def _numbered(store: Store, caller: Caller) -> None:
    """Ten messages m0..m9, with other events before, between and after: at seqs 2, 4, 6 ... 20 of 21."""
    await accepted(store, caller.create("s"))
    for i in range(10):
        await accepted(store, caller.command("s", c.AppendMessages([message(f"m{i}")])), caller.touch("s", 0))


async def _page(
    store: Store, caller: Caller, after: int = 0, before: int = 0, *, descending: bool = False, limit: int = 100
) -> MessagesPage:
    return await store.list_messages(
        caller.scope, "s", after_seq=after, before_seq=before, descending=descending, limit=limit
    )


async def test_message_pages_have_exclusive_bounds(store: Store, caller: Caller) -> None:
    await _numbered(store, caller)
    everything = await _page(store, caller)
    assert texts(everything.messages) == [f"m{i}" for i in range(10)]
    assert (everything.version, everything.first_seq, everything.last_seq, everything.more) == (21, 2, 20, False)
    between = await _page(store, caller, after=4, before=10)
    assert (texts(between.messages), between.first_seq, between.last_seq) == (["m2", "m3"], 6, 8)
    beside = await _page(store, caller, after=3, before=11)
    assert (texts(beside.messages), beside.more) == (["m1", "m2", "m3", "m4"], False)
    for after, before in ((20, 0), (0, 2), (7, 8), (8, 8), (9, 3), (10**6, 0)):
        empty = await _page(store, caller, after, before)
        assert empty == MessagesPage(21, [], 0, 0, more=False)
        assert await _page(store, caller, after, before, descending=True) == empty


async def test_message_pages_in_both_directions(store: Store, caller: Caller) -> None:
    await _numbered(store, caller)
    upwards = await _page(store, caller, limit=4)
    assert texts(upwards.messages) == ["m0", "m1", "m2", "m3"]
    assert (upwards.first_seq, upwards.last_seq, upwards.more) == (2, 8, True)
    downwards = await _page(store, caller, descending=True, limit=4)
    assert texts(downwards.messages) == ["m9", "m8", "m7", "m6"]
    assert (downwards.first_seq, downwards.last_seq, downwards.more) == (20, 14, True)
    exactly = await _page(store, caller, after=12, limit=4)
    assert (texts(exactly.messages), exactly.more) == (["m6", "m7", "m8", "m9"], False)
    down_to_the_first = await _page(store, caller, before=8, descending=True, limit=3)
    assert (texts(down_to_the_first.messages), down_to_the_first.more) == (["m2", "m1", "m0"], False)
    one_left = await _page(store, caller, before=8, descending=True, limit=2)
    assert (texts(one_left.messages), one_left.more) == (["m2", "m1"], True)


@pytest.mark.parametrize("limit", [1, 3, 10])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_join_without_loss_or_repetition(
    store: Store, caller: Caller, limit: int, descending: bool
) -> None:
    """Defect 3 of the predecessors: the first page dropped the newest message."""
    await _numbered(store, caller)
    read: list[str] = []
    after = before = 0
    while True:
        page = await _page(store, caller, after, before, descending=descending, limit=limit)
        read += texts(page.messages)
        after, before = (0, page.last_seq) if descending else (page.last_seq, 0)
        if not page.more:
            break
    expected = [f"m{i}" for i in range(10)]
    assert read == (expected[::-1] if descending else expected)


async def test_a_page_of_messages_ends_before_it_is_too_large(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"))
    for size in (900, 900, 900, 900, 3600, 10):
        await accepted(store, caller.append("s", "x" * size * 1024))
    pages = []
    after = 0
    while True:
        page = await _page(store, caller, after=after)
        pages.append([len(item) // 1024 for item in page.messages])
        assert len(page.messages) == 1 or sum(map(len, page.messages)) <= PAGE_BYTES
        after = page.last_seq
        if not page.more:
            break
    assert pages == [[900, 900, 900], [900], [3600], [10]]
    backwards = await _page(store, caller, descending=True)
    assert ([len(item) // 1024 for item in backwards.messages], backwards.more) == ([10], True)
    assert (backwards.first_seq, backwards.last_seq) == (7, 7)


async def test_pages_may_have_exactly_the_bound(store: Store, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.append("s", "one", "two", "three"))
    await accepted(store, caller.create("t", state=struct(a=2)))
    sizes = [len(item) for item in (await _page(store, caller)).messages]
    both = await store.get_sessions(caller.scope, ["s", "t"], content=True)
    session_bytes = sum(len(s.core) + len(s.content) for s in both if s is not None)

    def bound(size: int) -> None:
        for module in (pages, read, windows):
            monkeypatch.setattr(module, "PAGE_BYTES", size)
        monkeypatch.setattr(filters, "PAGE_BYTES", size)

    for size, count in ((sum(sizes), 3), (sum(sizes) - 1, 2), (sum(sizes[:2]), 2), (sum(sizes[:2]) - 1, 1), (1, 1)):
        bound(size)
        page = await _page(store, caller)
        assert (len(page.messages), page.more) == (count, count < 3)
        page = await _page(store, caller, descending=True)
        assert len(page.messages) <= count
    for size, count in ((session_bytes, 2), (session_bytes - 1, 1), (1, 1)):
        bound(size)
        for order in (SessionOrder.SESSION_ORDER_CREATE_TIME_ASC, SessionOrder.SESSION_ORDER_UPDATE_TIME_DESC):
            listed = await store.list_sessions(caller.scope, SessionFilter(), order, after=None, limit=9, content=True)
            assert (len(listed.sessions), listed.next_key is None) == (count, count == 2)
            rest = await store.list_sessions(
                caller.scope, SessionFilter(), order, after=listed.next_key, limit=9, content=True
            )
            assert len(rest.sessions) == (2 if listed.next_key is None else 1)


async def test_events_carry_what_they_wrote(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.suspend("s"))
    await accepted(store, caller.update("s", summary="new"))
    created, suspended, updated = await whole_log(store, caller.scope, "s")
    assert created.session.state == struct(a=1)
    assert not suspended.session.HasField("state")
    assert (updated.session.state, updated.session.summary) == (struct(a=1), "new")


async def test_redaction_removes_the_content_from_everywhere(store: Store, caller: Caller) -> None:
    secret = "xyzzy-secret"
    said = message(secret, "m")
    said.name = secret
    said.metadata.update({"k": secret})
    await accepted(store, caller.create("s", name=""), caller.append("s", "before"))
    await accepted(store, caller.command("s", c.AppendMessages([said])), caller.append("s", "after"))
    redacted = (await accepted(store, caller.redact("s", "m", "privacy")))[0]
    assert isinstance(redacted, c.MessageRedacted)

    version, body = await store.get_message(caller.scope, "s", "m")
    assert (version, body) == (redacted.version, redacted.message)
    remains = Message.FromString(body)
    assert (remains.message_id, remains.seq, remains.redact_reason) == ("m", 3, "privacy")
    log = await store.read_log(("tenant", "s"), after_seq=0, limit=100)
    page = await _page(store, caller)
    assert not any(secret.encode() in item for item in [*(e.data for e in log.entries), *page.messages, body])
    assert texts(page.messages) == ["before", "after"]
    assert len(page.messages) == 3


async def test_redaction_in_the_batch_of_its_message(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "m"), caller.redact("s", "m"))
    log = await store.read_log(("tenant", "s"), after_seq=0, limit=100)
    assert len(log.entries) == 3
    assert not any(b"text of m" in entry.data for entry in log.entries)
    assert not Message.FromString((await store.get_message(caller.scope, "s", "m"))[1]).parts


async def test_the_key_of_tokens_is_one_for_all(store: Store) -> None:
    key = await store.token_key()
    assert len(key) == 32
    assert len(set(key)) > 8
    assert await store.token_key() == key


async def test_ping(store: Store) -> None:
    await store.ping()
