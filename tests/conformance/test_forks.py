"""Forks: a session that continues another one from one of its places shows what that one showed there, whatever becomes
of it."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.fold import fold
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.errors import (
    InvalidFields,
    MessageAlreadyExists,
    MessageNotFound,
    MessageShared,
    RequestIdReused,
    SessionAlreadyExists,
    SessiondError,
    SessionLocked,
    SessionNotFound,
    SessionQuotaReached,
    VersionMismatch,
)
from sessiond_server.postgres import forks as postgres_forks
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.store import branches
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.commits import Applied
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import MessagesPage
from tests.support.caller import (
    OTHER_PRINT,
    PADDED,
    PATCHING,
    Caller,
    accepted,
    one,
    refused,
    struct,
    texts,
    whole_log,
)
from tests.support.run_actions import begin, complete, finish, request
from tests.support.store_backend import Backend, Open
from tests.support.stored_uploads import declared, uploaded
from tests.support.stores import composed

FORKED = EventType.EVENT_TYPE_SESSION_FORKED
REDACTED = EventType.EVENT_TYPE_MESSAGE_REDACTED
MARKER = "8f3a-marker-e1"


@pytest.fixture
async def branched(backend: Backend) -> Store:
    """The store as the service has it: with what spreads redactions."""
    return with_branches(backend)


def with_branches(backend: Backend) -> Store:
    return composed(backend.store, BranchedCommits(backend.store, backend.forks), backend.store)


async def messages(
    store: Store,
    caller: Caller,
    session_id: str,
    *,
    after: int = 0,
    before: int = 0,
    down: bool = False,
    limit: int = 100,
) -> MessagesPage:
    return await store.list_messages(
        caller.scope, session_id, after_seq=after, before_seq=before, descending=down, limit=limit
    )


async def session_of(store: Store, caller: Caller, session_id: str) -> Session:
    found = await store.get_session(caller.scope, session_id, content=True)
    return Session.FromString(found.core + found.content)


async def session_at(store: Store, caller: Caller, session_id: str, seq: int) -> Session:
    _, found = await store.get_session_at(caller.scope, session_id, seq, content=True)
    return Session.FromString(found.core + found.content)


async def folded(store: Store, caller: Caller, session_id: str, until: int = 0) -> Session:
    state = Session()
    for event in await whole_log(store, caller.scope, session_id):
        if until and event.seq > until:
            break
        state = fold(state, event)
    return state


def seqs(page: MessagesPage) -> list[int]:
    return [Message.FromString(body).seq for body in page.messages]


async def test_fork_shows_the_log_until_its_place_and_goes_on_alone(branched: Store, caller: Caller) -> None:
    await accepted(
        branched, caller.create("p", state=struct(a=1), labels={"k": "v"}), caller.append("p", "1", "2", "3")
    )
    made = await one(branched, caller.fork("p", "f", seq=3), c.SessionWritten)
    fork = Session.FromString(made.session.core + made.session.content)
    assert (fork.version, fork.message_count, fork.state) == (4, 2, struct(a=1))
    assert (fork.forked_from.session_id, fork.forked_from.seq, fork.labels["k"]) == ("p", 3, "v")
    await accepted(branched, caller.append("f", "4"), caller.append("p", "other"))
    assert texts((await messages(branched, caller, "f")).messages) == ["1", "2", "4"]
    assert texts((await messages(branched, caller, "p")).messages) == ["1", "2", "3", "other"]
    assert texts((await messages(branched, caller, "f", down=True, limit=2)).messages) == ["4", "2"]
    assert {Message.FromString(m).session_id for m in (await messages(branched, caller, "f")).messages} == {"f"}
    log = await whole_log(branched, caller.scope, "f")
    assert [event.type for event in log] == [1, 20, 20, FORKED, 20]
    assert {event.session_id for event in log} == {"f"}
    parent = await whole_log(branched, caller.scope, "p")
    assert [event.event_id for event in log[:3]] == [event.event_id for event in parent[:3]]
    assert log[3].previous_event_id == fork.forked_from.event_id == parent[2].event_id
    assert await folded(branched, caller, "f") == await session_of(branched, caller, "f")


async def test_pages_of_a_fork_reach_through_all_generations(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("g0"), caller.append("g0", "0", "0b"))
    for generation in range(1, 6):
        await one(branched, caller.fork(f"g{generation - 1}", f"g{generation}"), c.SessionWritten)
        await accepted(branched, caller.append(f"g{generation}", str(generation)))
    every = ["0", "0b", "1", "2", "3", "4", "5"]
    whole = await messages(branched, caller, "g5")
    assert texts(whole.messages) == every
    places = seqs(whole)
    for limit in (1, 2, 3):
        up: list[str] = []
        place = 0
        while True:
            page = await messages(branched, caller, "g5", after=place, limit=limit)
            up += texts(page.messages)
            place = page.last_seq
            if not page.more:
                break
        down: list[str] = []
        place = 0
        while True:
            page = await messages(branched, caller, "g5", before=place, down=True, limit=limit)
            down += texts(page.messages)
            place = page.last_seq
            if not page.more:
                break
        assert (up, down) == (every, every[::-1])
    between = await messages(branched, caller, "g5", after=places[0], before=places[4])
    assert texts(between.messages) == every[1:4]
    version, body = await branched.get_message(caller.scope, "g5", Message.FromString(whole.messages[2]).message_id)
    assert (version, Message.FromString(body).seq, Message.FromString(body).session_id) == (
        whole.version,
        places[2],
        "g5",
    )
    found = await branched.find_messages(
        caller.scope, "g5", Selection(MessageFilter()), after_seq=0, before_seq=0, descending=True, limit=3
    )
    assert texts(found.messages) == every[:-4:-1]


async def test_core_at_every_place_is_the_fold_of_the_log(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=PATCHING)
    store = with_branches(backend)
    await accepted(store, caller.create("p", summary=PADDED, state=struct(a=1)))
    for number in range(24):
        await accepted(
            store,
            caller.append("p", f"{number}", "b", "c"),
            *([caller.set_keys("p", full=False, **{f"k{number}": str(number)})] if number % 9 == 3 else []),
        )
    last = (await session_of(store, caller, "p")).version
    assert last > 70
    for seq in (1, 2, 3, 40, 63, 64, 65, 66, last - 1, last):
        await one(store, caller.fork("p", f"f{seq}", seq=seq), c.SessionWritten)
        then, fork = await folded(store, caller, "p", seq), await session_of(store, caller, f"f{seq}")
        for name in ("message_count", "usage", "state", "summary", "name", "run_count"):
            assert getattr(fork, name) == getattr(then, name), (seq, name)
        assert fork.forked_from.event_id == then.last_event_id
        assert await folded(store, caller, f"f{seq}") == fork


async def test_what_was_deleted_is_not_counted_in_a_fork_before_it(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append_ids("p", "a", "b", "c"))
    await accepted(branched, caller.delete_messages("p", "b"))
    await one(branched, caller.fork("p", "f", seq=4), c.SessionWritten)
    fork = await session_of(branched, caller, "f")
    assert fork.message_count == 2
    assert texts((await messages(branched, caller, "f")).messages) == ["text of a", "text of c"]


async def test_live_work_of_the_place_is_closed_in_the_fork(backend: Backend, branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"))
    begun = await one(branched, caller.command("p", begin("r")), c.RunWritten)
    run = Run.FromString(begun.run)
    fence = c.Fence("r", run.fence)
    await accepted(branched, caller.command("p", request("t", text="arguments"), fence=fence))
    await accepted(branched, caller.command("p", request("u", approval=True, text="of u"), fence=fence))
    place = (await accepted(branched, caller.append("p", "within the run")))[0].version
    await accepted(
        branched,
        caller.command("p", c.StartToolCall("t"), fence=fence),
        caller.command("p", complete("t", "result"), fence=fence),
        caller.command("p", finish(7), fence=fence),
    )
    later = (await session_of(branched, caller, "p")).version
    for name, seq in (("early", place), ("late", later), ("end", 0)):
        await one(branched, caller.fork("p", name, seq=seq), c.SessionWritten)
        fork = await session_of(branched, caller, name)
        assert (fork.live_run_id, fork.open_tool_call_count, fork.pending_approval_count, fork.run_count) == (
            "",
            0,
            0,
            1,
        )
        assert await folded(branched, caller, name) == fork
        _, body = await backend.work.get_run(caller.scope, name, "r")
        closed = Run.FromString(body)
        status = RunStatus.RUN_STATUS_CANCELLED if name == "early" else RunStatus.RUN_STATUS_COMPLETED
        assert (closed.status, closed.session_id) == (status, name)
        _, data = await backend.work.get_tool_call(caller.scope, name, "t")
        call = ToolCall.FromString(data)
        assert (call.arguments.text, call.session_id) == ("arguments", name)
        if name == "early":
            assert closed.end_reason == RunEndReason.RUN_END_REASON_SESSION_FORKED
            assert call.cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_FORKED
            assert (call.status, call.result.text) == (ToolCallStatus.TOOL_CALL_STATUS_CANCELLED, "")
        else:
            assert (call.status, call.result.text) == (ToolCallStatus.TOOL_CALL_STATUS_COMPLETED, "result")
        every = await backend.work.list_tool_calls(
            caller.scope, name, statuses=(3, 5, 6, 7), run_id="", before=None, limit=10
        )
        assert {ToolCall.FromString(one).arguments.text for one in every.tool_calls} == {"arguments", "of u"}
        snapshot, _ = await backend.work.get_metrics(caller.scope, name)
        assert snapshot.version == fork.version
        await accepted(branched, caller.command(name, begin("next")))


async def test_attachments_of_the_place_are_those_of_the_fork(
    backend: Backend, branched: Store, caller: Caller
) -> None:
    await accepted(branched, caller.create("p"))
    await uploaded(backend, caller, declared("kept", b"bytes of kept"), "p")
    await uploaded(backend, caller, declared("gone", b"bytes of gone"), "p")
    place = (await session_of(branched, caller, "p")).version
    await uploaded(backend, caller, declared("later", b"bytes of later"), "p")
    await accepted(branched, caller.command("p", c.DeleteAttachment("gone")))
    await one(branched, caller.fork("p", "f", seq=place), c.SessionWritten)
    await accepted(branched, caller.delete("p"))
    page = await backend.attachments.list_attachments(caller.scope, "f", after_seq=0, limit=10)
    assert len(page.attachments) == 1
    fork = await session_of(branched, caller, "f")
    assert (fork.attachment_count, fork.attachment_bytes) == (1, len(b"bytes of kept"))
    file = await backend.attachments.get_file(caller.scope, "f", "kept")
    assert sum(extent.length for extent in file.extents) == len(b"bytes of kept")


async def test_redaction_reaches_every_session_that_shows_the_message(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p", name=""), caller.append("p", MARKER))
    page = await messages(branched, caller, "p")
    message_id = Message.FromString(page.messages[0]).message_id
    await accepted(branched, caller.append("p", "second"), caller.update("p", labels={"a": "b"}))
    await one(branched, caller.fork("p", "f", seq=3), c.SessionWritten)
    await one(branched, caller.fork("f", "g"), c.SessionWritten)
    await one(branched, caller.fork("p", "before", seq=1), c.SessionWritten)
    await accepted(branched, caller.append("g", "third"), caller.end("g"))
    for name in ("p", "f", "g"):
        assert (await session_of(branched, caller, name)).name == MARKER
    done = await one(branched, caller.redact("f", message_id, "why", request_id="r1"), c.MessageRedacted)
    assert Message.FromString(done.message).session_id == "f"
    for name in ("p", "f", "g"):
        log = await whole_log(branched, caller.scope, name)
        last = log[-1]
        assert (last.type, last.message.redact_reason, last.session_id, last.message.session_id) == (
            REDACTED, "why", name, name,
        )  # fmt: skip
        assert [event.type for event in log].count(REDACTED) == 1
        now = await session_of(branched, caller, name)
        assert now.name == ""
        assert await folded(branched, caller, name) == now
        shown = await messages(branched, caller, name)
        assert not any(MARKER.encode() in body for body in shown.messages)
        assert not any(MARKER.encode() in event.SerializeToString() for event in log)
    assert (await session_of(branched, caller, "before")).version == 2
    again = await one(branched, caller.redact("f", message_id, "why", request_id="r1"), c.MessageRedacted)
    assert again == done


async def test_redaction_before_the_deletion_of_its_session_reaches_the_others(branched: Store, caller: Caller) -> None:
    """In one batch too, whichever of the sessions is deleted."""
    for deleted in ("p", "f"):
        await accepted(branched, caller.create("p", reuse=True), caller.append_ids("p", "a", "b"))
        await one(branched, caller.fork("p", f"{deleted}1"), c.SessionWritten)
        await one(branched, caller.fork(f"{deleted}1", f"{deleted}2"), c.SessionWritten)
        gone, left = ("p", (f"{deleted}1", f"{deleted}2")) if deleted == "p" else ("f1", ("p", "f2"))
        await accepted(branched, caller.append(gone), caller.redact(gone, "a"), caller.delete(gone))
        for name in left:
            assert texts((await messages(branched, caller, name)).messages) == ["text of b"]


async def test_shared_messages_cannot_be_deleted(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append_ids("p", "a", "b", "c"))
    await one(branched, caller.fork("p", "f", message_id="b"), c.SessionWritten)
    await accepted(branched, caller.append_ids("f", "d"))
    for command in (
        caller.delete_messages("p", "a"),
        caller.pop("p", 2),
        caller.trim("p", 1, 99),
        caller.delete_messages("f", "b"),
        caller.delete_messages("f", "d", "a"),
        caller.pop("f", 2),
        caller.trim("f", 2, 99),
    ):
        await refused(branched, command, MessageShared)
    await refused(branched, caller.delete_messages("f", "c"), MessageNotFound)
    await accepted(branched, caller.pop("p", 1), caller.pop("f", 1))
    await accepted(branched, caller.delete("f"))
    await accepted(branched, caller.delete_messages("p", "a", "b"))


async def test_messages_of_a_fork_have_ids_of_their_own(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append_ids("p", "a", "b"))
    await one(branched, caller.fork("p", "f", message_id="a"), c.SessionWritten)
    await refused(branched, caller.append_ids("f", "a"), MessageAlreadyExists)
    await accepted(branched, caller.append_ids("f", "b"))
    assert texts((await messages(branched, caller, "f")).messages) == ["text of a", "text of b"]


async def test_fork_outlives_its_ancestors(branched: Store, backend: Backend, caller: Caller) -> None:
    await accepted(branched, caller.create("p", state=struct(s=1)), caller.append_ids("p", "a", "b", "c"))
    await one(branched, caller.fork("p", "f", message_id="b"), c.SessionWritten)
    await accepted(branched, caller.append_ids("f", "d"))
    await one(branched, caller.fork("f", "g"), c.SessionWritten)
    gone = await one(branched, caller.delete("p"), c.SessionDeleted)
    with pytest.raises(SessionNotFound):
        await messages(branched, caller, "p")
    page = await branched.read_log(("tenant", "p"), after_seq=0, limit=10)
    assert [entry.seq for entry in page.entries] == [gone.version]
    # The id is taken anew, with the same message ids.
    await accepted(branched, caller.create("p", reuse=True), caller.append_ids("p", "a", "z"))
    assert texts((await messages(branched, caller, "p")).messages) == ["text of a", "text of z"]
    assert (await backend.forks.list_forks(caller.scope, "p", after=None, limit=5)).forks == []
    await accepted(branched, caller.delete("f"))
    assert texts((await messages(branched, caller, "g")).messages) == ["text of a", "text of b", "text of d"]
    assert (await session_of(branched, caller, "g")).state == struct(s=1)
    assert (await session_at(branched, caller, "g", 2)).state == struct(s=1)
    assert await folded(branched, caller, "g") == await session_of(branched, caller, "g")
    await one(branched, caller.fork("g", "h", message_id="a"), c.SessionWritten)
    assert texts((await messages(branched, caller, "h")).messages) == ["text of a"]
    assert (await session_of(branched, caller, "h")).state == struct(s=1)
    await one(branched, caller.redact("h", "a"), c.MessageRedacted)
    assert texts((await messages(branched, caller, "g")).messages) == ["text of b", "text of d"]
    assert texts((await messages(branched, caller, "p")).messages) == ["text of a", "text of z"]


async def test_feed_shows_shared_events_once(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append("p", "1", "2"))
    await one(branched, caller.fork("p", "f", seq=2), c.SessionWritten)
    await accepted(branched, caller.delete("p"))
    feed = await branched.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    shown = [(entry.place.session_id, Event.FromString(entry.entry.data).seq) for entry in feed.entries]
    assert sorted(shown) == [("f", 3), ("p", 4)]
    assert [place.session_id for place, _ in await branched.feed_end("tenant")] == ["f", "p"]


async def test_retry_of_a_fork_has_no_second_effect(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p", summary="s"), caller.append("p", "1"))
    await accepted(branched, caller.command("p", begin("r")))
    first = await one(branched, caller.fork("p", "f", request_id="r1", name="other"), c.SessionWritten)
    await accepted(branched, caller.append("f", "2"), caller.append("p", "3"))
    again = await one(branched, caller.fork("p", "f", request_id="r1", name="other"), c.SessionWritten)
    assert again.session.content == first.session.content
    assert Session.FromString(again.session.core) == Session.FromString(first.session.core)
    assert Session.FromString(first.session.core).name == "other"
    changed = caller.command("f", c.ForkSession("p", ForkPlace(1)), "r1", fingerprint=OTHER_PRINT)
    await refused(branched, changed, RequestIdReused)
    await refused(branched, caller.fork("p", "f"), SessionAlreadyExists)


async def test_forks_are_refused(open_backend: Open, caller: Caller) -> None:
    backend = await open_backend(policy=Policy(max_live_sessions=2))
    store = with_branches(backend)
    await accepted(store, caller.create("p", user_id="u"), caller.append_ids("p", "a"), caller.create("gone"))
    await accepted(store, caller.delete("gone"))
    await refused(store, caller.fork("p", "f", seq=3), InvalidFields)
    await refused(store, caller.fork("p", "f", message_id="b"), MessageNotFound)
    await refused(store, caller.fork("none", "f"), SessionNotFound)
    await refused(store, caller.fork("gone", "f"), SessionNotFound)
    await refused(store, caller.fork("p", "p"), SessionAlreadyExists)
    await refused(store, caller.fork("p", "gone"), SessionAlreadyExists)
    await refused(store, caller.fork("p", "f", version=1), VersionMismatch)
    await refused(store, Caller(c.Scope("tenant", "v")).fork("p", "f"), SessionNotFound)
    await refused(store, Caller(c.Scope("other")).fork("p", "f"), SessionNotFound)
    made = await one(store, Caller(c.Scope("tenant", "u")).fork("p", "f", version=2), c.SessionWritten)
    assert Session.FromString(made.session.core).user_id == "u"
    await refused(store, caller.fork("p", "f2"), SessionQuotaReached)


async def test_forks_are_listed_in_pages(branched: Store, backend: Backend, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append("p", "1"))
    for name in ("c", "a", "b"):
        await one(branched, caller.fork("p", name), c.SessionWritten)
    await one(branched, caller.fork("a", "of a", seq=1), c.SessionWritten)
    await accepted(branched, caller.delete("b"))
    listed: list[str] = []
    after = None
    while True:
        page = await backend.forks.list_forks(caller.scope, "p", after=after, limit=1)
        listed += [Session.FromString(found.core).session_id for found in page.forks]
        after = page.next_key
        if after is None:
            break
    assert listed == ["c", "a"]
    with pytest.raises(SessionNotFound):
        await backend.forks.list_forks(c.Scope("tenant", "u"), "p", after=None, limit=1)


async def test_lives_of_forks_begin_anew(branched: Store, caller: Caller) -> None:
    await accepted(branched, caller.create("p"), caller.append("p", "1"), caller.end("p"))
    made = await one(branched, caller.fork("p", "f"), c.SessionWritten)
    fork = Session.FromString(made.session.core)
    assert (fork.status, fork.HasField("end_time"), fork.end_reason) == (2, False, 0)
    assert fork.expire_time.seconds - fork.create_time.seconds == fork.ttl.seconds > 0
    await accepted(branched, caller.append("f", "2"))


class Stopped(Exception):
    """Ends a redaction half-way, as the end of the process does."""


async def test_redaction_that_was_cut_off_is_finished_by_the_sweeper_or_a_retry(
    backend: Backend, branched: Store, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its transactions was the last one."""
    monkeypatch.setattr(branches, "TOLD_AT_ONCE", 2)
    await accepted(branched, caller.create("p"))
    for number, finish_by in enumerate(("sweep", "retry") * 3):
        name = f"m{number}"
        await accepted(branched, caller.append_ids("p", name))
        for fork in range(5):
            await one(branched, caller.fork("p", f"{name}-{fork}"), c.SessionWritten)
        left = number // 2

        class CutOff:
            expire_due = backend.store.expire_due

            async def apply(self, commands: Sequence[c.Command]) -> Applied:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Stopped
                return await backend.store.apply(commands)

        cut = BranchedCommits(CutOff(), backend.forks)
        left += 1
        with pytest.raises(Stopped):
            await cut.apply([caller.redact("p", name, "why", request_id=f"r{number}")])
        for fork in range(5):
            shown = await branched.get_message(caller.scope, f"{name}-{fork}", name)
            assert not Message.FromString(shown[1]).parts
        if finish_by == "sweep":
            await branched.expire_due(10)
        else:
            await one(branched, caller.redact("p", name, "why", request_id=f"r{number}"), c.MessageRedacted)
        for fork in range(5):
            log = await whole_log(branched, caller.scope, f"{name}-{fork}")
            assert [event.message.message_id for event in log if event.type == REDACTED].count(name) == 1
        assert await backend.forks.end_spreads("")


