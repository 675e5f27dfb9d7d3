"""A session as it was at an earlier place of its log."""

from collections.abc import Iterable
from dataclasses import replace

from sessiond.v1.event_pb2 import Event
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import encoding, fold
from sessiond_server.domain.rows import RunRow, StoredEvent, ToolCallRow


def core_after(core: Session, events: Iterable[StoredEvent]) -> Session:
    """The core after events that follow it; none of them has a Session."""
    for event in events:
        core = fold.fold(core, Event.FromString(encoding.event(event.type, event.head, event.body, None)))
    return core


def state_seq(row: RunRow, fence: int, place: int) -> int:
    """`seq` of the event that has the run as it was at the place: it had begun, and not ended."""
    return fence if 0 < fence <= place else row.place


def call_prefix(row: ToolCallRow) -> bytes:
    """What the body of every event of the call begins with."""
    return encoding.field(encoding.tag(1), row.tool_call_id.encode())


def run_at(row: RunRow, body: bytes) -> RunRow:
    """The run as the event with this body has it."""
    return replace(row, status=Run.FromString(body).status, body=body)


def call_at(row: ToolCallRow, body: bytes) -> ToolCallRow:
    """The call as the event with this body has it: it is open."""
    return replace(row, status=ToolCall.FromString(body).status, result_seq=0, body=body)
