"""Tool calls in a store: data stored once and read whole, approvals for good, the inbox of a whole tenant."""

import asyncio
from typing import Any

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Failure
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus, ToolData
from sessiond_server.domain import commands as c
from sessiond_server.errors import (
    ApprovalExpired,
    IllegalToolCallTransition,
    RunFenced,
    SessionNotFound,
    ToolCallAlreadyExists,
    ToolCallNotFound,
)
from sessiond_server.store.contract import Store
from sessiond_server.store.session_reads import PAGE_BYTES
from sessiond_server.store.work import ToolCallsPage
from tests.support.caller import Caller, accepted, one, refused, struct, whole_log
from tests.support.run_actions import begin, complete, decide, fail, finish, request, status_of_call, whole
from tests.support.store_backend import Backend

EXPIRED = EventType.EVENT_TYPE_TOOL_CALL_EXPIRED
ALL = tuple(ToolCallStatus.values())[1:]


async def call_of(backend: Backend, caller: Caller, tool_call_id: str, session_id: str = "s") -> ToolCall:
    return ToolCall.FromString((await backend.work.get_tool_call(caller.scope, session_id, tool_call_id))[1])


async def listed(backend: Backend, caller: Caller, session_id: str = "s", **changes: Any) -> ToolCallsPage:
    options: dict[str, Any] = {"statuses": ALL, "run_id": "", "before": None, "limit": 100} | changes
    return await backend.work.list_tool_calls(caller.scope, session_id, **options)


def ids(calls: ToolCallsPage) -> list[str]:
    return [ToolCall.FromString(call).tool_call_id for call in calls.tool_calls]


async def inbox(backend: Backend, scope: c.Scope, user_id: str = "", limit: int = 100) -> list[str]:
    """Session and id of everything that waits, in order, read in pages of `limit`."""
    found, after = [], None
    while True:
        page = await backend.work.list_pending(scope, user_id=user_id, after=after, limit=limit)
        calls = [ToolCall.FromString(call) for call in page.tool_calls]
        assert len(calls) <= limit
        assert all(call.arguments.text == "arguments" for call in calls)
        found += [f"{call.session_id}/{call.tool_call_id}" for call in calls]
        if (after := page.next_key) is None:
            return found


