"""Runs, tool calls and their figures over the wire and on Postgres: races, full queues, random histories."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Run, RunEndReason, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason, ToolCallStatus
from sessiond_server.postgres.store import PostgresStore
from tests.support.shared_database import SharedDatabase
from tests.support.wire import Failure, Wire, said
from tests.support.work_site import Site, serving_on, site

ENQUEUE = r.RunPolicy.RUN_POLICY_ENQUEUE
INTERRUPT = r.RunPolicy.RUN_POLICY_INTERRUPT
COMPLETED, FAILED, CANCELLED = (
    RunStatus.RUN_STATUS_COMPLETED,
    RunStatus.RUN_STATUS_FAILED,
    RunStatus.RUN_STATUS_CANCELLED,
)
ENDINGS = {
    EventType.EVENT_TYPE_RUN_COMPLETED: COMPLETED,
    EventType.EVENT_TYPE_RUN_FAILED: FAILED,
    EventType.EVENT_TYPE_RUN_CANCELLED: CANCELLED,
}


@pytest.fixture
async def there(emptied: SharedDatabase) -> AsyncIterator[Site]:
    async with site(emptied) as made:
        yield made


async def outcome(wire: Wire, rpc: str, request: ProtoMessage) -> Any:
    """The answer, or the reason of the failure."""
    try:
        return await wire.call(rpc, request)
    except Failure as failure:
        return failure.reason


async def session(there: Site) -> Session:
    answer: Session = await there.wire.call("GetSession", s.GetSessionRequest(session_id="s"))
    return answer


def fence_of(run: Run) -> RunFence:
    return RunFence(run_id=run.run_id, fence=run.fence)


async def contest(
    there: Site, wires: Sequence[Wire], stores: Sequence[PostgresStore], fence: RunFence, turns: int
) -> Any:
    """What each is told of those who write under the fence and those who want the next run, on two servers, while the
    lease runs out, after so many turns, and the sweepers of both come."""
    out = asyncio.Event()

    async def contend(wire: Wire, who: str) -> Any:
        answers: list[Any] = []
        for turn in range(4):
            if turn == turns:
                out.set()
            name = f"{fence.fence}-{who}-{turn}"
            messages = [said("x", message_id=name)]
            append = m.AppendMessagesRequest(session_id="s", messages=messages, run=fence)
            begin = r.BeginRunRequest(session_id="s", run=Run(run_id=name))
            answers += await asyncio.gather(outcome(wire, "AppendMessages", append), outcome(wire, "BeginRun", begin))
        heartbeat = r.HeartbeatRunRequest(session_id="s", run=fence)
        return [*answers, await outcome(wire, "HeartbeatRun", heartbeat)]

    async def run_out() -> None:
        await out.wait()
        await there.advance(31)
        await asyncio.gather(*(store.expire_due(10) for store in stores))

    first, second, _ = await asyncio.gather(contend(wires[0], "a"), contend(wires[1], "b"), run_out())
    return first + second


@pytest.mark.long
async def test_writers_race_through_two_servers_when_a_lease_runs_out(there: Site, emptied: SharedDatabase) -> None:
    """Whatever is accepted under a fence lies in the log between the start and the end of its run."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(PostgresStore(emptied.dsn))
        wires = (there.wire, await stack.enter_async_context(serving_on(store)))
        fence, told = there.fence, Counter[str]()
        for number in range(20):
            answers = await contest(there, wires, (there.store, store), fence, number % 4)
            told.update(answer if isinstance(answer, str) else type(answer).__name__ for answer in answers)
            live = (await session(there)).live_run_id or f"x{number}"
            if live.startswith("x"):
                await there.call("BeginRun", run=Run(run_id=live))
            assert live != fence.run_id, "no run is alive past its lease"
            fence = fence_of(await there.run(live))
    won = told.keys() - {"HeartbeatRunResponse"}  # that one seldom
    assert won == {"AppendMessagesResponse", "Run", "RUN_FENCED", "RUN_IN_PROGRESS"}
    await _is_in_order(there)


async def _is_in_order(there: Site) -> None:
    """One live run at a time, from its start to its end, and nothing of it outside."""
    events = await there.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    live = ""
    for event in events:
        if event.type == EventType.EVENT_TYPE_RUN_STARTED:
            assert live == ""
            live = event.run.run_id
        elif event.type in ENDINGS and event.run.HasField("start_time"):
            assert event.run.run_id == live
            live = ""
        elif event.HasField("message") and event.message.run_id:
            assert event.message.run_id == live
    assert (await session(there)).live_run_id == live


