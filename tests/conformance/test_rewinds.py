"""Rewinds: what is visible afterwards is exactly what was visible at the place, and nothing of the rest is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.context.conversation import Shape
from sessiond_server.domain.fold import fold
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds import ranges
from sessiond_server.errors import (
    InvalidFields,
    MessageAlreadyExists,
    MessageLimitReached,
    MessageNotFound,
    RequestIdReused,
    RewindLimitReached,
    RunFenced,
    RunInProgress,
    SessionEnded,
    SessionNotFound,
    VersionMismatch,
)
from sessiond_server.rpc.context.history import History, Wanted
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import CACHED, Freshness
from tests.support.caller import (
    OTHER_PRINT,
    PADDED,
    PATCHING,
    Caller,
    accepted,
    one,
    refused,
    session,
    struct,
    texts,
    whole_log,
)
from tests.support.run_actions import ENQUEUE, begin, fail, finish, request
from tests.support.search import index_all, places
from tests.support.search import messages as found_messages
from tests.support.store_backend import Backend, Open
from tests.support.stores import composed

REWOUND = EventType.EVENT_TYPE_SESSION_REWOUND
ALL_CALLS = (1, 2, 3, 4, 5, 6, 7)


def with_branches(backend: Backend) -> Store:
    return composed(backend.store, BranchedCommits(backend.store, backend.forks), backend.store)


@pytest.fixture
async def store(backend: Backend) -> Store:
    return with_branches(backend)


async def said(store: Store, caller: Caller, session_id: str = "s", *, limit: int = 2, **more: Any) -> list[str]:
    """The texts of all that is visible; read in pages, both ways, and found by what selects all."""
    up: list[bytes] = []
    after, going = 0, True
    while going:
        page = await store.list_messages(
            caller.scope,
            session_id,
            after_seq=after,
            before_seq=0,
            descending=False,
            limit=limit,
            **more,
        )
        up += page.messages
        after, going = page.last_seq, page.more
    down: list[bytes] = []
    before, going = 0, True
    while going:
        page = await store.list_messages(
            caller.scope,
            session_id,
            after_seq=0,
            before_seq=before,
            descending=True,
            limit=limit,
            **more,
        )
        down += page.messages
        before, going = page.last_seq, page.more
    assert down[::-1] == up
    where = Selection(MessageFilter(roles=[1, 2, 3, 4]))  # type: ignore[list-item]
    found = await store.find_messages(
        caller.scope,
        session_id,
        where,
        after_seq=0,
        before_seq=0,
        descending=False,
        limit=1000,
        **more,
    )
    assert list(found.messages) == up
    return texts(up)


async def session_of(store: Store, caller: Caller, session_id: str = "s") -> Session:
    found = await store.get_session(caller.scope, session_id, content=True)
    return Session.FromString(found.core + found.content)


async def check_fold(store: Store, caller: Caller, session_id: str = "s") -> Sequence[Event]:
    """The log, which must fold to the session, and whose number of visible messages must be the session's."""
    state, log = Session(), await whole_log(store, caller.scope, session_id)
    for event in log:
        state = fold(state, event)
    present = await session_of(store, caller, session_id)
    assert state == present
    visible = await store.list_messages(
        caller.scope, session_id, after_seq=0, before_seq=0, descending=False, limit=1000
    )
    assert present.message_count == len(visible.messages)
    return log


async def test_rewind_shows_what_was_visible_at_its_place(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.append("s", "1", "2", "3"))
    await accepted(store, caller.update("s", state=struct(a=2), summary="later"), caller.append("s", "4"))
    made = await one(store, caller.rewind("s", 3), c.SessionWritten)
    after = Session.FromString(made.session.core + made.session.content)
    assert after == await session_of(store, caller)
    assert (after.version, after.message_count, after.state, after.summary) == (7, 2, struct(a=1), "")
    assert [(r.first_seq, r.last_seq) for r in after.rewound] == [(4, 7)]
    await accepted(store, caller.append("s", "5"))
    assert await said(store, caller) == ["1", "2", "5"]
    log = await check_fold(store, caller)
    assert [event.type for event in log] == [1, 20, 20, 20, 5, 20, REWOUND, 20]
    assert (log[6].rewound_to_seq, log[6].session.message_count) == (3, 2)


