"""The rules of runs. One run is live and holds a lease and a fence; the others are queued. When a run ends, its open
tool calls end too.

Each rule checks everything before it changes anything, so that a refusal leaves the state unchanged. The consequences
of a command (calls closed, runs cancelled, the next run started) are part of the same write, one event each.
"""

from collections.abc import Mapping
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.actions import Action, written_run
from sessiond_server.domain.rows import Head, Needs
from sessiond_server.domain.runs.work import OPEN_RUNS
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import microseconds, set_timestamp
from sessiond_server.errors import RunAlreadyExists, RunEnded, RunFenced, RunInProgress, RunNotFound, RunQueueFull

MOST_QUEUED: Final = 64
"""Most queued runs of one session."""
QUEUE_RETRY_AFTER: Final = 1.0
"""Seconds after which a caller that met a full queue should try again."""

_COMPLETED: Final = EventType.EVENT_TYPE_RUN_COMPLETED
_FAILED: Final = EventType.EVENT_TYPE_RUN_FAILED
_CANCELLED: Final = EventType.EVENT_TYPE_RUN_CANCELLED

_ENDINGS: Final = {
    RunStatus.RUN_STATUS_COMPLETED: _COMPLETED,
    RunStatus.RUN_STATUS_FAILED: _FAILED,
    RunStatus.RUN_STATUS_CANCELLED: _CANCELLED,
}
"""Final status of a run -> type of the event that ends it."""


def check_fence(state: State, fence: c.Fence, now_us: int) -> None:
    """Raises RunFenced unless the fence is that of the live run and the run's lease has not expired."""
    core = state.core
    live = fence.run_id == core.live_run_id and fence.fence == core.live_run_fence
    if not live or state.lease_expire_us is None or state.lease_expire_us <= now_us:
        raise RunFenced(core.session_id, fence.run_id, core.live_run_id)


def is_overdue(state: State, now_us: int) -> bool:
    """Whether the lease of the live run has expired while the session is still open."""
    core = state.core
    if state.lease_expire_us is None or state.lease_expire_us > now_us:
        return False
    return core.status != lifecycle.ENDED and not lifecycle.is_expired(core, now_us)


def expire_lease(step: Step, state: State) -> None:
    """Ends the live run, whose lease has expired, and starts the next one."""
    _end_live(
        step,
        state,
        step.time_after(state.core),
        RunStatus.RUN_STATUS_FAILED,
        RunEndReason.RUN_END_REASON_LEASE_EXPIRED,
        ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_LEASE_EXPIRED,
    )
    _start_next(step, state)


def begin(step: Step, state: State, action: c.BeginRun) -> c.Outcome:
    core, given = state.core, action.run
    lifecycle.check_active(core, step.now_us)
    if given.run_id and state.work.run(given.run_id) is not None:
        raise RunAlreadyExists(core.session_id, given.run_id)
    waits = False
    if core.live_run_id:
        if action.policy == RunPolicy.RUN_POLICY_REJECT:
            raise RunInProgress(core.session_id, core.live_run_id)
        waits = action.policy == RunPolicy.RUN_POLICY_ENQUEUE
        if waits and core.queued_run_count >= MOST_QUEUED:
            raise RunQueueFull(core.session_id, MOST_QUEUED, QUEUE_RETRY_AFTER)

    time_us = step.time_after(core)
    if core.live_run_id and not waits:
        _end_live(
            step,
            state,
            time_us,
            RunStatus.RUN_STATUS_CANCELLED,
            RunEndReason.RUN_END_REASON_INTERRUPTED,
            ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_RUN_CANCELLED,
        )
    run = Run(
        run_id=given.run_id or step.new_id(),
        session_id=core.session_id,
        seq=core.version + 1,
        agent_id=given.agent_id,
        model=given.model,
        lease=given.lease,
    )
    if given.HasField("metadata"):
        run.metadata.CopyFrom(given.metadata)
    set_timestamp(run.create_time, time_us)
    if waits:
        run.status = RunStatus.RUN_STATUS_QUEUED
        step.emit_run(state, EventType.EVENT_TYPE_RUN_QUEUED, time_us, run)
    else:
        _start(step, state, time_us, run)
    return _written(state, run)