async def test_marker_is_nowhere_after_redactions_and_deletions(
    backend: Backend, branched: Store, caller: Caller
) -> None:
    """Three generations deep, and no row is left of forks once the last session is deleted."""
    if backend.dsn is None:
        pytest.skip("looks at tables")
    database = await asyncpg.connect(backend.dsn)
    try:
        await accepted(branched, caller.create("p", name=""), caller.append_ids("p", "a"))
        await accepted(branched, caller.append("p", *([MARKER] * 70)), caller.update("p", labels={"x": "y"}))
        named = Message.FromString((await messages(branched, caller, "p")).messages[1]).message_id
        await one(branched, caller.fork("p", "f", summary=MARKER), c.SessionWritten)
        await accepted(branched, caller.append("f", MARKER), caller.command("f", begin(MARKER)))
        await one(branched, caller.fork("f", "g"), c.SessionWritten)
        await accepted(branched, caller.append("g", MARKER))
        await accepted(branched, caller.delete("p"))
        assert {"events", "runs", "session_heads"} <= await where(database, MARKER)
        for body in (await messages(branched, caller, "g")).messages:
            found = Message.FromString(body)
            if MARKER in "".join(part.text for part in found.parts):
                await one(branched, caller.redact("g", found.message_id), c.MessageRedacted)
        assert named
        for name in ("f", "g"):
            shown = (await messages(branched, caller, name)).messages
            assert not any(MARKER.encode() in body for body in shown)
        await accepted(branched, caller.delete("f"))
        await accepted(branched, caller.delete("g"))
        assert await where(database, MARKER) == set()
        for table in ("session_segments", "session_forks", "spreads"):
            assert await database.fetchval(f"select count(*) from {table}") == 0
        assert await database.fetchval("select array_agg(distinct session_id order by session_id) from events") == [
            "f", "g", "p",
        ]  # fmt: skip
        assert await database.fetchval("select count(*) from events") == 3
    finally:
        await database.close()