async def test_a_call_is_read_as_it_was_written(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"))
    asked = request("t", approval=True)
    asked.call.arguments.data.CopyFrom(struct(query="x", nested={"a": [1, None, True]}))
    steps: list[c.Action] = [
        asked,
        decide("t", approver="Ada", reason="why not"),
        c.StartToolCall("t"),
        c.EndToolCall("t", ToolData(binary=b"\0\xff\x80"), None),
    ]
    for version, action in enumerate(steps, 2):
        outcome = await one(store, caller.command("s", action), c.ToolCallWritten)
        stored = await backend.work.get_tool_call(caller.scope, "s", "t")
        assert stored == (version, outcome.tool_call)
        assert ids(await listed(backend, caller)) == ["t"]
        assert (await listed(backend, caller)).tool_calls == [outcome.tool_call]
    call = await call_of(backend, caller, "t")
    assert call.arguments.data == asked.call.arguments.data
    assert call.result.binary == b"\0\xff\x80"
    with pytest.raises(ToolCallNotFound):
        await call_of(backend, caller, "none")


async def test_approvals_are_stored(backend: Backend, caller: Caller) -> None:
    """Defect 6: approvals were published and not stored. Another process reads them, whatever happens afterwards."""
    await accepted(backend.store, caller.create("s"))
    await accepted(backend.store, *(caller.command("s", request(t, approval=True)) for t in ("yes", "no")))
    await backend.advance(5)
    await accepted(backend.other, caller.command("s", decide("yes", approver="Ada", reason="safe")))
    await accepted(backend.other, caller.command("s", decide("no", approve=False, approver="Bob", reason="unsafe")))
    await accepted(backend.store, caller.command("s", c.StartToolCall("yes")), caller.end("s"))
    yes, no = await call_of(backend, caller, "yes"), await call_of(backend, caller, "no")
    assert (status_of_call(yes), status_of_call(no)) == ("CANCELLED", "REJECTED")
    for call, approved, approver, reason in ((yes, True, "Ada", "safe"), (no, False, "Bob", "unsafe")):
        decision = call.approval
        assert (decision.approved, decision.approver, decision.reason) == (approved, approver, reason)
        assert decision.actor == "test"
        assert decision.time.ToMicroseconds() >= call.create_time.ToMicroseconds() + 5_000_000


async def test_one_of_two_racing_decisions_wins(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.command("s", request("t", approval=True)))
    applied = await asyncio.gather(
        *(
            store.apply([caller.command("s", decide("t", approve=approve, approver=f"{n}"))])
            for n in range(4)
            for approve, store in ((True, backend.store), (False, backend.other))
        )
    )
    results = [result for a in applied for result in a.results]
    winners = [whole(result) for result in results if isinstance(result, c.ToolCallWritten)]
    assert len(winners) == 1
    assert sum(isinstance(result, IllegalToolCallTransition) for result in results) == 7
    assert await call_of(backend, caller, "t") == winners[0]


async def test_one_of_two_racing_starts_wins(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"), caller.command("s", request("t")))
    applied = await asyncio.gather(
        *(store.apply([caller.command("s", c.StartToolCall("t"))]) for store in (backend.store, backend.other) * 3)
    )
    results = [type(result) for a in applied for result in a.results]
    assert sorted(kind.__name__ for kind in results) == ["IllegalToolCallTransition"] * 5 + ["ToolCallWritten"]


async def test_a_late_result_is_recorded_and_changes_nothing(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.command("s", begin("r1")))
    fence = c.Fence("r1", 2)
    await accepted(store, *(caller.command("s", a, fence=fence) for a in (request("t"), c.StartToolCall("t"))))
    await backend.advance(31)
    await store.expire_due(10)
    before = await call_of(backend, caller, "t")
    assert status_of_call(before) == "CANCELLED"
    await refused(backend.other, caller.command("s", complete("t", "late"), fence=fence), RunFenced)
    await accepted(backend.other, caller.command("s", complete("t", "late")))
    assert await call_of(backend, caller, "t") == before
    last = (await whole_log(store, caller.scope, "s"))[-1]
    assert last.tool_call.late_result.result.text == "late"


async def test_taken_ids(store: Store, caller: Caller) -> None:
    await accepted(store, caller.create("s"), caller.create("t"), caller.command("s", request("t1")))
    await refused(store, caller.command("s", request("t1")), ToolCallAlreadyExists)
    await accepted(store, caller.command("t", request("t1")))


async def test_lists_by_status_and_run_page_by_page(backend: Backend, caller: Caller) -> None:
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("empty"), caller.command("s", begin("r1")))
    fence = c.Fence("r1", 2)
    for n in range(1, 8):
        await accepted(store, caller.command("s", request(f"t{n}"), fence=fence if n % 2 else None))
    await accepted(store, *(caller.command("s", c.StartToolCall(f"t{n}")) for n in (1, 2, 3, 4)))
    await accepted(store, caller.command("s", complete("t1")), caller.command("s", fail("t2")))

    for options, expected in (
        ({}, ["t7", "t6", "t5", "t4", "t3", "t2", "t1"]),
        ({"run_id": "r1"}, ["t7", "t5", "t3", "t1"]),
        ({"run_id": "other"}, []),
        ({"statuses": [ToolCallStatus.TOOL_CALL_STATUS_RUNNING]}, ["t4", "t3"]),
        ({"statuses": [1, 5], "run_id": "r1"}, ["t7", "t5", "t1"]),
    ):
        for limit in (1, 2, 100):
            seen, before = [], None
            while True:
                page = await listed(backend, caller, before=before, limit=limit, **options)
                assert len(page.tool_calls) <= limit
                assert page.version == 15
                seen += ids(page)
                if (before := page.next_seq) is None:
                    break
            assert seen == expected
    assert await listed(backend, caller, "empty") == ToolCallsPage(1, [], None)
    with pytest.raises(SessionNotFound):
        await listed(backend, caller, "none")


async def test_pages_are_bounded_in_bytes(backend: Backend, caller: Caller) -> None:
    await accepted(backend.store, caller.create("s"))
    large = "x" * (PAGE_BYTES // 5)
    for n in range(3):
        await accepted(
            backend.store,
            caller.command("s", request(f"t{n}", text=large)),
            caller.command("s", c.StartToolCall(f"t{n}")),
            caller.command("s", complete(f"t{n}", large)),
        )
    page = await listed(backend, caller)
    assert ids(page) == ["t2", "t1"]
    assert ids(await listed(backend, caller, before=page.next_seq)) == ["t0"]
    await accepted(backend.store, *(caller.command("s", request(f"p{n}", approval=True, text=large)) for n in range(6)))
    pending = await backend.work.list_pending(caller.scope, user_id="", after=None, limit=10)
    assert [ToolCall.FromString(call).tool_call_id for call in pending.tool_calls] == ["p0", "p1", "p2", "p3"]
    pending = await backend.work.list_pending(caller.scope, user_id="", after=pending.next_key, limit=10)
    assert len(pending.tool_calls) == 2


async def test_the_inbox_has_what_awaits_an_approval(backend: Backend) -> None:
    everyone = Caller()
    store = backend.store
    for name, user_id in (("a", "alice"), ("b", "bob"), ("c", "")):
        await accepted(store, everyone.create(name, user_id=user_id))
    for tool_call_id in ("t1", "t2"):
        for name in ("c", "a", "b"):
            await accepted(store, everyone.command(name, request(tool_call_id, approval=True, text="arguments")))
    await accepted(store, everyone.command("a", request("free")), Caller(c.Scope("other")).create("x"))
    await accepted(store, Caller(c.Scope("other")).command("x", request("t", approval=True, text="arguments")))

    for limit in (1, 4, 100):
        assert await inbox(backend, everyone.scope, limit=limit) == ["c/t1", "a/t1", "b/t1", "c/t2", "a/t2", "b/t2"]
    assert await inbox(backend, everyone.scope, "alice", 1) == ["a/t1", "a/t2"]
    assert await inbox(backend, c.Scope("tenant", "bob"), limit=1) == ["b/t1", "b/t2"]
    assert await inbox(backend, c.Scope("tenant", "bob"), "bob") == ["b/t1", "b/t2"]
    assert await inbox(backend, c.Scope("tenant", "bob"), "alice") == []
    assert await inbox(backend, c.Scope("other")) == ["x/t"]

    await accepted(store, everyone.command("a", decide("t1")), everyone.command("b", decide("t1", approve=False)))
    await accepted(store, everyone.suspend("b"), everyone.end("c"))
    assert await inbox(backend, everyone.scope) == ["a/t2", "b/t2"]
    await accepted(store, everyone.delete("b"))
    assert await inbox(backend, everyone.scope) == ["a/t2"]


async def test_overdue_approvals_end_once_and_leave_the_inbox(backend: Backend, caller: Caller) -> None:
    """Sweepers of two replicas; the inbox and decisions don't wait for them."""
    store = backend.store
    await accepted(store, caller.create("s", user_id="alice"), caller.create("t"), caller.create("u"))
    for name in ("s", "t"):
        for action in (
            request("rejected", approval=True, text="arguments", ttl=60),
            request("failed", approval=True, text="arguments", ttl=60, fails=True),
            request("later", approval=True, text="arguments", ttl=3600),
            request("never", approval=True, text="arguments"),
        ):
            await accepted(store, caller.command(name, action))
    await accepted(store, caller.command("u", request("decided", approval=True, ttl=60)))
    await accepted(backend.other, caller.command("u", decide("decided")), caller.suspend("t"))
    assert len((await store.expire_due(10)).heads) == 0
    await backend.advance(61)
    left = ["s/later", "s/never", "t/later", "t/never"]
    assert await inbox(backend, caller.scope) == left
    assert await inbox(backend, caller.scope, "alice", limit=1) == left[:2]
    await refused(backend.other, caller.command("s", decide("rejected")), ApprovalExpired)
    assert status_of_call(await call_of(backend, caller, "rejected")) == "REJECTED"

    swept = await asyncio.gather(*(one.expire_due(10) for one in (store, backend.other) * 2))
    assert len({row.key for writes in swept for row in writes.heads}) == 2
    assert len((await store.expire_due(10)).heads) == 0
    for name in ("s", "t"):
        found = {t: status_of_call(await call_of(backend, caller, t, name)) for t in ("rejected", "failed", "later")}
        assert found == {"rejected": "REJECTED", "failed": "FAILED", "later": "PENDING"}
        events = [event for event in await whole_log(store, caller.scope, name) if event.type == EXPIRED]
        assert sorted(event.tool_call.tool_call_id for event in events) == ["failed", "rejected"]
    assert status_of_call(await call_of(backend, caller, "decided", "u")) == "APPROVED"
    assert await inbox(backend, caller.scope) == left


async def test_sweeper_ends_all_overdue_approvals_however_many_sessions_have_them(
    backend: Backend, caller: Caller
) -> None:
    for number in range(5):
        await accepted(backend.store, caller.create(f"s{number}"))
        asked = (request(f"t{n}", approval=True, ttl=60) for n in range(3))
        await accepted(backend.store, *(caller.command(f"s{number}", action) for action in asked))
    await backend.advance(60)
    assert [len((await backend.store.expire_due(2)).heads) for _ in range(4)] == [2, 2, 1, 0]


async def test_calls_requested_in_parts_of_the_log(backend: Backend, caller: Caller) -> None:
    """Of whatever status, the first ones of each part, without their data, and the newest ones that fit a page."""
    store = backend.store
    await accepted(store, caller.create("s"), caller.create("empty"))
    names = [f"t{n}" for n in range(2, 12)]
    await accepted(store, *(caller.command("s", request(name, text="arguments")) for name in names))
    for action in (c.StartToolCall("t2"), c.StartToolCall("t3"), complete("t3", "x"), c.CancelToolCall("t4")):
        await accepted(store, caller.command("s", action))

    async def found(*ranges: tuple[int, int], limit: int = 9, session_id: str = "s") -> list[str]:
        bodies = await backend.work.list_requested(caller.scope, session_id, ranges=ranges, limit=limit)
        calls = [ToolCall.FromString(body) for body in bodies]
        assert not any(call.HasField("arguments") or call.HasField("result") for call in calls)
        return [call.tool_call_id for call in calls]

    assert await found((1, 11), limit=99) == names
    assert await found((1, 11), limit=3) == names[:3]
    assert await found((2, 4), (4, 4), (5, 11), limit=2) == ["t3", "t4", "t6", "t7"]
    assert await found((11, 99)) == await found() == await found((0, 9), session_id="empty") == []
    with pytest.raises(SessionNotFound):
        await found((0, 9), session_id="none")


async def test_calls_of_parts_of_the_log_are_at_most_a_page(backend: Backend, caller: Caller) -> None:
    store, reason = backend.store, "x" * 4000
    await accepted(store, caller.create("s"))
    for start in range(0, 1000, 200):
        names = [f"t{n}" for n in range(start, start + 200)]
        await accepted(store, *(caller.command("s", request(name)) for name in names))
        await accepted(store, *(caller.command("s", c.StartToolCall(name)) for name in names))
        await accepted(
            store,
            *(caller.command("s", c.EndToolCall(name, None, Failure(code="E", message=reason))) for name in names),
        )
    bodies = await backend.work.list_requested(caller.scope, "s", ranges=[(0, 10_000)], limit=1000)
    assert PAGE_BYTES - 5000 < sum(map(len, bodies)) <= PAGE_BYTES
    assert ToolCall.FromString(bodies[-1]).tool_call_id == "t999"


@pytest.mark.parametrize("scope", [c.Scope("other"), c.Scope("tenant", "bob")], ids=str)
async def test_tool_calls_are_not_found_for_others(backend: Backend, scope: c.Scope) -> None:
    alice, stranger = Caller(c.Scope("tenant", "alice")), Caller(scope)
    await accepted(backend.store, alice.create("s", user_id="alice"), alice.command("s", request("t")))
    with pytest.raises(SessionNotFound):
        await backend.work.get_tool_call(scope, "s", "t")
    with pytest.raises(SessionNotFound):
        await backend.work.list_tool_calls(scope, "s", statuses=ALL, run_id="", before=None, limit=1)
    with pytest.raises(SessionNotFound):
        await backend.work.list_requested(scope, "s", ranges=[(0, 9)], limit=1)
    for action in (request("t2"), decide("t"), c.StartToolCall("t"), complete("t"), c.CancelToolCall("t")):
        await refused(backend.store, stranger.command("s", action), SessionNotFound)
    assert status_of_call(await call_of(backend, alice, "t")) == "PENDING"


async def test_ending_the_run_and_the_session_through_another_instance(backend: Backend, caller: Caller) -> None:
    """What is open is read from the database, not remembered."""
    await accepted(backend.store, caller.create("s"), caller.command("s", begin("r1")))
    fence = c.Fence("r1", 2)
    for tool_call_id in ("plain", "asked"):
        asked = request(tool_call_id, approval=tool_call_id == "asked", text="arguments")
        await accepted(backend.store, caller.command("s", asked, fence=fence))
    await accepted(backend.other, caller.command("s", finish(), fence=fence))
    states = [status_of_call(await call_of(backend, caller, t)) for t in ("plain", "asked")]
    assert states == ["CANCELLED", "PENDING"]
    await accepted(backend.other, caller.end("s"))
    call = await call_of(backend, caller, "asked")
    assert (status_of_call(call), call.arguments.text) == ("CANCELLED", "arguments")
