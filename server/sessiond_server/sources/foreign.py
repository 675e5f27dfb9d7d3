"""A session of another system, and the export that sessiond imports it from.

The event ids are made from the source's own ids and times. So the same source makes the same export, which is imported
once, however often it is read.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.export_service_pb2 import ExportEnd, ExportHeader, ExportRecord
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionStatus, SessionType, SessionView
from sessiond_server.domain import fold
from sessiond_server.domain.imports.digests import sign
from sessiond_server.domain.imports.log import FORMAT
from sessiond_server.domain.messages.titles import title
from sessiond_server.domain.times import microseconds, set_timestamp
from sessiond_server.sources.values import Unfit

ACTOR = "import"
"""`Event.actor` of what another system has stored."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that a source has and that cannot become a session."""

    source_id: str
    """The source's id of it, or its place there."""
    why: str
    """For people; quotes no contents."""


@dataclass(slots=True)
class ForeignSession:
    """A session as another system has it. Times are microseconds since 1970 UTC."""

    source_id: str
    session: Session
    """`session_id`, and what else a client could set; status and request_count too."""
    create_us: int
    update_us: int = 0
    """When it was last used, if that is later than its last message; 0: not known."""
    messages: list[tuple[int, Message]] = field(default_factory=list)
    """(time, message), in order. Messages without an id get one."""
    notes: list[str] = field(default_factory=list)
    """What had to be changed, for the report."""


def export_of(foreign: ForeignSession, kind: str) -> list[ExportRecord]:
    """The export. `kind` names the source."""
    log = _Log(f"{kind}\0{foreign.source_id}", foreign)
    events = [log.created(), *(log.appended(time_us, message) for time_us, message in foreign.messages)]
    if foreign.update_us > microseconds(log.session.update_time):
        events.append(log.touched(foreign.update_us))
    if foreign.session.status == SessionStatus.SESSION_STATUS_ENDED:
        events.append(log.ended())
    header = ExportHeader(format_version=FORMAT, export_time=log.session.update_time, session=log.session)
    records = [
        ExportRecord(header=header),
        *(ExportRecord(event=event) for event in events),
        ExportRecord(end=ExportEnd(events=len(events))),
    ]
    digest = b""
    for record in records:
        digest = sign(record, digest)
    return records


class _Log:
    def __init__(self, seed: str, foreign: ForeignSession) -> None:
        self._seed = seed
        self._create_us = foreign.create_us
        self._requests = foreign.session.request_count
        self.session = Session()
        self.session.CopyFrom(foreign.session)

    def created(self) -> Event:
        session = self.session
        session.type = session.type or SessionType.SESSION_TYPE_AGENT
        session.agent_mode = session.agent_mode or AgentMode.AGENT_MODE_GENERAL
        session.status = SessionStatus.SESSION_STATUS_ACTIVE
        session.request_count = max(self._requests, 1) - 1
        content = (
            any(session.HasField(name) for name in ("metadata", "state", "agent_data", "config")) or session.summary
        )
        session.content_version = 1 if content else 0
        set_timestamp(session.create_time, self._create_us)
        event = self._next(EventType.EVENT_TYPE_SESSION_CREATED, self._create_us, activity=True)
        event.session_view = SessionView.SESSION_VIEW_FULL
        event.session.CopyFrom(session)
        return event

    def appended(self, time_us: int, given: Message) -> Event:
        event = self._next(EventType.EVENT_TYPE_MESSAGE_APPENDED, time_us, activity=True)
        message = event.message
        message.CopyFrom(given)
        message.session_id, message.seq = event.session_id, event.seq
        message.message_id = message.message_id or str(self._uuid(f"message {event.seq}", time_us))
        message.create_time.CopyFrom(event.create_time)
        if message.HasField("usage"):
            fold.fill_in_total(message.usage)
        fold.add_message(self.session, message)
        if not self.session.name and (name := title(message)):
            self.session.name = event.session_name = name
        return event

    def touched(self, time_us: int) -> Event:
        event = self._next(EventType.EVENT_TYPE_SESSION_TOUCHED, time_us, activity=True)
        self.session.request_count -= 1  # the source has counted what it did until then
        return self._with_core(event)

    def ended(self) -> Event:
        event = self._next(EventType.EVENT_TYPE_SESSION_ENDED, microseconds(self.session.update_time), activity=False)
        self.session.status, self.session.end_reason = (
            SessionStatus.SESSION_STATUS_ENDED,
            EndReason.END_REASON_COMPLETED,
        )
        self.session.end_time.CopyFrom(event.create_time)
        return self._with_core(event)

    def _with_core(self, event: Event) -> Event:
        event.session_view = SessionView.SESSION_VIEW_BASIC
        event.session.CopyFrom(self.session)
        for name in ("metadata", "state", "agent_data", "summary", "config"):
            event.session.ClearField(name)
        return event

    def _next(self, event_type: EventType.ValueType, time_us: int, *, activity: bool) -> Event:
        """The head of the next event; the session has its place and time afterwards."""
        session = self.session
        if session.version:
            time_us = max(time_us, microseconds(session.update_time))
        fold.advance(session, session.version + 1, time_us, first_of_request=True, activity=activity)
        event = Event(
            seq=session.version, session_id=session.session_id, type=event_type, actor=ACTOR,
            event_id=str(self._uuid(f"event {session.version}", time_us)), previous_event_id=session.last_event_id,
        )  # fmt: skip
        set_timestamp(event.create_time, time_us)
        session.last_event_id = event.event_id
        return event

    def _uuid(self, name: str, time_us: int) -> UUID:
        """A UUIDv7 of that time, the same for the same source."""
        digest = hashlib.sha256(f"{self._seed}\0{self.session.session_id}\0{name}".encode()).digest()
        milliseconds = max(time_us // 1000, 0) & 0xFFFF_FFFF_FFFF
        random = bytes([0x70 | digest[0] & 0x0F, digest[1], 0x80 | digest[2] & 0x3F]) + digest[3:10]
        return UUID(bytes=milliseconds.to_bytes(6) + random)


def attempt(place: str, make: Callable[[], ForeignSession]) -> "ForeignSession | Unreadable":
    """What `make` makes of what is at the place of the source, or why it could not."""
    try:
        return make()
    except Unfit as error:
        return Unreadable(place, str(error))
    except (ValueError, TypeError, OverflowError, RecursionError):
        # Text that UTF-8 cannot encode, numbers that no field can have, and the like.
        return Unreadable(place, "has a value that sessiond cannot take")


Read = Iterator[ForeignSession | Unreadable]
"""What a source has, one after the other."""
