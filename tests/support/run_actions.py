"""What agents do in a session: actions on runs and tool calls, as the wire hands them over."""

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import Failure, Run, RunStatus
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallExpireAction, ToolCallStatus, ToolData
from sessiond_server.domain import commands as c
from tests.support.session_log import Log

LEASE = 30
"""Seconds."""
REJECT, ENQUEUE, INTERRUPT = (
    RunPolicy.RUN_POLICY_REJECT,
    RunPolicy.RUN_POLICY_ENQUEUE,
    RunPolicy.RUN_POLICY_INTERRUPT,
)


def begin(run_id: str = "", policy: RunPolicy.ValueType = REJECT, lease: int = LEASE) -> c.BeginRun:
    run = Run(run_id=run_id, agent_id="agent", model="model")
    run.lease.seconds = lease
    return c.BeginRun(run, policy)


def finish(tokens: int = 0, *, failed: str = "") -> c.FinishRun:
    status = RunStatus.RUN_STATUS_FAILED if failed else RunStatus.RUN_STATUS_COMPLETED
    usage = TokenUsage(input_tokens=tokens, output_tokens=tokens) if tokens else None
    return c.FinishRun(status, Failure(code=failed) if failed else None, usage, "")


def request(
    tool_call_id: str = "",
    name: str = "search",
    *,
    approval: bool = False,
    text: str = "",
    ttl: int = 0,
    fails: bool = False,
) -> c.RequestToolCall:
    """`ttl`: seconds until the approval expires; `fails`: the call then fails instead of being rejected."""
    call = ToolCall(tool_call_id=tool_call_id, name=name, requires_approval=approval)
    if text:
        call.arguments.text = text
    if fails:
        call.expire_action = ToolCallExpireAction.TOOL_CALL_EXPIRE_ACTION_FAIL
    return c.RequestToolCall(call, ttl * 1_000_000)


def decide(tool_call_id: str, *, approve: bool = True, approver: str = "", reason: str = "") -> c.DecideToolCall:
    return c.DecideToolCall(tool_call_id, approve, approver, reason)


def complete(tool_call_id: str, text: str = "") -> c.EndToolCall:
    return c.EndToolCall(tool_call_id, ToolData(text=text) if text else None, None)


def fail(tool_call_id: str, code: str = "broken", text: str = "") -> c.EndToolCall:
    return c.EndToolCall(tool_call_id, ToolData(text=text) if text else None, Failure(code=code))


def begun(log: Log, run_id: str = "", **options: object) -> c.Fence:
    """Begins a run that is live at once; its fence."""
    outcome = log.ok(begin(run_id, **options))  # type: ignore[arg-type]
    assert isinstance(outcome, c.RunWritten)
    run = Run.FromString(outcome.run)
    assert run.status == RunStatus.RUN_STATUS_RUNNING
    return c.Fence(run.run_id, run.fence)


def whole(outcome: c.Result) -> ToolCall:
    assert isinstance(outcome, c.ToolCallWritten), outcome
    return ToolCall.FromString(outcome.tool_call)


def status_of(run: Run) -> str:
    return RunStatus.Name(run.status).removeprefix("RUN_STATUS_")


def status_of_call(call: ToolCall) -> str:
    return ToolCallStatus.Name(call.status).removeprefix("TOOL_CALL_STATUS_")


def kinds(events: list[Event]) -> list[str]:
    return [EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events]
