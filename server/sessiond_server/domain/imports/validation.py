"""What the events of an imported log must be, each by itself. See domain/validation.py; paths begin with `event`."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.session_pb2 import EndReason, Session, SessionStatus, SessionType
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import text, validation
from sessiond_server.domain.encoding import (
    FIRST_ATTACHMENT_EVENT,
    FIRST_DOCUMENT_EVENT,
    FIRST_MESSAGE_EVENT,
    FIRST_RUN_EVENT,
    FIRST_SUMMARY_EVENT,
    FIRST_TOOL_CALL_EVENT,
    MESSAGES_DELETED,
)
from sessiond_server.domain.forks.rows import ITEMS
from sessiond_server.domain.messages.validation import new_message
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.runs import validation as run_validation
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.summaries.validation import new_summary
from sessiond_server.domain.tool_calls import validation as tool_call_validation
from sessiond_server.domain.validation import FieldViolations

EVENT_BYTES: Final = 7 * validation.MIB // 2
"""No event of a log is larger."""
_UUID_VERSION: Final = 7
_ID_FIELDS: Final = {"message": "message_id", "run": "run_id", "tool_call": "tool_call_id",
                     "attachment": "attachment_id", "summary": "summary_id"}  # fmt: skip


def payload_of(event_type: int) -> str | None:
    """The name of the payload that events of this type have; None: they have none in the oneof."""
    if event_type < FIRST_MESSAGE_EVENT:
        return "session"
    if event_type < FIRST_RUN_EVENT:
        return "deleted_messages" if event_type == MESSAGES_DELETED else "message"
    if event_type < FIRST_TOOL_CALL_EVENT:
        return "run"
    if event_type < FIRST_ATTACHMENT_EVENT:
        return "tool_call"
    if event_type < FIRST_DOCUMENT_EVENT:
        return "attachment"
    return None if event_type < FIRST_SUMMARY_EVENT else "summary"


def session(found: FieldViolations, path: str, value: Session) -> None:
    """Checks a session as exports have it. Fields that are not set are not checked."""
    found.add(f"{path}.session_id", text.identifier(value.session_id))
    found.add(f"{path}.user_id", text.optional_identifier(value.user_id))
    validation.enum(found, f"{path}.type", value.type, SessionType.DESCRIPTOR)
    validation.enum(found, f"{path}.status", value.status, SessionStatus.DESCRIPTOR)
    validation.enum(found, f"{path}.end_reason", value.end_reason, EndReason.DESCRIPTOR)
    if not value.status:
        found.add(f"{path}.status", "is required")
    for field, given in value.ListFields():
        if field.name in session_validation.MUTABLE_FIELDS:
            session_validation.mutable_field(found, path, value, field.name)
        elif field.name.endswith("_time"):
            validation.timestamp(found, f"{path}.{field.name}", given)
        elif isinstance(given, int) and not 0 <= given <= validation.MOST_INTEGER:
            found.add(f"{path}.{field.name}", "must be 0 to 2^53 - 1")
    if value.HasField("usage"):
        validation.usage(found, f"{path}.usage", value.usage)
    if value.rewound:
        _rewound(found, f"{path}.rewound", value)


def _rewound(found: FieldViolations, path: str, value: Session) -> None:
    if len(value.rewound) > ranges.MOST:
        found.add(path, f"must have at most {ranges.MOST} ranges")
        return
    end = value.base_version - 1
    for first, last in ranges.of_session(value):
        if not end + 1 < first <= last <= value.version:
            found.add(path, "must be ranges of the log, ascending and apart from each other")
            return
        end = last


def event(found: FieldViolations, value: Event, size: int) -> None:
    """Checks an event of `size` serialised bytes, but not how it follows the one before."""
    if value.type in (0, EventType.EVENT_TYPE_SESSION_DELETED) or value.type not in EventType.values():
        found.add("event.type", "must be a type of this version, of a session that is not deleted")
        return
    if size > EVENT_BYTES:
        found.add("event", f"must be at most {EVENT_BYTES} bytes serialised")
    _head(found, value)
    payload = value.WhichOneof("payload")
    if payload != payload_of(value.type):
        found.add("event.payload", "must be the one of the event's type")
        return
    if payload is None:
        if len(value.documents) != 1:
            found.add("event.documents", "must be exactly one")
        return
    if (id_field := _ID_FIELDS.get(payload)) is not None:
        found.add(f"event.{payload}.{id_field}", text.identifier(getattr(getattr(value, payload), id_field)))
    if payload in _PAYLOADS:
        _PAYLOADS[payload](found, value)


def _head(found: FieldViolations, value: Event) -> None:
    if not _is_uuid7(value.event_id):
        found.add("event.event_id", "must be a UUID of version 7")
    found.add("event.actor", text.line(value.actor, 0, text.ID_BYTES))
    if value.request_id:
        found.add("event.request_id", text.request_identifier(value.request_id))
    if value.index_in_request < 0:
        found.add("event.index_in_request", "must not be negative")
    if value.HasField("session_name"):
        found.add("event.session_name", text.text(value.session_name, 200))
    validation.timestamp(found, "event.create_time", value.create_time)
    most = ITEMS if value.type == EventType.EVENT_TYPE_SESSION_FORKED else 0
    if len(value.deleted_attachment_ids) > most:
        found.add("event.deleted_attachment_ids", f"must be at most {most}")
    for index, run in enumerate(value.preset_runs):
        found.add(f"event.preset_runs[{index}].run_id", text.identifier(run.run_id))
        run_validation.run(found, f"event.preset_runs[{index}]", run)


def _is_uuid7(value: str) -> bool:
    try:
        parsed = UUID(value)
    except ValueError:
        return False
    return parsed.version == _UUID_VERSION and str(parsed) == value


def _message(found: FieldViolations, value: Event) -> None:
    new_message(found, "event.message", value.message, 0, EVENT_BYTES)
    if value.message.rewound:
        found.add("event.message.rewound", "must not be set: the session's `rewound` says what is hidden")


def _tool_call(found: FieldViolations, value: Event) -> None:
    call: ToolCall = value.tool_call
    tool_call_validation.new_tool_call(found, "event.tool_call", call)
    for name in ("run_id", "start_run_id"):
        found.add(f"event.tool_call.{name}", text.optional_identifier(getattr(call, name)))
    for name in ("create_time", "start_time", "end_time"):
        if call.HasField(name):  # type: ignore[arg-type]  # the stubs want literals
            validation.timestamp(found, f"event.tool_call.{name}", getattr(call, name))
    if not 0 <= call.result_seq <= value.seq:
        found.add("event.tool_call.result_seq", "must be at most the event's seq")


def _attachment(found: FieldViolations, value: Event) -> None:
    file: Attachment = value.attachment
    found.add("event.attachment.name", text.line(file.name, 0, 255))
    found.add("event.attachment.media_type", text.line(file.media_type, 0, 255))
    if len(file.sha256) != hashlib.sha256().digest_size:
        found.add("event.attachment.sha256", "must be 32 bytes")
    if not 0 <= file.size_bytes <= validation.MOST_INTEGER:
        found.add("event.attachment.size_bytes", "must be 0 to 2^53 - 1")


_PAYLOADS: Final[Mapping[str, Callable[[FieldViolations, Event], None]]] = {
    "session": lambda found, value: session(found, "event.session", value.session),
    "message": _message,
    "run": lambda found, value: run_validation.run(found, "event.run", value.run),
    "tool_call": _tool_call,
    "attachment": _attachment,
    "summary": lambda found, value: new_summary(found, "event.summary", value.summary),
}