async def test_hidden_messages_are_listed_when_asked_for_and_say_so(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b", "c"))
    await accepted(store, caller.rewind("s", "a"), caller.append_ids("s", "d"))
    assert await said(store, caller, include_rewound=True) == ["text of a", "text of b", "text of c", "text of d"]
    page = await store.list_messages(
        caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=10, include_rewound=True
    )
    assert [Message.FromString(m).rewound for m in page.messages] == [False, True, True, False]
    for message_id, rewound in (("a", False), ("b", True), ("d", False)):
        _, body = await store.get_message(caller.scope, "s", message_id)
        found = Message.FromString(body)
        assert (found.message_id, found.rewound) == (message_id, rewound)
    await refused(store, caller.append_ids("s", "b"), MessageAlreadyExists)
    assert not any(event.message.rewound for event in await whole_log(store, caller.scope, "s"))


async def test_rewinds_across_rewinds_and_undone_ones_follow_one_rule(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "1", "2", "3"))  # 2, 3, 4
    await accepted(store, caller.rewind("s", 3), caller.append("s", "4"))  # 5; 6
    assert await said(store, caller) == ["1", "2", "4"]
    await accepted(store, caller.rewind("s", 2), caller.append("s", "5"))  # 7; 8
    assert await said(store, caller) == ["1", "5"]
    await accepted(store, caller.rewind("s", 6))  # 9: as it was before the second rewind
    assert await said(store, caller) == ["1", "2", "4"]
    await accepted(store, caller.rewind("s", 4), caller.append("s", "6"))  # 10: before the first; 11
    assert await said(store, caller) == ["1", "2", "3", "6"]
    await accepted(store, caller.rewind("s", 8))  # a hidden place
    assert await said(store, caller) == ["1", "5"]
    await accepted(store, caller.rewind("s", 12))  # to the end: nothing changes
    assert await said(store, caller) == ["1", "5"]
    await check_fold(store, caller)


async def test_answers_made_anew_leave_one_range(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "asked", "answer0"))
    for number in range(3):
        await accepted(store, caller.rewind("s", before=f"answer{number}"))
        await accepted(store, caller.append_ids("s", f"answer{number + 1}"))
    assert await said(store, caller) == ["text of asked", "text of answer3"]
    assert [(r.first_seq, r.last_seq) for r in (await session_of(store, caller)).rewound] == [(3, 8)]


async def test_content_is_restored_but_for_the_config_or_kept(open_backend: Open, caller: Caller) -> None:
    store = with_branches(await open_backend(policy=PATCHING))
    fields: dict[str, Any] = {"metadata": struct(m=1), "agent_data": struct(d=1), "summary": PADDED}
    await accepted(store, caller.create("s", state=struct(a=1), **fields), caller.append("s", "1"))
    at = (await session_of(store, caller)).version
    now: dict[str, Any] = {"metadata": struct(m=2), "agent_data": struct(d=2), "summary": PADDED + "!"}
    update = caller.update("s", state=struct(a=2), name="new", labels={"k": "v"}, **now)
    update.action.session.config.system_prompt = "be kind"  # type: ignore[union-attr]
    update.action.paths.append("config")  # type: ignore[union-attr]
    await accepted(store, update)
    kept = await one(store, caller.rewind("s", at, restore=False), c.SessionWritten)
    assert Session.FromString(kept.session.content).state == struct(a=2)
    made = await one(store, caller.rewind("s", at), c.SessionWritten)
    after = Session.FromString(made.session.core + made.session.content)
    assert (after.state, after.metadata, after.agent_data, after.summary) == (
        struct(a=1), struct(m=1), struct(d=1), PADDED,
    )  # fmt: skip
    assert (after.config.system_prompt, after.name, after.labels["k"]) == ("be kind", "new", "v")
    await accepted(store, caller.set_keys("s", b=3.0))
    await check_fold(store, caller)
    order = SessionOrder.SESSION_ORDER_UNSPECIFIED
    where = SessionFilter(metadata=struct(m=1))
    found = await store.list_sessions(caller.scope, where, order, after=None, limit=9, content=False)
    assert len(found.sessions) == 1
    log = await whole_log(store, caller.scope, "s")
    views = [event.session_view for event in log if event.type == REWOUND]
    assert views == [1, 2], "a rewind that changes no content writes none"