async def where(database: asyncpg.Connection, marker: str) -> set[str]:
    """The tables that have the marker."""
    return {
        table
        for table in TABLES
        if await database.fetchval(
            f"select exists (select from {table} t where position($1::bytea in convert_to(t::text, 'UTF8')) > 0"
            f" or position(encode($1::bytea, 'hex') in t::text) > 0)",
            marker.encode(),
        )
    }


async def test_forks_redactions_and_deletions_at_once_lose_nothing(
    backend: Backend, branched: Store, caller: Caller
) -> None:
    """However they interleave: what was redacted is gone from every session that is left, no fork loses a message, and
    nothing is left in the end."""
    other = composed(backend.other, BranchedCommits(backend.other, backend.forks), backend.other)
    await accepted(branched, caller.create("p"), caller.append_ids("p", *(f"m{n}" for n in range(8))))
    for generation in range(3):
        await one(branched, caller.fork("p", f"f{generation}", message_id="m7"), c.SessionWritten)

    async def do(store: Store, *commands: c.Command) -> None:
        for command in commands:
            for result in (await store.apply([command])).results:
                assert not isinstance(result, SessiondError) or isinstance(result, SessionNotFound), result

    await asyncio.gather(
        do(branched, *(caller.fork(f"f{n % 3}", f"a{n}", message_id="m6") for n in range(8))),
        do(other, *(caller.fork("p", f"b{n}") for n in range(8))),
        do(branched, *(caller.redact(f"f{n % 3}", f"m{n}") for n in range(3))),
        do(other, *(caller.redact("p", f"m{n}") for n in range(3, 5))),
        do(other, caller.delete("p"), caller.delete("f1")),
    )
    left = [*(f"a{n}" for n in range(8)), *(f"b{n}" for n in range(8)), "f0", "f2"]
    present = [name for name in left if (await branched.get_sessions(caller.scope, [name], content=False))[0]]
    redacted = {
        found.message_id
        for body in (await messages(branched, caller, "f0")).messages
        if not (found := Message.FromString(body)).parts
    }
    assert {"m0", "m2"} <= redacted
    for name in present:
        shown = [Message.FromString(body) for body in (await messages(branched, caller, name)).messages]
        assert [found.message_id for found in shown] == [f"m{n}" for n in range(8 if name[0] != "a" else 7)], name
        assert {found.message_id for found in shown if not found.parts} == redacted & {f.message_id for f in shown}
        assert await folded(branched, caller, name) == await session_of(branched, caller, name)
    assert await backend.forks.end_spreads("")
    for name in present:
        await accepted(branched, caller.delete(name))
    if backend.dsn is not None:
        database = await asyncpg.connect(backend.dsn)
        try:
            assert await database.fetchval("select count(*) from session_segments") == 0
            assert await database.fetchval("select count(*) from events where type <> 9") == 0
        finally:
            await database.close()