def heartbeat(step: Step, state: State, action: c.HeartbeatRun) -> c.Outcome:
    """Extends the lease of the live run, without an event. The fence has been checked."""
    lifecycle.check_active(state.core, step.now_us)
    assert state.lease_expire_us is not None
    lease_us = microseconds(state.work.live(state.core).lease)
    until = step.now_us + lease_us
    # A heartbeat never shortens the lease, in whatever order clocks were read. But an expiry more than a lease beyond
    # `until` comes from a clock that has gone back since, as after a failover. Keeping it would let the lease outlive
    # a dead holder by as much.
    if state.lease_expire_us <= until + lease_us:
        until = max(state.lease_expire_us, until)
    state.lease_expire_us = until
    return c.LeaseExtended(state.core.version, state.lease_expire_us, lease_us)


def finish(step: Step, state: State, action: c.FinishRun) -> c.Outcome:
    """Ends the live run with the caller's status and starts the next one. The fence has been checked."""
    core = state.core
    lifecycle.check_active(core, step.now_us)
    run, time_us = state.work.live(core), step.time_after(core)
    run.model = action.model or run.model
    if action.error is not None:
        run.error.CopyFrom(action.error)
    if action.usage is not None:
        run.usage.CopyFrom(action.usage)
        fold.fill_in_total(run.usage)
    _end_live(
        step,
        state,
        time_us,
        action.status,
        RunEndReason.RUN_END_REASON_UNSPECIFIED,
        ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_RUN_FINISHED,
    )
    _start_next(step, state)
    return _written(state, run)


def cancel(step: Step, state: State, action: c.CancelRun) -> c.Outcome:
    core, run = state.core, state.work.run(action.run_id)
    lifecycle.check_active(core, step.now_us)
    if run is None:
        raise RunNotFound(core.session_id, action.run_id)
    if run.status not in OPEN_RUNS:
        status = RunStatus.Name(run.status).removeprefix("RUN_STATUS_")
        raise RunEnded(core.session_id, run.run_id, status)
    time_us = step.time_after(core)
    if run.run_id == core.live_run_id:
        _end_live(
            step,
            state,
            time_us,
            RunStatus.RUN_STATUS_CANCELLED,
            RunEndReason.RUN_END_REASON_CLIENT,
            ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_RUN_CANCELLED,
        )
        _start_next(step, state)
    else:
        _end(step, state, time_us, run, RunStatus.RUN_STATUS_CANCELLED, RunEndReason.RUN_END_REASON_CLIENT)
    return _written(state, run)


def cancel_all(
    step: Step,
    state: State,
    time_us: int,
    run_reason: RunEndReason.ValueType,
    call_reason: ToolCallCancelReason.ValueType,
    *,
    keep_waiting: bool,
) -> None:
    """Closes open tool calls, then cancels the live run and the queued ones, in order.

    `keep_waiting`: keeps calls that wait for a person. Only RUNNING calls are closed, and calls of the live run that
    require no approval.
    """
    core = state.core
    if core.open_tool_call_count:
        for call in state.work.open_calls():
            orphaned = bool(core.live_run_id) and call.run_id == core.live_run_id and not call.requires_approval
            if not keep_waiting or orphaned or call.status == ToolCallStatus.TOOL_CALL_STATUS_RUNNING:
                close(step, state, time_us, call, call_reason)
    runs = [state.work.live(core)] if core.live_run_id else []
    if core.queued_run_count:
        runs += state.work.queued()
    for run in runs:
        _end(step, state, time_us, run, RunStatus.RUN_STATUS_CANCELLED, run_reason)


