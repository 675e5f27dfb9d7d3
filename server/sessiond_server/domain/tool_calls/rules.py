"""The rules of tool calls: request, approve or reject, start, end, cancel. A command's fence has been checked before.

Each rule checks everything before it changes anything, so that a refusal leaves the state unchanged.
"""

from collections.abc import Mapping
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.tool_call_pb2 import (
    ToolCall,
    ToolCallCancelReason,
    ToolCallExpireAction,
    ToolCallStatus,
    ToolLateResult,
)
from sessiond_server.domain import commands as c
from sessiond_server.domain.actions import Action, written_tool_call
from sessiond_server.domain.rows import Head, Needs
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.runs.work import OPEN_CALLS, waits_until
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import microseconds, set_timestamp
from sessiond_server.domain.tool_calls.tools import tool_allowed
from sessiond_server.errors import (
    ApprovalExpired,
    ApprovalRequired,
    IllegalToolCallTransition,
    InvalidFields,
    ToolBlocked,
    ToolCallAlreadyExists,
    ToolCallLimitReached,
    ToolCallNotFound,
    Violation,
)

MOST_OPEN: Final = 256
"""Most open tool calls of one session."""

PENDING: Final = ToolCallStatus.TOOL_CALL_STATUS_PENDING
APPROVED: Final = ToolCallStatus.TOOL_CALL_STATUS_APPROVED
RUNNING: Final = ToolCallStatus.TOOL_CALL_STATUS_RUNNING


def request(step: Step, state: State, action: c.RequestToolCall) -> c.Outcome:
    core, given, command = state.core, action.call, step.command
    lifecycle.check_active(core, step.now_us)
    if not tool_allowed(state.limits, given.name):
        raise ToolBlocked(core.session_id, "tool_call.name", given.name)
    if given.tool_call_id and state.work.call(given.tool_call_id) is not None:
        raise ToolCallAlreadyExists(core.session_id, given.tool_call_id)
    if core.open_tool_call_count >= MOST_OPEN:
        raise ToolCallLimitReached(core.session_id, MOST_OPEN)
    if given.HasField("expire_time") and microseconds(given.expire_time) <= step.now_us:
        raise InvalidFields([Violation("tool_call.expire_time", "must be in the future")])

    time_us = step.time_after(core)
    call = ToolCall(
        tool_call_id=given.tool_call_id or step.new_id(),
        session_id=core.session_id,
        seq=core.version + 1,
        run_id=command.fence.run_id if command.fence is not None else "",
        message_id=given.message_id,
        model_call_id=given.model_call_id,
        name=given.name,
        requires_approval=given.requires_approval,
        status=PENDING,
        requester=command.actor,
    )
    set_timestamp(call.create_time, time_us)
    if action.approval_ttl_us:
        set_timestamp(call.expire_time, time_us + action.approval_ttl_us)
    elif given.HasField("expire_time"):
        call.expire_time.CopyFrom(given.expire_time)
    if call.HasField("expire_time"):
        call.expire_action = given.expire_action or ToolCallExpireAction.TOOL_CALL_EXPIRE_ACTION_REJECT
    arguments = ToolCall(arguments=given.arguments).SerializeToString() if given.HasField("arguments") else b""
    state.work.set_data(call.tool_call_id, arguments, b"")
    step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_REQUESTED, time_us, call, arguments or None)
    return _written(state, call)


def approve_or_reject(step: Step, state: State, action: c.DecideToolCall) -> c.Outcome:
    call = _open(step, state, action, "approve" if action.approve else "reject", (PENDING,))
    time_us = step.time_after(state.core)
    approval = call.approval
    approval.approved = action.approve
    approval.actor = step.command.actor
    approval.approver = action.approver
    approval.reason = action.reason
    set_timestamp(approval.time, time_us)
    if action.approve:
        call.status = APPROVED
        step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_APPROVED, time_us, call)
    else:
        call.status = ToolCallStatus.TOOL_CALL_STATUS_REJECTED
        set_timestamp(call.end_time, time_us)
        step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_REJECTED, time_us, call)
    return _written(state, call)


def start(step: Step, state: State, action: c.StartToolCall) -> c.Outcome:
    call = _open(step, state, action, "start", (PENDING, APPROVED))
    if call.status == PENDING and call.requires_approval:
        raise ApprovalRequired(call.session_id, call.tool_call_id)
    if not tool_allowed(state.limits, call.name):
        raise ToolBlocked(call.session_id, "tool_call_id", call.name)
    time_us = step.time_after(state.core)
    call.status = RUNNING
    if step.command.fence is not None:
        call.start_run_id = step.command.fence.run_id
    set_timestamp(call.start_time, time_us)
    step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_STARTED, time_us, call)
    return _written(state, call)