async def test_what_forks_show_of_a_long_deleted_session_moves_in_steps(
    backend: Backend, branched: Store, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forks show the same before, between and after; whatever is done with them meanwhile; also where the process that
    deletes has ended before the first step."""
    for module in (session_rules, postgres_forks):
        monkeypatch.setattr(module, "HIDDEN_AT_ONCE", 7)
    await accepted(branched, caller.create("p", state=struct(s=1)))
    await accepted(branched, caller.append_ids("p", *(f"m{n}" for n in range(30))))
    for name, place in (("a", 5), ("b", 12), ("c", 25)):
        await one(branched, caller.fork("p", name, seq=place), c.SessionWritten)
    await one(branched, caller.fork("c", "d", seq=20), c.SessionWritten)
    gone = await one(backend.store, caller.delete("p", request_id="r"), c.SessionDeleted)  # without the steps

    async def all_is_shown(*expected: tuple[str, int]) -> None:
        for name, last in expected:
            page = await messages(branched, caller, name)
            assert seqs(page) == list(range(2, last + 1))
            assert await folded(branched, caller, name) == await session_of(branched, caller, name)
        for after in (0, gone.version):
            page_of_p = await branched.read_log(("tenant", "p"), after_seq=after, limit=100)
            assert [entry.seq for entry in page_of_p.entries] == ([] if after else [gone.version])

    await all_is_shown(("a", 5), ("b", 12), ("c", 25), ("d", 20))
    await refused(backend.store, caller.create("p", reuse=True), SessionLocked)
    assert not await backend.forks.hide("") or backend.dsn is None
    await all_is_shown(("a", 5), ("b", 12), ("c", 25), ("d", 20))
    await one(branched, caller.redact("d", "m2"), c.MessageRedacted)
    await one(branched, caller.redact("b", "m9"), c.MessageRedacted)
    assert [len(texts((await messages(branched, caller, name)).messages)) for name in "abcd"] == [3, 9, 22, 17]
    await one(branched, caller.fork("d", "e", seq=18), c.SessionWritten)
    assert (await session_of(branched, caller, "e")).state == struct(s=1)
    assert (await session_at(branched, caller, "e", 17)).state == struct(s=1)
    await backend.forks.hide("tenant")
    await accepted(branched, caller.delete("b"))
    await all_is_shown(("a", 5), ("c", 25), ("d", 20), ("e", 18))
    assert await one(branched, caller.delete("p", request_id="r"), c.SessionDeleted) == gone  # which finishes it
    assert await backend.forks.hide("")
    await all_is_shown(("a", 5), ("c", 25), ("d", 20), ("e", 18))
    feed = await branched.read_feed("tenant", after=FeedPlace(0, "", 0), limit=100)
    assert {entry.place.seq for entry in feed.entries if entry.place.session_id == "p"} == {gone.version}
    await accepted(branched, caller.create("p", reuse=True), caller.append_ids("p", "m0"))
    for name in "acde":
        await accepted(branched, caller.delete(name))
    await accepted(branched, caller.delete("p"))
    if backend.dsn is not None:
        database = await asyncpg.connect(backend.dsn)
        try:
            assert await database.fetchval("select count(*) from events where type <> 9") == 0
            assert await database.fetchval("select count(*) from session_segments") == 0
            assert await database.fetchval("select count(*) from hidings") == 0
        finally:
            await database.close()