def cancel_after(
    step: Step,
    state: State,
    time_us: int,
    place: int,
    run_reason: RunEndReason.ValueType,
    call_reason: ToolCallCancelReason.ValueType,
) -> None:
    """Closes what is open and began after a place of the log: tool calls, queued runs, and the live run with the calls
    that it carries out, after which the next run starts."""
    core = state.core
    if core.open_tool_call_count:
        for call in state.work.open_calls():
            if call.seq > place:
                close(step, state, time_us, call, call_reason)
    for run in state.work.queued() if core.queued_run_count else ():
        if run.seq > place:
            _end(step, state, time_us, run, RunStatus.RUN_STATUS_CANCELLED, run_reason)
    if core.live_run_id and state.work.live(core).seq > place:
        _end_live(step, state, time_us, RunStatus.RUN_STATUS_CANCELLED, run_reason, call_reason)
        _start_next(step, state)


def close(step: Step, state: State, time_us: int, call: ToolCall, reason: ToolCallCancelReason.ValueType) -> None:
    """Cancels an open tool call."""
    call.status = ToolCallStatus.TOOL_CALL_STATUS_CANCELLED
    call.cancel_reason = reason
    set_timestamp(call.end_time, time_us)
    step.emit_tool_call(state, EventType.EVENT_TYPE_TOOL_CALL_CANCELLED, time_us, call)


def _start(step: Step, state: State, time_us: int, run: Run) -> None:
    run.status = RunStatus.RUN_STATUS_RUNNING
    run.fence = state.core.version + 1
    set_timestamp(run.start_time, time_us)
    state.lease_expire_us = step.now_us + microseconds(run.lease)
    set_timestamp(run.lease_expire_time, state.lease_expire_us)
    step.emit_run(state, EventType.EVENT_TYPE_RUN_STARTED, time_us, run)


def _start_next(step: Step, state: State) -> None:
    if state.core.queued_run_count:
        _start(step, state, step.time_after(state.core), state.work.queued()[0])


def _end_live(
    step: Step,
    state: State,
    time_us: int,
    status: RunStatus.ValueType,
    reason: RunEndReason.ValueType,
    call_reason: ToolCallCancelReason.ValueType,
) -> None:
    """Closes the open tool calls that the live run requested or is carrying out, then ends the run.

    A COMPLETED run leaves calls open that require an approval and have not started: a person may decide on them later,
    or has approved them already.
    """
    run = state.work.live(state.core)
    if state.core.open_tool_call_count:
        for call in state.work.open_calls():
            running = call.status == ToolCallStatus.TOOL_CALL_STATUS_RUNNING
            stays = status == RunStatus.RUN_STATUS_COMPLETED and call.requires_approval and not running
            if run.run_id in (call.run_id, call.start_run_id) and not stays:
                close(step, state, time_us, call, call_reason)
    _end(step, state, time_us, run, status, reason)


def _end(
    step: Step,
    state: State,
    time_us: int,
    run: Run,
    status: RunStatus.ValueType,
    reason: RunEndReason.ValueType,
) -> None:
    if run.run_id == state.core.live_run_id:
        state.lease_expire_us = None
    run.status = status
    run.end_reason = reason
    run.ClearField("lease_expire_time")
    set_timestamp(run.end_time, time_us)
    step.emit_run(state, _ENDINGS[status], time_us, run)
    state.work.count(run)


def _written(state: State, run: Run) -> c.RunWritten:
    return c.RunWritten(state.core.version, run.SerializeToString())


def _ask(asked: Needs, command: c.Command, head: Head) -> None:
    """Asks for the run that the command names."""
    action = command.action
    if isinstance(action, c.BeginRun):
        run_id = action.run.run_id
    elif isinstance(action, c.CancelRun):
        run_id = action.run_id
    else:
        run_id = command.fence.run_id if command.fence is not None else ""
    if run_id:
        asked.runs.append((command.key, run_id))


ACTIONS: Final[Mapping[type, Action]] = {
    c.BeginRun: Action(begin, lambda events, _: c.RunWritten(events[-1].seq, events[-1].body), _ask, with_work=True),
    c.HeartbeatRun: Action(heartbeat, None, _ask),
    c.FinishRun: Action(
        finish,
        lambda events, _: written_run(events, (_COMPLETED, _FAILED)),
        with_work=True,
    ),
    c.CancelRun: Action(cancel, lambda events, _: written_run(events, (_CANCELLED,)), _ask, with_work=True),
}