async def test_retries_get_the_first_outcome(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s", state=struct(a=1)), caller.append("s", "1", "2"))
    rewind = caller.rewind("s", 2, "r1", expected_version=3)
    first = await one(store, rewind, c.SessionWritten)
    await accepted(store, caller.append("s", "3"), caller.update("s", state=struct(a=5)))
    assert await one(store, rewind, c.SessionWritten) == first
    assert await said(store, caller) == ["1", "3"]
    await refused(store, caller.rewind("s", 3, "r1", fingerprint=OTHER_PRINT), RequestIdReused)
    await refused(store, caller.rewind("s", 2, expected_version=3), VersionMismatch)


async def test_places_that_the_session_does_not_have_are_refused(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("other"), caller.append_ids("other", "elsewhere"))
    await accepted(store, caller.create("s"), caller.append_ids("s", "gone"))
    await accepted(store, caller.delete("s"), caller.create("s", reuse=True), caller.append_ids("s", "m"))
    await accepted(store, caller.append_ids("s", "deleted"), caller.delete_messages("s", "deleted"))
    base = (await session_of(store, caller)).base_version
    for seq in (base, 1, 99):
        await refused(store, caller.rewind("s", seq), InvalidFields)
    for name in ("elsewhere", "gone", "deleted", "none"):
        await refused(store, caller.rewind("s", name), MessageNotFound)
        await refused(store, caller.rewind("s", before=name), MessageNotFound)
    await refused(store, caller.rewind("nowhere", 1), SessionNotFound)
    stranger = Caller(c.Scope("tenant", "bob"))
    await refused(store, stranger.rewind("s", base + 1), SessionNotFound)
    await accepted(store, caller.rewind("s", before="m"))
    assert await said(store, caller) == []
    await accepted(store, caller.end("s"))
    await refused(store, caller.rewind("s", base + 1), SessionEnded)


async def test_session_that_takes_the_id_of_a_rewound_one_hides_nothing(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "1", "2"))
    await accepted(store, caller.rewind("s", 2))
    await accepted(store, caller.delete("s"), caller.create("s", reuse=True), caller.append("s", "3", "4"))
    assert await said(store, caller) == ["3", "4"]
    assert not (await session_of(store, caller)).rewound
    await accepted(store, caller.rewind("s", (await session_of(store, caller)).version - 1))
    await accepted(store, caller.delete("s"))
    await accepted(store, caller.create("s", reuse=True), caller.append("s", "5"))
    assert await said(store, caller) == ["5"]


async def test_nothing_that_is_hidden_is_live(backend: Backend, caller: Caller) -> None:
    store, work = with_branches(backend), backend.work
    await accepted(store, caller.create("s"), caller.append("s", "1"))
    begun = await one(store, caller.command("s", begin("r1")), c.RunWritten)
    fence = c.Fence("r1", Run.FromString(begun.run).fence)
    await accepted(store, caller.command("s", request("before", approval=True), fence=fence))
    place = (await session_of(store, caller)).version
    await accepted(
        store,
        caller.command("s", request("after"), fence=fence),
        caller.command("s", begin("r2", ENQUEUE)),
        caller.append("s", "2", fence=fence),
    )
    await refused(store, caller.rewind("s", place), RunInProgress)
    await refused(store, caller.rewind("s", place, fence=c.Fence("r2", 99)), RunFenced)
    made = await one(store, caller.rewind("s", place, fence=fence), c.SessionWritten)
    after = Session.FromString(made.session.core)
    assert (after.live_run_id, after.queued_run_count, after.open_tool_call_count) == ("r1", 0, 1)
    log = await check_fold(store, caller)
    assert [EventType.Name(event.type)[11:] for event in log[-3:]] == [
        "TOOL_CALL_CANCELLED", "RUN_CANCELLED", "SESSION_REWOUND",
    ]  # fmt: skip
    assert log[-3].tool_call.cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_REWOUND
    assert log[-2].run.end_reason == RunEndReason.RUN_END_REASON_SESSION_REWOUND

    async def listed(*, hidden: bool) -> tuple[list[str], ...]:
        runs = await work.list_runs(
            caller.scope, "s", statuses=(1, 2, 3, 4, 5), before=None, limit=9, include_rewound=hidden
        )
        calls = [
            await work.list_tool_calls(
                caller.scope, "s", statuses=ALL_CALLS, run_id=of, before=None, limit=9, include_rewound=hidden
            )
            for of in ("", "r1")
        ]
        return (
            [Run.FromString(run).run_id for run in runs.runs],
            *([ToolCall.FromString(call).tool_call_id for call in page.tool_calls] for page in calls),
        )

    assert await listed(hidden=False) == (["r1"], ["before"], ["before"])
    assert await listed(hidden=True) == (["r2", "r1"], ["after", "before"], ["after", "before"])
    _, call = await work.get_tool_call(caller.scope, "s", "after")
    assert ToolCall.FromString(call).status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED


async def test_live_run_that_is_hidden_ends_and_the_next_one_starts(backend: Backend, caller: Caller) -> None:
    store, work = with_branches(backend), backend.work
    await accepted(store, caller.create("s"))
    await accepted(store, caller.command("s", begin("r1")), caller.append("s", "1"))
    await accepted(store, caller.command("s", begin("r2", ENQUEUE)))
    first = Run.FromString((await work.get_run(caller.scope, "s", "r1"))[1])
    await accepted(store, caller.command("s", finish(), fence=c.Fence("r1", first.fence)))
    place = (await session_of(store, caller)).version
    second = Run.FromString((await work.get_run(caller.scope, "s", "r2"))[1])
    fence = c.Fence("r2", second.fence)
    # r2 was begun at 4, before the place: it stays. r3 waits, and a call of r2 is open.
    await accepted(store, caller.command("s", begin("r3", ENQUEUE)), caller.command("s", request("t"), fence=fence))
    await accepted(store, caller.rewind("s", place, fence=fence))
    present = await session_of(store, caller)
    assert (present.live_run_id, present.queued_run_count, present.open_tool_call_count) == ("r2", 0, 0)
    await accepted(store, caller.command("s", begin("r4", ENQUEUE)))
    await accepted(store, caller.rewind("s", 2, "once", fence=fence))  # r1 had just begun then
    present = await session_of(store, caller)
    assert (present.live_run_id, present.queued_run_count) == ("", 0)
    r2 = Run.FromString((await work.get_run(caller.scope, "s", "r2"))[1])
    assert r2.end_reason == RunEndReason.RUN_END_REASON_SESSION_REWOUND
    runs = await work.list_runs(caller.scope, "s", statuses=(1, 2, 3, 4, 5), before=None, limit=9)
    (r1,) = map(Run.FromString, runs.runs)
    assert (r1.run_id, r1.status) == ("r1", RunStatus.RUN_STATUS_COMPLETED)
    assert present.run_count == 4
    await check_fold(store, caller)


async def test_older_summary_holds_again(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "1"))
    await accepted(store, caller.command("s", c.CreateSummary(Summary(through_seq=2, text="first"))))
    await accepted(store, caller.append("s", "2"))
    await accepted(store, caller.command("s", c.CreateSummary(Summary(through_seq=4, text="second"))))

    async def newest(**more: Any) -> list[str]:
        page = await store.list_summaries(caller.scope, "s", before_seq=0, limit=1, **more)
        found = [Summary.FromString(body).text for body in page.summaries]
        if before := page.next_seq:
            page = await store.list_summaries(caller.scope, "s", before_seq=before, limit=9, **more)
            found += [Summary.FromString(body).text for body in page.summaries]
        return found

    assert await newest() == ["second", "first"]
    await accepted(store, caller.rewind("s", 4))
    assert (await session_of(store, caller)).summary_seq == 3
    assert (await newest(), await newest(rewound=ranges.NOTHING)) == (["first"], ["second", "first"])
    await accepted(store, caller.rewind("s", 2))
    assert ((await session_of(store, caller)).summary_seq, await newest()) == (0, [])
    await accepted(store, caller.rewind("s", 5))
    assert ((await session_of(store, caller)).summary_seq, await newest()) == (5, ["second", "first"])


