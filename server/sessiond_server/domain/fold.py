"""Applies events to a session: a snapshot folded with the events after it equals the stored row (G9).

The rules call the same functions when they write the row.
"""

from collections.abc import Sequence
from typing import Final

from sessiond.patches import session_after
from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session, SessionStatus, TokenUsage
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.times import microseconds, set_timestamp
from sessiond_server.domain.validation import MOST_INTEGER

# Looked up once: each access through the enum costs most of a microsecond.
ENDED: Final = SessionStatus.SESSION_STATUS_ENDED

ACTIVITY: Final = frozenset(
    {
        EventType.EVENT_TYPE_MESSAGE_APPENDED,
        EventType.EVENT_TYPE_RUN_QUEUED,
        EventType.EVENT_TYPE_RUN_STARTED,
        EventType.EVENT_TYPE_RUN_COMPLETED,
        EventType.EVENT_TYPE_TOOL_CALL_REQUESTED,
        EventType.EVENT_TYPE_TOOL_CALL_APPROVED,
        EventType.EVENT_TYPE_TOOL_CALL_REJECTED,
        EventType.EVENT_TYPE_TOOL_CALL_STARTED,
        EventType.EVENT_TYPE_TOOL_CALL_COMPLETED,
        EventType.EVENT_TYPE_TOOL_CALL_FAILED,
        EventType.EVENT_TYPE_ATTACHMENT_UPLOADED,
    }
)
"""Types of events without a Session payload that move `last_activity_time`."""


def advance(session: Session, seq: int, time_us: int, *, first_of_request: bool, activity: bool) -> None:
    """Applies what every event changes: version, times, sliding expiry, request count."""
    session.version = seq
    set_timestamp(session.update_time, time_us)
    if activity:
        set_timestamp(session.last_activity_time, time_us)
    if first_of_request:
        session.request_count += 1
    if session.HasField("ttl") and session.status != ENDED:
        extend(session, time_us + microseconds(session.ttl))


def extend(session: Session, expire_us: int) -> None:
    """Moves the expiry to `expire_us`, but never earlier. Sets it on a session without one."""
    if not session.HasField("expire_time") or expire_us > microseconds(session.expire_time):
        set_timestamp(session.expire_time, expire_us)


def add_message(session: Session, message: Message) -> None:
    """Adds an appended message to the message count and the token usage."""
    session.message_count += 1
    if message.HasField("usage"):
        add_usage(session, message.usage)


def remove_messages(session: Session, seqs: Sequence[int]) -> None:
    """Subtracts deleted messages from the message count, which has none that a rewind has hidden. The usage stays:
    those tokens were spent."""
    rewound = ranges.of_session(session)
    session.message_count -= sum(not ranges.hides(rewound, seq) for seq in seqs) if rewound else len(seqs)


def fill_in_total(usage: TokenUsage) -> None:
    """Sets `total_tokens` to input plus output tokens where the report left it 0."""
    if not usage.total_tokens:
        usage.total_tokens = min(usage.input_tokens + usage.output_tokens, MOST_INTEGER)


def add_usage(session: Session, usage: TokenUsage) -> None:
    """Adds reported tokens to the session's usage. `usage.total_tokens` is filled in already."""
    total = session.usage
    total.input_tokens = min(total.input_tokens + usage.input_tokens, MOST_INTEGER)
    total.output_tokens = min(total.output_tokens + usage.output_tokens, MOST_INTEGER)
    total.total_tokens = min(total.total_tokens + usage.total_tokens, MOST_INTEGER)
    total.reasoning_tokens = min(total.reasoning_tokens + usage.reasoning_tokens, MOST_INTEGER)
    total.cached_tokens = min(total.cached_tokens + usage.cached_tokens, MOST_INTEGER)


def add_summary(session: Session, summary: Summary) -> None:
    """Applies an event of a summary: the newest one, and the tokens spent on it."""
    session.summary_seq = summary.seq
    if summary.HasField("usage"):
        add_usage(session, summary.usage)


