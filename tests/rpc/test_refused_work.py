"""Work on runs and tool calls that comes twice, too early, too late, or by a clock that is off, over the wire and on
Postgres: a typed error, and not a row more than before."""

from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Failure as RunFailure
from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallExpireAction, ToolCallStatus
from tests.support.shared_database import SharedDatabase
from tests.support.wire import header, said
from tests.support.work_site import REQUESTS, Site, site

HOUR = 3600.0
COMPLETED = RunStatus.RUN_STATUS_COMPLETED
PRECONDITION = StatusCode.FAILED_PRECONDITION


@pytest.fixture
async def there(emptied: SharedDatabase) -> AsyncIterator[Site]:
    async with site(emptied) as made:
        yield made


async def test_a_decision_is_made_once(there: Site) -> None:
    await there.request("c", approval=True)
    await there.call("ApproveToolCall", tool_call_id="c", approver="ada")
    for rpc, verb in (("ApproveToolCall", "approve"), ("RejectToolCall", "reject")):
        await there.refused(
            rpc, REQUESTS[rpc](session_id="s", tool_call_id="c", approver="bob"),
            PRECONDITION, "ILLEGAL_TOOL_CALL_TRANSITION", tool_call_id="c", status="APPROVED", action=verb,
        )  # fmt: skip
    assert (await there.call("GetToolCall", tool_call_id="c")).approval.approver == "ada"


@pytest.mark.parametrize(
    ("ending", "status"),
    [("CompleteToolCall", "COMPLETED"), ("FailToolCall", "FAILED"), ("CancelToolCall", "CANCELLED"),
     ("RejectToolCall", "REJECTED")],
)  # fmt: skip
async def test_finished_call_is_not_approved_started_or_cancelled(there: Site, ending: str, status: str) -> None:
    await there.request("c")
    if status in ("COMPLETED", "FAILED"):
        await there.call("StartToolCall", tool_call_id="c")
    request = {
        "FailToolCall": t.FailToolCallRequest(session_id="s", tool_call_id="c", error=RunFailure(code="x")),
        "CancelToolCall": t.CancelToolCallRequest(session_id="s", tool_call_id="c"),
    }.get(ending) or REQUESTS[ending](session_id="s", tool_call_id="c")
    await there.wire.call(ending, request)
    for rpc, verb, kind in (
        ("ApproveToolCall", "approve", t.ApproveToolCallRequest),
        ("RejectToolCall", "reject", t.RejectToolCallRequest),
        ("StartToolCall", "start", t.StartToolCallRequest),
        ("CancelToolCall", "cancel", t.CancelToolCallRequest),
    ):
        await there.refused(
            rpc, kind(session_id="s", tool_call_id="c"),
            PRECONDITION, "ILLEGAL_TOOL_CALL_TRANSITION", tool_call_id="c", status=status, action=verb,
        )  # fmt: skip


async def test_call_that_was_not_started_is_not_completed(there: Site) -> None:
    await there.request("c", approval=True)
    refusal = {"tool_call_id": "c", "status": "PENDING"}
    for status in ("PENDING", "APPROVED"):
        refusal["status"] = status
        for rpc, verb in (("CompleteToolCall", "complete"), ("FailToolCall", "fail")):
            error = {"error": RunFailure(code="x")} if rpc == "FailToolCall" else {}
            request = REQUESTS[rpc](session_id="s", tool_call_id="c", **error)
            await there.refused(rpc, request, PRECONDITION, "ILLEGAL_TOOL_CALL_TRANSITION", **refusal, action=verb)
        if status == "PENDING":
            start = t.StartToolCallRequest(session_id="s", tool_call_id="c")
            await there.refused("StartToolCall", start, PRECONDITION, "APPROVAL_REQUIRED", tool_call_id="c")
            await there.call("ApproveToolCall", tool_call_id="c")


@pytest.mark.parametrize(("action", "status"), [("REJECT", "REJECTED"), ("FAIL", "FAILED")])
async def test_approval_that_comes_late_says_so(there: Site, action: str, status: str) -> None:
    """The first one ends the call, since no sweeper has come by; then it is ended."""
    expires = ToolCallExpireAction.Value(f"TOOL_CALL_EXPIRE_ACTION_{action}")
    call = ToolCall(tool_call_id="c", name="search", requires_approval=True, expire_action=expires)
    await there.call("RequestToolCall", tool_call=call, approval_ttl=Duration(seconds=60))
    expire_time = (await there.call("GetToolCall", tool_call_id="c")).expire_time.ToJsonString()
    await there.advance(61)
    late = t.ApproveToolCallRequest(session_id="s", tool_call_id="c", approver="ada")
    assert (await there.wire.failure("ApproveToolCall", late)).reason == "APPROVAL_EXPIRED"
    for rpc, verb in (("ApproveToolCall", "approve"), ("RejectToolCall", "reject"), ("StartToolCall", "start")):
        await there.refused(
            rpc, REQUESTS[rpc](session_id="s", tool_call_id="c"),
            PRECONDITION, "APPROVAL_EXPIRED", tool_call_id="c", status=status, action=verb, expire_time=expire_time,
        )  # fmt: skip
    expired = EventType.EVENT_TYPE_TOOL_CALL_EXPIRED
    assert [event.type for event in await there.events()].count(expired) == 1