async def test_deletions_know_what_is_hidden(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b", "c", "d"))
    await accepted(store, caller.rewind("s", "b"), caller.append_ids("s", "e"))
    popped = await one(store, caller.pop("s", 2), c.MessagesDeleted)
    assert popped.message_ids == ("b", "e")
    assert (await session_of(store, caller)).message_count == 1
    dropped = await one(store, caller.trim("s", 1, 99), c.MessagesDeleted)
    assert dropped.message_ids == ("a", "c", "d"), "a range has what is hidden too"
    await check_fold(store, caller)
    await accepted(store, caller.append_ids("s", "f", "g"), caller.rewind("s", before="f"))
    await accepted(store, caller.delete_messages("s", "f"))
    await accepted(store, caller.rewind("s", (await session_of(store, caller)).version - 2))
    assert await said(store, caller) == ["text of g"], "undone, without what was deleted since"
    await check_fold(store, caller)


async def test_message_limit_counts_what_is_visible(store: Store, caller: Caller) -> None:
    limited = session(session_id="s")
    limited.config.max_messages = 2
    await accepted(store, caller.command("s", c.CreateSession(limited)), caller.append("s", "1", "2"))
    await refused(store, caller.append("s", "3"), MessageLimitReached)
    await accepted(store, caller.rewind("s", 2), caller.append("s", "3"))
    await refused(store, caller.append("s", "4"), MessageLimitReached)


async def test_redaction_reaches_what_is_hidden(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append_ids("s", "a", "b"))
    await accepted(store, caller.rewind("s", "a"), caller.redact("s", "b"))
    _, body = await store.get_message(caller.scope, "s", "b")
    found = Message.FromString(body)
    assert found.rewound
    assert found.HasField("redact_time")
    assert not found.parts
    await accepted(store, caller.rewind("s", "b"))
    assert await said(store, caller) == ["text of a"]
    await check_fold(store, caller)


async def test_forks_have_what_was_visible_at_their_place(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("p"), caller.append("p", "1", "2", "3"))  # 2, 3, 4
    await accepted(store, caller.rewind("p", 3), caller.append("p", "4"))  # 5; 6
    await accepted(store, caller.fork("p", "now"), caller.fork("p", "hidden", seq=4), caller.fork("p", "early", seq=2))
    for name, visible in (("now", ["1", "2", "4"]), ("hidden", ["1", "2", "3"]), ("early", ["1"])):
        assert await said(store, caller, name) == visible
        await accepted(store, caller.append(name, "own"))
        assert await said(store, caller, name) == [*visible, "own"]
        await check_fold(store, caller, name)
    # To places that are shared: the parent does not notice.
    await accepted(store, caller.rewind("now", 4), caller.append("now", "5"))
    assert await said(store, caller, "now") == ["1", "2", "3", "5"]
    await accepted(store, caller.rewind("now", 2))
    assert await said(store, caller, "now") == ["1"]
    page = await store.list_messages(
        caller.scope, "now", after_seq=0, before_seq=0, descending=False, limit=9, include_rewound=True
    )
    assert texts(page.messages) == ["1", "2", "3", "4", "own", "5"]
    assert {Message.FromString(m).session_id for m in page.messages} == {"now"}
    assert await said(store, caller, "p") == ["1", "2", "4"]
    await accepted(store, caller.fork("now", "grandchild", seq=6), caller.delete("p"))
    await accepted(store, caller.rewind("grandchild", 4))
    assert await said(store, caller, "grandchild") == ["1", "2", "3"]
    assert await said(store, caller, "now") == ["1"]
    for name in ("now", "grandchild", "hidden"):
        await check_fold(store, caller, name)


async def test_any_places_of_long_sessions_are_found_again(store: Store, caller: Caller) -> None:
    """Across the places at which the core is kept."""
    await accepted(store, caller.create("s"))
    for number in range(0, 200, 20):
        await accepted(store, caller.append("s", *(str(n) for n in range(number, number + 20))))
    for place, visible in ((150, 149), (64, 63), (65, 64), (130, 129), (201, 200), (1, 0)):
        await accepted(store, caller.rewind("s", place))
        assert await said(store, caller, limit=60) == [str(n) for n in range(visible)]
    await check_fold(store, caller)
    found = [await store.get_session_at(caller.scope, "s", seq, content=False) for seq in (64, 202, 203, 207)]
    assert [ranges.of_session(Session.FromString(then.core)) for _, then in found] == [
        (), ((151, 202),), ((65, 203),), ((2, 207),),
    ]  # fmt: skip


async def test_ranges_are_bounded(store: Store, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MOST", 3)
    await accepted(store, caller.create("s"))
    for _ in range(3):
        await accepted(store, caller.append("s", "stays", "goes"))
        await accepted(store, caller.rewind("s", (await session_of(store, caller)).version - 1))
    await accepted(store, caller.append("s", "stays", "stays too"))
    error = await refused(store, caller.rewind("s", (await session_of(store, caller)).version - 1), RewindLimitReached)
    assert (error.metadata["what"], error.metadata["limit"]) == ("ranges", "3")
    await accepted(store, caller.rewind("s", 2))
    assert await said(store, caller) == ["stays"]


async def test_rewind_raced_with_appends_hides_what_came_before_it(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "first"))
    writes = [caller.append("s", f"{n}") for n in range(10)]
    writes.insert(5, caller.rewind("s", 2))
    await asyncio.gather(*(accepted(store, write) for write in writes))
    log = await check_fold(store, caller)
    (rewound,) = (event.seq for event in log if event.type == REWOUND)
    after = [event.message.parts[0].text for event in log if event.seq > rewound]
    assert await said(store, caller) == ["first", *after]


async def test_commands_of_one_batch_see_each_other(store: Store, caller: Caller) -> None:
    await accepted(
        store,
        caller.create("s"),
        caller.append_ids("s", "a", "b"),
        caller.rewind("s", "a"),
        caller.append_ids("s", "c"),
        caller.rewind("s", before="c"),
        caller.append_ids("s", "d"),
    )
    assert await said(store, caller) == ["text of a", "text of d"]


async def test_window_of_newest_messages_follows_a_rewind(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "1", "2", "3"))

    async def newest(fresh: Freshness = CACHED) -> list[str]:
        page = await store.list_messages(
            caller.scope, "s", after_seq=0, before_seq=0, descending=True, limit=5, freshness=fresh
        )
        return texts(page.messages)

    assert await newest() == ["3", "2", "1"]
    for place, visible in ((2, ["1"]), (4, ["3", "2", "1"]), (3, ["2", "1"])):
        made = await one(store, caller.rewind("s", place), c.SessionWritten)
        for _ in range(2):
            assert await newest(Freshness(made.version)) == visible
    await accepted(store, caller.append("s", "4"))
    assert await newest() == ["4", "2", "1"]