async def test_64_runs_wait_and_start_in_their_order(there: Site) -> None:
    begins = [r.BeginRunRequest(session_id="s", run=Run(run_id=f"q{n}"), policy=ENQUEUE) for n in range(70)]
    answers = await asyncio.gather(*(outcome(there.wire, "BeginRun", begin) for begin in begins))
    waiting = sorted((run for run in answers if isinstance(run, Run)), key=lambda run: run.seq)
    assert len(waiting) == 64
    assert {run.status for run in waiting} == {RunStatus.RUN_STATUS_QUEUED}
    assert [answer for answer in answers if isinstance(answer, str)] == ["RUN_QUEUE_FULL"] * 6
    failure = await there.wire.failure("BeginRun", r.BeginRunRequest(session_id="s", policy=ENQUEUE))
    assert (failure.code, failure.metadata) == (StatusCode.RESOURCE_EXHAUSTED, {"session_id": "s", "limit": "64"})
    assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0
    assert (await session(there)).queued_run_count == 64

    given_up, *waiting = waiting
    await there.call("CancelRun", run_id=given_up.run_id)
    last = await there.call("BeginRun", run=Run(run_id="last"), policy=ENQUEUE)
    fence = there.fence
    for run in (*waiting, last):
        await there.call("FinishRun", run=fence, status=COMPLETED)
        started = await there.run(run.run_id)
        assert started.status == RunStatus.RUN_STATUS_RUNNING
        fence = fence_of(started)
    await there.call("FinishRun", run=fence, status=COMPLETED)
    now = await session(there)
    assert (now.queued_run_count, now.live_run_id, now.run_count) == (0, "", 66)
    await _is_in_order(there)


async def test_interrupting_a_run_closes_its_open_tool_calls(there: Site) -> None:
    for name in ("pending", "asked", "approved", "running", "done"):
        await there.request(name, approval=name in ("asked", "approved"))
    await there.call("ApproveToolCall", tool_call_id="approved")
    for name in ("running", "done"):
        await there.call("StartToolCall", tool_call_id=name, run=there.fence)
    await there.call("CompleteToolCall", tool_call_id="done", run=there.fence)
    # It belongs to no run, so the end of a run does not close it.
    await there.call("RequestToolCall", tool_call=ToolCall(tool_call_id="free", name="search", requires_approval=True))
    await there.call("BeginRun", run=Run(run_id="waits"), policy=ENQUEUE)
    before = len(await there.events())
    begun = await there.call("BeginRun", run=Run(run_id="r2"), policy=INTERRUPT)
    assert begun.status == RunStatus.RUN_STATUS_RUNNING
    told = (await there.events())[before:]
    assert [EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in told] == (
        ["TOOL_CALL_CANCELLED"] * 4 + ["RUN_CANCELLED", "RUN_STARTED"]
    )
    assert [event.tool_call.tool_call_id for event in told[:4]] == ["pending", "asked", "approved", "running"]
    for name in ("pending", "asked", "approved", "running"):
        call = await there.call("GetToolCall", tool_call_id=name)
        assert call.status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED
        assert call.cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_RUN_CANCELLED
    assert (await there.call("GetToolCall", tool_call_id="done")).status == ToolCallStatus.TOOL_CALL_STATUS_COMPLETED
    over = await there.run("r")
    assert (over.status, over.end_reason) == (CANCELLED, RunEndReason.RUN_END_REASON_INTERRUPTED)
    assert (await there.run("waits")).status == RunStatus.RUN_STATUS_QUEUED
    assert await inbox(there.wire, 10) == [("s", "free")]
    assert (await session(there)).open_tool_call_count == 1
    # What the tool of the interrupted run did comes too late, and changes nothing.
    late = await there.call("CompleteToolCall", tool_call_id="running")
    assert late.status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED


