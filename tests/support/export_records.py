"""A small export, made by hand."""

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.export_service_pb2 import ExportEnd, ExportHeader, ExportRecord, ImportHeader, ImportSessionRequest
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import AgentMode, Session, SessionStatus, SessionType, SessionView
from sessiond_server.domain.imports.digests import sign

_IDS = ("01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002")


def small_export(user_id: str = "") -> list[ExportRecord]:
    """The export of a session `exported` with one message."""
    session = Session(
        session_id="exported", type=SessionType.SESSION_TYPE_AGENT, agent_mode=AgentMode.AGENT_MODE_GENERAL,
        status=SessionStatus.SESSION_STATUS_ACTIVE, user_id=user_id, version=1, request_count=1, last_event_id=_IDS[0],
    )  # fmt: skip
    for time in (session.create_time, session.update_time, session.last_activity_time):
        time.seconds = 1_700_000_000
    created = Event(
        seq=1, session_id="exported", event_id=_IDS[0], type=EventType.EVENT_TYPE_SESSION_CREATED, actor="test",
        create_time=session.create_time, session_view=SessionView.SESSION_VIEW_FULL, session=session,
    )  # fmt: skip
    message = Message(
        message_id="m1", session_id="exported", seq=2, role=Role.ROLE_ASSISTANT, parts=[Part(text="exported")]
    )
    appended = Event(
        seq=2, session_id="exported", event_id=_IDS[1], previous_event_id=_IDS[0], actor="test", message=message,
        type=EventType.EVENT_TYPE_MESSAGE_APPENDED, create_time=session.create_time,
    )  # fmt: skip
    last = Session()
    last.CopyFrom(session)
    last.version = last.request_count = 2
    last.message_count, last.last_event_id = 1, _IDS[1]
    records = [
        ExportRecord(header=ExportHeader(format_version=1, export_time=session.create_time, session=last)),
        ExportRecord(event=created),
        ExportRecord(event=appended),
        ExportRecord(end=ExportEnd(events=2)),
    ]
    digest = b""
    for record in records:
        digest = sign(record, digest)
    return records


def beginning(session_id: str = "", user_id: str = "") -> ImportSessionRequest:
    """The first message of its import."""
    return ImportSessionRequest(header=ImportHeader(record=small_export(user_id)[0], session_id=session_id))


def following(user_id: str = "") -> ImportSessionRequest:
    """All that follows."""
    return ImportSessionRequest(records=small_export(user_id)[1:])