async def test_searches_find_what_is_visible_at_once(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.append("s", "word one", "word two", "word three"))
    await index_all(store)

    async def found() -> list[tuple[str, int]]:
        return places(await found_messages(store, "word"))

    assert await found() == [("s", 4), ("s", 3), ("s", 2)]
    await accepted(store, caller.rewind("s", 2))
    assert await found() == [("s", 2)]
    await index_all(store)
    assert await found() == [("s", 2)]
    await accepted(store, caller.rewind("s", 4))
    assert await found() == [("s", 4), ("s", 3), ("s", 2)]


async def test_contexts_have_what_was_visible_then(backend: Backend, caller: Caller) -> None:
    store = with_branches(backend)
    history = History(store, store, store, backend.work)

    async def context(as_of_seq: int = 0) -> tuple[list[str], str]:
        made = await history.context(caller.scope, "s", Wanted(0, 100, True, Shape(), as_of_seq), CACHED)
        assert made.version == as_of_seq or (await session_of(store, caller)).version
        return [m.parts[0].text for m in made.messages], made.summary.text

    await accepted(store, caller.create("s"), caller.append("s", "1", "2"))  # 2, 3
    await accepted(store, caller.command("s", c.CreateSummary(Summary(through_seq=2, text="so far"))))  # 4
    await accepted(store, caller.append("s", "3"))  # 5
    answers = {version: await context(version) for version in range(2, 6)}
    assert answers[5] == (["2", "3"], "so far")
    for place in (3, 2, 5, 4):
        version = (await one(store, caller.rewind("s", place), c.SessionWritten)).version
        assert await context() == answers[place]
        answers[version] = answers[place]
        await accepted(store, caller.append("s", f"after {version}"))
        said_now, summary = await context()
        assert (said_now, summary) == ([*answers[place][0], f"after {version}"], answers[place][1])
        answers[version + 1] = (said_now, summary)
        for seq, answer in answers.items():
            assert await context(seq) == answer


async def test_end_of_a_hidden_call_is_in_no_context(backend: Backend, caller: Caller) -> None:
    store = with_branches(backend)
    asks = Message(role=Role.ROLE_ASSISTANT)
    asks.parts.add().tool_call.tool_call_id = "c"
    asks.parts[0].tool_call.name = "search"
    await accepted(store, caller.create("s"), caller.append("s", "1"), caller.command("s", c.AppendMessages([asks])))
    await accepted(store, caller.command("s", request("c")), caller.command("s", c.StartToolCall("c")))
    await accepted(store, caller.command("s", fail("c", "broken", "no such place")))

    async def results() -> list[str]:
        made = await History(store, store, store, backend.work).context(
            caller.scope, "s", Wanted(0, 100, True, Shape()), CACHED
        )
        return [part.tool_result.text for m in made.messages for part in m.parts if part.HasField("tool_result")]

    (before,) = await results()
    await accepted(store, caller.rewind("s", 3))
    (after,) = await results()
    assert before != after
