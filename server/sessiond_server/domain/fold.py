"""What an event does to the session: a snapshot and the events after it fold to the row (G9).

The rules use the same functions to make the row in the first place.
"""

from typing import Final

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.session_pb2 import Session, SessionStatus, SessionView
from sessiond_server.domain.parts import CONTENT_FIELDS, copy_field
from sessiond_server.domain.times import microseconds, set_timestamp

# Looked up once: each access through the enum costs most of a microsecond.
ENDED: Final = SessionStatus.SESSION_STATUS_ENDED
USER: Final = Role.ROLE_USER

TITLE_CHARACTERS = 50
"""Length of the name that the first user message gives a session."""


MOST = 2**53
"""Token counts stop here: the largest integer that every client's language can hold."""


def title(message: Message) -> str:
    """The name that a message gives a session without one; "" when it gives none.

    The first TITLE_CHARACTERS characters of a user's text, white space folded.
    """
    if message.role != USER:
        return ""
    text = next((part.text for part in message.parts if part.text.strip()), "")
    # The fold needs no more of a long text than this; runs of white space may cost it some characters.
    return " ".join(text[: 20 * TITLE_CHARACTERS].split())[:TITLE_CHARACTERS].rstrip()


def advance(session: Session, seq: int, time_us: int, *, first_of_request: bool, activity: bool) -> None:
    """What every event does: version, times, sliding expiry, request count."""
    session.version = seq
    set_timestamp(session.update_time, time_us)
    if activity:
        set_timestamp(session.last_activity_time, time_us)
    if first_of_request:
        session.request_count += 1
    if session.HasField("ttl") and session.status != ENDED:
        extend(session, time_us + microseconds(session.ttl))


def extend(session: Session, expire_us: int) -> None:
    """Moves the expiry later, never earlier; a session without one gets it."""
    if not session.HasField("expire_time") or expire_us > microseconds(session.expire_time):
        set_timestamp(session.expire_time, expire_us)


def add_message(session: Session, message: Message) -> None:
    """What an appended message does besides: count and tokens."""
    session.message_count += 1
    if message.HasField("usage"):
        total, usage = session.usage, message.usage
        total.input_tokens = min(total.input_tokens + usage.input_tokens, MOST)
        total.output_tokens = min(total.output_tokens + usage.output_tokens, MOST)
        total.total_tokens = min(total.total_tokens + usage.total_tokens, MOST)
        total.reasoning_tokens = min(total.reasoning_tokens + usage.reasoning_tokens, MOST)
        total.cached_tokens = min(total.cached_tokens + usage.cached_tokens, MOST)


def fold(session: Session, event: Event) -> Session:
    """The session after the event, given the session before it (an empty one before the first event).

    Works on whole sessions (SESSION_VIEW_FULL) and on cores alike. Raises ValueError when the event is not the next.
    """
    if event.seq != session.version + 1:
        raise ValueError(f"event {event.seq} does not follow version {session.version}")
    if event.previous_event_id != session.last_event_id:
        raise ValueError(f"event {event.seq} follows another event than the session's last")
    after = Session()
    if event.WhichOneof("payload") == "session":
        after.CopyFrom(event.session)
        if event.session_view == SessionView.SESSION_VIEW_BASIC and event.type != EventType.EVENT_TYPE_SESSION_DELETED:
            for name in CONTENT_FIELDS:
                copy_field(session, after, name)
        return after
    after.CopyFrom(session)
    appended = event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED
    advance(
        after,
        event.seq,
        microseconds(event.create_time),
        first_of_request=event.index_in_request == 0,
        activity=appended,
    )
    after.last_event_id = event.event_id
    if appended:
        add_message(after, event.message)
    if event.HasField("session_name"):
        after.name = event.session_name
    return after
