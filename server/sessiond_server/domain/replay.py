"""The first outcome of a request that is made again, rebuilt from the events that it wrote."""

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain import wire
from sessiond_server.domain.rows import StoredEvent

_FINISHED: Final = (EventType.EVENT_TYPE_RUN_COMPLETED, EventType.EVENT_TYPE_RUN_FAILED)
_CANCELLED: Final = (EventType.EVENT_TYPE_RUN_CANCELLED,)


def contents(events: Sequence[StoredEvent]) -> tuple[int, ...]:
    """`seq` of the events whose content `outcome` needs."""
    last = events[-1]
    if last.type < wire.FIRST_MESSAGE_EVENT:
        version = Session.FromString(last.body).content_version
        return (version,) if version else ()
    if wire.FIRST_TOOL_CALL_EVENT <= last.type < wire.FIRST_ATTACHMENT_EVENT:
        call = ToolCall.FromString(last.body)
        return (call.seq, call.result_seq) if call.result_seq else (call.seq,)
    return ()


def outcome(action: c.Action, events: Sequence[StoredEvent], content: Mapping[int, bytes]) -> c.Outcome:
    """Equal to what the command's first application answered.

    `events` are first_seq..last_seq of the Replay, complete and ascending; `content` has, by seq, the content of the
    events that `contents(events)` names, where they have any. The fingerprint has shown that `action` is the first
    one's equal.
    """
    first, last = events[0], events[-1]
    if isinstance(action, c.DeleteSession):
        return c.SessionDeleted(last.seq)
    if isinstance(action, c.AppendMessages):
        ids = tuple(event.message_id or "" for event in events)
        return c.MessagesAppended(last.seq, first.seq, ids, last.create_time_us)
    if isinstance(action, c.RedactMessage):
        return c.MessageRedacted(last.seq, last.body)
    if isinstance(action, c.BeginRun):
        return c.RunWritten(last.seq, last.body)
    if isinstance(action, c.FinishRun):
        return c.RunWritten(last.seq, _only(events, _FINISHED).body)
    if isinstance(action, c.CancelRun):
        return c.RunWritten(last.seq, _only(events, _CANCELLED).body)
    if isinstance(action, c.CompleteUpload):
        return c.AttachmentUploaded(last.seq, last.body)
    if isinstance(action, c.DeleteAttachment):
        return c.AttachmentDeleted(last.seq)
    data = b"".join(content.get(seq, b"") for seq in contents(events))
    if isinstance(action, (c.RequestToolCall, *get_args(c.ToolCallChange))):
        return c.ToolCallWritten(last.seq, last.body + data)
    return c.SessionWritten(c.SessionSnapshot(last.seq, last.body, data))


def _only(events: Sequence[StoredEvent], types: Sequence[int]) -> StoredEvent:
    """The event of the run that the command ended; around it may be those of its calls, and of the next run's start."""
    (event,) = (event for event in events if event.type in types)
    return event