async def test_a_run_is_finished_once(there: Site) -> None:
    await there.call("FinishRun", run=there.fence, status=COMPLETED, request_id="once")
    first = await there.rows()
    # The same request again is the same answer; another one comes too late.
    again = await there.call("FinishRun", run=there.fence, status=COMPLETED, request_id="once")
    assert (again.status, await there.rows()) == (COMPLETED, first)
    finish = r.FinishRunRequest(session_id="s", run=there.fence, status=RunStatus.RUN_STATUS_FAILED)
    heartbeat = r.HeartbeatRunRequest(session_id="s", run=there.fence)
    await there.refused("FinishRun", finish, StatusCode.ABORTED, "RUN_FENCED", run_id="r", live_run_id="")
    await there.refused("HeartbeatRun", heartbeat, StatusCode.ABORTED, "RUN_FENCED", run_id="r", live_run_id="")
    cancel = r.CancelRunRequest(session_id="s", run_id="r")
    await there.refused("CancelRun", cancel, PRECONDITION, "RUN_ENDED", run_id="r", status="COMPLETED")


@pytest.mark.parametrize("swept", [False, True])
async def test_writes_after_the_lease_are_fenced(there: Site, swept: bool) -> None:
    await there.request("asked", approval=True)
    await there.request("running")
    await there.call("StartToolCall", tool_call_id="running", run=there.fence)
    await there.call("BeginRun", run=Run(run_id="next"), policy=r.RunPolicy.RUN_POLICY_ENQUEUE)
    await there.advance(31)
    heartbeat = r.HeartbeatRunRequest(session_id="s", run=there.fence)
    finish = r.FinishRunRequest(session_id="s", run=there.fence, status=COMPLETED)
    append = m.AppendMessagesRequest(session_id="s", messages=[said("late")], run=there.fence)
    late: list[tuple[str, ProtoMessage]] = [("HeartbeatRun", heartbeat), ("AppendMessages", append)]
    for rpc, request in late:
        await there.refused(rpc, request, StatusCode.ABORTED, "RUN_FENCED", run_id="r", live_run_id="r")
    if swept:
        assert len((await there.store.expire_due(10)).heads) == 1
    else:  # it has to look at the session's work anyway, and does what the sweeper would have
        assert (await there.wire.failure("FinishRun", finish)).reason == "RUN_FENCED"
        assert len((await there.store.expire_due(10)).heads) == 0
    for rpc, request in (*late, ("FinishRun", finish)):
        await there.refused(rpc, request, StatusCode.ABORTED, "RUN_FENCED", run_id="r", live_run_id="next")
    over = await there.run("r")
    assert (over.status, over.end_reason) == (
        RunStatus.RUN_STATUS_FAILED,
        RunEndReason.RUN_END_REASON_LEASE_EXPIRED,
    )
    assert (await there.run("next")).status == RunStatus.RUN_STATUS_RUNNING
    for name in ("asked", "running"):
        call = await there.call("GetToolCall", tool_call_id=name)
        assert call.status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED
    # In one transaction, each once, in this order.
    last = [EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in await there.events()][-4:]
    assert last == ["TOOL_CALL_CANCELLED", "TOOL_CALL_CANCELLED", "RUN_FAILED", "RUN_STARTED"]
    upload = header("s", "a")
    upload.header.run.CopyFrom(there.fence)
    assert (await there.wire.failure("UploadAttachment", upload)).reason == "RUN_FENCED"
    listed = await there.wire.call("ListAttachments", a.ListAttachmentsRequest(session_id="s"))
    assert len(listed.attachments) == 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_database_whose_clock_is_an_hour_off(there: Site, hours: int) -> None:
    """As after a failover to a machine that was set otherwise."""
    await there.request("c", approval=True)
    await there.advance(hours * HOUR)
    heartbeat = r.HeartbeatRunRequest(session_id="s", run=there.fence)
    if hours < 0:
        answer = await there.wire.call("HeartbeatRun", heartbeat)
        now = await there.database.fetchval("select extract(epoch from test_clock.clock_timestamp())::float8")
        assert 0 < answer.lease_expire_time.seconds - float(now) <= 31, "not an hour longer"
        await there.call("ApproveToolCall", tool_call_id="c")
        await there.call("StartToolCall", tool_call_id="c", run=there.fence)
        await there.advance(31)
    failure = await there.wire.failure("HeartbeatRun", heartbeat)
    assert (failure.code, failure.reason) == (StatusCode.ABORTED, "RUN_FENCED")
    assert len((await there.store.expire_due(10)).heads) == 1
    assert (await there.run("r")).end_reason == RunEndReason.RUN_END_REASON_LEASE_EXPIRED
    await there.call("BeginRun", run=Run(run_id="r2"))
    await there.wire.call("UploadAttachment", header("s", "a"))
    await there.wire.append("s", "after")
    events = await there.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    times = [event.create_time.ToMicroseconds() for event in events]
    assert times == sorted(times)
    for run_id in ("r", "r2"):
        run = await there.run(run_id)
        assert run.create_time.ToMicroseconds() <= run.start_time.ToMicroseconds()
    over = await there.run("r")
    assert over.start_time.ToMicroseconds() <= over.end_time.ToMicroseconds()
    metrics = await there.wire.call("GetSessionMetrics", s.GetSessionMetricsRequest(session_id="s"))
    assert metrics.runs.average_duration.ToMicroseconds() >= 0
    session: Session = await there.wire.call("GetSession", s.GetSessionRequest(session_id="s"))
    assert (session.live_run_id, session.open_tool_call_count) == ("r2", 0)