def end(step: Step, state: State, action: c.EndToolCall) -> c.Outcome:
    """Completes or fails a running call. For a call that was started and has ended already, the result only goes into
    the log as a late result; the call stays as it is."""
    failed = action.error is not None
    call = _found(step, state, action)
    late = call.status not in OPEN_CALLS and call.HasField("start_time")
    if call.status != RUNNING and not late:
        raise _illegal(call, "fail" if failed else "complete")
    time_us = step.time_after(state.core)
    if late:
        content = ToolCall(late_result=ToolLateResult(result=action.result, error=action.error)).SerializeToString()
        step.emit_late_result(state, time_us, call, content)
        return _written(state, call)
    call.status = ToolCallStatus.TOOL_CALL_STATUS_FAILED if failed else ToolCallStatus.TOOL_CALL_STATUS_COMPLETED
    if action.error is not None:
        call.error.CopyFrom(action.error)
    set_timestamp(call.end_time, time_us)
    result = b""
    if action.result is not None:
        result = ToolCall(result=action.result).SerializeToString()
        call.result_seq = state.core.version + 1
    arguments, _ = state.work.data(call.tool_call_id)
    state.work.set_data(call.tool_call_id, arguments, result)
    event_type = EventType.EVENT_TYPE_TOOL_CALL_FAILED if failed else EventType.EVENT_TYPE_TOOL_CALL_COMPLETED
    step.emit_tool_call(state, event_type, time_us, call, result or None)
    return _written(state, call)


def cancel(step: Step, state: State, action: c.CancelToolCall) -> c.Outcome:
    call = _open(step, state, action, "cancel", OPEN_CALLS)
    reason = ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_CLIENT
    run_rules.close(step, state, step.time_after(state.core), call, reason)
    return _written(state, call)


def overdue(state: State, action: c.Action, now_us: int) -> list[ToolCall]:
    """The calls whose approval did not come in time, oldest first: of an action on one call at most this one, else of
    all open calls, which must be loaded. None of a session that has ended or expired, which closes them itself."""
    core = state.core
    if not core.pending_approval_count or core.status == lifecycle.ENDED or lifecycle.is_expired(core, now_us):
        return []
    if isinstance(action, c.ToolCallChange):
        call = state.work.call(action.tool_call_id)
        calls = [] if call is None else [call]
    else:
        calls = state.work.open_calls()
    return [call for call in calls if waits_until(call) is not None and microseconds(call.expire_time) <= now_us]


def expire(step: Step, state: State, call: ToolCall) -> None:
    """Ends a call whose approval did not come in time."""
    time_us = step.time_after(state.core)
    set_timestamp(call.end_time, time_us)
    if call.expire_action == ToolCallExpireAction.TOOL_CALL_EXPIRE_ACTION_FAIL:
        call.status = ToolCallStatus.TOOL_CALL_STATUS_FAILED
        call.error.code, call.error.message = "APPROVAL_EXPIRED", "the approval did not come in time"
    else:
        call.status = ToolCallStatus.TOOL_CALL_STATUS_REJECTED
        call.approval.actor, call.approval.reason = c.ACTOR, "expired"
        set_timestamp(call.approval.time, time_us)
    step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_EXPIRED, time_us, call)


def _found(step: Step, state: State, action: c.ToolCallChange) -> ToolCall:
    """The call that the action names. Raises SessionEnded, SessionNotActive, ToolCallNotFound."""
    lifecycle.check_active(state.core, step.now_us)
    call = state.work.call(action.tool_call_id)
    if call is None:
        raise ToolCallNotFound(state.core.session_id, action.tool_call_id)
    return call


def _open(step: Step, state: State, action: c.ToolCallChange, verb: str, statuses: tuple[int, ...]) -> ToolCall:
    """As `_found`, for a call that must have one of the statuses. Raises IllegalToolCallTransition, ApprovalExpired."""
    call = _found(step, state, action)
    if call.status not in statuses:
        raise _illegal(call, verb)
    return call


def _illegal(call: ToolCall, verb: str) -> IllegalToolCallTransition | ApprovalExpired:
    status = ToolCallStatus.Name(call.status).removeprefix("TOOL_CALL_STATUS_")
    if _has_expired(call):
        expire_time = call.expire_time.ToJsonString()
        return ApprovalExpired(call.session_id, call.tool_call_id, status, verb, expire_time)
    return IllegalToolCallTransition(call.session_id, call.tool_call_id, status, verb)


def _has_expired(call: ToolCall) -> bool:
    """Whether `expire` ended the call. Its times do not tell, since the clock may go back."""
    if call.status == ToolCallStatus.TOOL_CALL_STATUS_REJECTED:
        return call.approval.actor == c.ACTOR
    return call.status == ToolCallStatus.TOOL_CALL_STATUS_FAILED and not call.HasField("start_time")


def _written(state: State, call: ToolCall) -> c.ToolCallWritten:
    return c.ToolCallWritten(state.core.version, state.work.with_data(call))


def _ask(asked: Needs, command: c.Command, head: Head) -> None:
    """Asks for the call that the command names."""
    action = command.action
    if isinstance(action, c.RequestToolCall):
        tool_call_id = action.call.tool_call_id
    else:
        assert isinstance(action, c.ToolCallChange)
        tool_call_id = action.tool_call_id
    if tool_call_id:
        asked.tool_calls.append((command.key, tool_call_id))


ACTIONS: Final[Mapping[type, Action]] = {
    c.RequestToolCall: Action(request, written_tool_call, _ask),
    c.DecideToolCall: Action(approve_or_reject, written_tool_call, _ask),
    c.StartToolCall: Action(start, written_tool_call, _ask),
    c.EndToolCall: Action(end, written_tool_call, _ask),
    c.CancelToolCall: Action(cancel, written_tool_call, _ask),
}