def add_run(session: Session, event_type: EventType.ValueType, run: Run) -> None:
    """Applies an event of a run: the live run, the run counts, and the tokens of a run that ended."""
    if event_type == EventType.EVENT_TYPE_RUN_QUEUED:
        session.run_count += 1
        session.queued_run_count += 1
    elif event_type == EventType.EVENT_TYPE_RUN_STARTED:
        if run.seq == run.version:
            session.run_count += 1
        else:
            session.queued_run_count -= 1
        session.live_run_id = run.run_id
        session.live_run_fence = run.fence
    else:
        if run.run_id == session.live_run_id:
            session.live_run_id = ""
            session.live_run_fence = 0
        else:
            session.queued_run_count -= 1
        if run.HasField("usage"):
            add_usage(session, run.usage)


def add_tool_call(session: Session, event_type: EventType.ValueType, call: ToolCall) -> None:
    """Applies an event of a tool call: the counts of open calls and of calls that wait for an approval."""
    if event_type == EventType.EVENT_TYPE_TOOL_CALL_REQUESTED:
        session.open_tool_call_count += 1
        session.pending_approval_count += call.requires_approval
    elif event_type == EventType.EVENT_TYPE_TOOL_CALL_APPROVED:
        session.pending_approval_count -= call.requires_approval
    elif event_type in (EventType.EVENT_TYPE_TOOL_CALL_REJECTED, EventType.EVENT_TYPE_TOOL_CALL_EXPIRED):
        session.open_tool_call_count -= 1
        session.pending_approval_count -= call.requires_approval
    elif event_type == EventType.EVENT_TYPE_TOOL_CALL_CANCELLED:
        session.open_tool_call_count -= 1
        session.pending_approval_count -= call.requires_approval and not call.HasField("approval")
    elif event_type in (EventType.EVENT_TYPE_TOOL_CALL_COMPLETED, EventType.EVENT_TYPE_TOOL_CALL_FAILED):
        session.open_tool_call_count -= 1


def add_attachment(session: Session, event_type: EventType.ValueType, attachment: Attachment) -> None:
    """Applies an event of an attachment: the session's number of attachments and their bytes."""
    sign = 1 if event_type == EventType.EVENT_TYPE_ATTACHMENT_UPLOADED else -1
    session.attachment_count += sign
    session.attachment_bytes += sign * attachment.size_bytes


def fold(session: Session, event: Event) -> Session:
    """Returns the session after the event, given the session before it (an empty Session before the first event).

    Works on full sessions (SESSION_VIEW_FULL), and for the core on cores. Raises ValueError when the event is not the
    next one.
    """
    begins = not session.version and event.type == EventType.EVENT_TYPE_SESSION_CREATED
    if event.seq != (event.session.base_version if begins else session.version) + 1:
        raise ValueError(f"event {event.seq} does not follow version {session.version}")
    if event.previous_event_id != session.last_event_id:
        raise ValueError(f"event {event.seq} follows another event than the session's last")
    if event.WhichOneof("payload") == "session":
        return session_after(session, event)
    after = Session()
    after.CopyFrom(session)
    add(after, event)
    return after


def add(session: Session, event: Event) -> None:
    """Applies the next event, which has no Session, in place."""
    advance(
        session,
        event.seq,
        microseconds(event.create_time),
        first_of_request=event.index_in_request == 0,
        activity=event.type in ACTIVITY,
    )
    session.last_event_id = event.event_id
    payload = event.WhichOneof("payload")
    if payload == "run":
        add_run(session, event.type, event.run)
    elif payload == "tool_call":
        add_tool_call(session, event.type, event.tool_call)
    elif payload == "attachment":
        add_attachment(session, event.type, event.attachment)
    elif event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED:
        add_message(session, event.message)
    elif payload == "summary":
        add_summary(session, event.summary)
    elif payload == "deleted_messages":
        remove_messages(session, event.deleted_messages.seqs)
    if event.HasField("session_name"):
        session.name = event.session_name