@pytest.mark.parametrize("seed", range(3))
async def test_metrics_equal_what_the_log_says(there: Site, seed: int) -> None:
    """Of a random history: begun under every policy, finished, failed, cancelled, interrupted, left to its lease."""
    chance, tokens = Random(seed), 0
    for number in range(60):
        await there.advance(chance.choice([0.001, 0.2, 3.0, 25.0]) * chance.random())
        live = (await session(there)).live_run_id
        if not live or chance.random() < 0.5:
            policy = chance.choice([ENQUEUE, INTERRUPT])
            await there.call("BeginRun", run=Run(run_id=f"r{number}"), policy=policy)
            continue
        run, kind = await there.run(live), chance.randrange(5)
        if kind < 2:
            usage = TokenUsage(input_tokens=chance.randrange(1000), output_tokens=chance.randrange(1000))
            finish = r.FinishRunRequest(session_id="s", run=fence_of(run), status=COMPLETED, usage=usage)
            if await outcome(there.wire, "FinishRun", finish) != "RUN_FENCED":  # its time may be over
                tokens += usage.input_tokens + usage.output_tokens
        elif kind == 2:
            finish = r.FinishRunRequest(session_id="s", run=fence_of(run), status=FAILED)
            await outcome(there.wire, "FinishRun", finish)
        elif kind == 3:
            await outcome(there.wire, "CancelRun", r.CancelRunRequest(session_id="s", run_id=live))
        else:
            await there.advance(31)
            await there.store.expire_due(10)
    events = await there.events()
    ended = {event.run.run_id: event.run for event in events if event.type in ENDINGS}
    begun = {event.run.run_id for event in events if event.HasField("run")}
    answer = await there.wire.call("GetSessionMetrics", s.GetSessionMetricsRequest(session_id="s"))
    runs, statuses = answer.runs, [run.status for run in ended.values()]
    counts = [statuses.count(status) for status in (COMPLETED, FAILED, CANCELLED)]
    assert all(counts), "the history has everything"
    assert [runs.completed_count, runs.failed_count, runs.cancelled_count] == counts
    now = await session(there)
    assert (runs.queued_count, runs.running_count) == (now.queued_run_count, 1 if now.live_run_id else 0)
    assert answer.run_count == len(begun) == sum(counts) + runs.queued_count + runs.running_count
    assert runs.success_rate == counts[0] / (counts[0] + counts[1])
    lasted = sorted(_duration_us(run) for run in ended.values() if run.HasField("start_time"))
    assert abs(runs.average_duration.ToMicroseconds() - sum(lasted) / len(lasted)) <= 1
    exact = lasted[math.ceil(0.95 * len(lasted)) - 1]
    assert abs(runs.p95_duration.ToMicroseconds() - exact) <= 0.05 * exact + 1
    assert answer.usage.total_tokens == tokens


def _duration_us(run: Run) -> int:
    return run.end_time.ToMicroseconds() - run.start_time.ToMicroseconds()


async def inbox(wire: Wire, page_size: int) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    async for page in pages(wire, page_size):
        calls += page
    return calls


async def pages(wire: Wire, page_size: int) -> AsyncIterator[list[tuple[str, str]]]:
    request = t.ListPendingApprovalsRequest(page_size=page_size)
    while True:
        answer = await wire.call("ListPendingApprovals", request)
        yield [(call.session_id, call.tool_call_id) for call in answer.tool_calls]
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


@pytest.mark.parametrize("page_size", [1, 7])
async def test_the_inbox_is_read_page_by_page_while_calls_are_decided(there: Site, page_size: int) -> None:
    """What waits all the while is read once; what was decided before its page is not; what is new comes last."""
    chance, wire = Random(page_size), there.wire
    for name in "abcde":
        await wire.create(name)

    async def ask(name: str, number: int) -> tuple[str, str]:
        call = ToolCall(tool_call_id=f"t{number}", name="search", requires_approval=True)
        await wire.call("RequestToolCall", t.RequestToolCallRequest(session_id=name, tool_call=call))
        return name, call.tool_call_id

    waiting = [await ask(name, number) for number in range(8) for name in "abcde"]
    decided, read, new = set[tuple[str, str]](), list[tuple[str, str]](), list[tuple[str, str]]()
    seen = 0  # of the new ones: those that were there before the page
    async for page in pages(wire, page_size):
        assert not decided & set(page)
        read, seen = read + page, len(new)
        if len(new) == 10:
            continue
        for key in chance.sample(sorted({*waiting} - decided), 2):
            rpc, kind = chance.choice(
                [
                    ("ApproveToolCall", t.ApproveToolCallRequest),
                    ("RejectToolCall", t.RejectToolCallRequest),
                    ("CancelToolCall", t.CancelToolCallRequest),
                ]
            )
            await wire.call(rpc, kind(session_id=key[0], tool_call_id=key[1]))
            decided.add(key)
        new.append(await ask(chance.choice("abcde"), 100 + len(new)))
    assert len(read) == len(set(read))
    assert [key for key in read if key not in decided] == [key for key in (*waiting, *new[:seen]) if key not in decided]
    throughout = [key for key in (*waiting, *new) if key not in decided]
    assert await inbox(wire, 100) == throughout
    # A session that ends in the midst of it takes its calls along.
    first, *_ = [page async for page in pages(wire, 3)]
    await wire.call("EndSession", s.EndSessionRequest(session_id=first[0][0]))
    assert await inbox(wire, 100) == [key for key in throughout if key[0] != first[0][0]]
