"""A session as it was at an earlier place of its log."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import encoding, fold
from sessiond_server.domain.forks.rows import LOOKED_BACK
from sessiond_server.domain.rows import RunRow, StoredEvent, ToolCallRow
from sessiond_server.domain.times import microseconds
from sessiond_server.errors import InvalidFields, Violation

AS_OF_SEQ: Final = "as_of_seq"
"""The field of requests that names a place."""
AS_OF_TIME: Final = "as_of_time"
"""The field of requests that names the last event at or before a time."""
_STARTED: Final = EventType.EVENT_TYPE_TOOL_CALL_STARTED
_APPROVED: Final = EventType.EVENT_TYPE_TOOL_CALL_APPROVED


def check_place(now: Session, seq: int, reached: int | None = None) -> None:
    """Raises InvalidFields for `as_of_seq` unless `seq` is a place of the session, whose core is `now`. `reached`: the
    version up to which it was read, if that may be a lower one."""
    version = now.version if reached is None else min(now.version, reached)
    if not now.base_version < seq <= version:
        rule = f"must be {now.base_version + 1} to {version}, the session's version"
        raise InvalidFields([Violation(AS_OF_SEQ, rule)])


def too_far() -> InvalidFields:
    """What is raised for a place at which the session cannot be made."""
    rule = (
        f"must have an event with the session at most {LOOKED_BACK} events before it: the log is of an earlier version"
    )
    return InvalidFields([Violation(AS_OF_SEQ, rule)])


def too_early() -> InvalidFields:
    """What is raised for a time before the session's first event."""
    return InvalidFields([Violation(AS_OF_TIME, "must not be before the session's first event")])


def core_after(core: Session, events: Iterable[StoredEvent]) -> Session:
    """Changes the core to what it is after events that follow it, none of which has a Session, and returns it. Raises
    ValueError for an event that does not follow."""
    for stored in events:
        event = Event.FromString(encoding.event(stored.type, stored.head, stored.body, None))
        # Events that were written before the field existed do not say which event they follow.
        if stored.seq != core.version + 1 or event.previous_event_id not in (core.last_event_id, ""):
            raise ValueError(f"event {stored.seq} does not follow version {core.version}")
        fold.add(core, event)
    return core


def state_seq(row: RunRow, fence: int, place: int) -> int:
    """`seq` of the event that has the run as it was at the place: it had begun, and not ended."""
    return fence if 0 < fence <= place else row.place


def run_then(run: Run, status: int, seq: int) -> tuple[int, int]:
    """(the run's status at the place `seq`, `seq` of the event that has the run as it was then; 0: it is so still). It
    had begun, and it has that status now."""
    if run.version <= seq:
        return status, 0
    if 0 < run.fence <= seq:
        return RunStatus.RUN_STATUS_RUNNING, run.fence
    return RunStatus.RUN_STATUS_QUEUED, run.seq


def call_steps(call: ToolCall) -> Sequence[tuple[int, int]]:
    """(type, time in microseconds) of the events of the call after which it was open, but for the first one."""
    steps: list[tuple[int, int]] = []
    if call.HasField("approval") and call.approval.approved:
        steps.append((_APPROVED, microseconds(call.approval.time)))
    if call.HasField("start_time"):
        steps.append((_STARTED, microseconds(call.start_time)))
    return steps


def prefix_of(tool_call_id: str) -> bytes:
    """What the body of every event of the tool call begins with."""
    return encoding.field(encoding.tag(1), tool_call_id.encode())


def run_at(row: RunRow, body: bytes) -> RunRow:
    """The run as the event with this body has it."""
    return replace(row, status=Run.FromString(body).status, body=body)


def call_at(row: ToolCallRow, body: bytes) -> ToolCallRow:
    """The call as the event with this body has it: it is open."""
    return replace(row, status=ToolCall.FromString(body).status, result_seq=0, body=body)
