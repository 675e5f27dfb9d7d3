"""Builds serialised messages from serialised parts, without parsing the parts.

Two facts of the protobuf encoding make this possible: fields may stand in any order, and two serialised messages of one
type, joined, parse as the two merged. So a session is its core followed by its content, and an event is its head
followed by its payload field.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import Event
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import DeleteMessagesResponse, ListMessagesResponse
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import ListSessionsResponse
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall

_LENGTH_DELIMITED = 2

_SHORT = 4096


def varint(value: int) -> bytes:
    """Base-128 varint of a non-negative integer."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(field_number: int) -> bytes:
    """The tag of a length-delimited field."""
    return varint(field_number << 3 | _LENGTH_DELIMITED)


def field(field_tag: bytes, data: bytes) -> bytes:
    """A length-delimited field: the serialised message that has only this field."""
    return b"".join((field_tag, varint(len(data)), data))


_EVENT_SEQ = varint(Event.SEQ_FIELD_NUMBER << 3)
_EVENT_ID = tag(Event.EVENT_ID_FIELD_NUMBER)
_EVENT_PREVIOUS = tag(Event.PREVIOUS_EVENT_ID_FIELD_NUMBER)
_EVENT_INDEX = varint(Event.INDEX_IN_REQUEST_FIELD_NUMBER << 3)
_EVENT_NAME = tag(Event.SESSION_NAME_FIELD_NUMBER)
_MESSAGE_SEQ = varint(Message.SEQ_FIELD_NUMBER << 3)
_MESSAGE_ID = tag(Message.MESSAGE_ID_FIELD_NUMBER)
_EVENT_PATCH = tag(Event.SESSION_PATCH_FIELD_NUMBER)
EVENT_SESSION = tag(Event.SESSION_FIELD_NUMBER)
EVENT_MESSAGE = tag(Event.MESSAGE_FIELD_NUMBER)
EVENT_RUN = tag(Event.RUN_FIELD_NUMBER)
EVENT_TOOL_CALL = tag(Event.TOOL_CALL_FIELD_NUMBER)
EVENT_ATTACHMENT = tag(Event.ATTACHMENT_FIELD_NUMBER)
EVENT_DELETED_MESSAGES = tag(Event.DELETED_MESSAGES_FIELD_NUMBER)
EVENT_DOCUMENT = tag(Event.DOCUMENTS_FIELD_NUMBER)
EVENT_SUMMARY = tag(Event.SUMMARY_FIELD_NUMBER)
EVENT_PRESET_RUN = tag(Event.PRESET_RUNS_FIELD_NUMBER)
EVENT_DELETED_ATTACHMENT_ID = tag(Event.DELETED_ATTACHMENT_IDS_FIELD_NUMBER)
_EVENT_SESSION_ID = tag(Event.SESSION_ID_FIELD_NUMBER)
_SESSION_IDS: Final = {
    EVENT_SESSION: tag(Session.SESSION_ID_FIELD_NUMBER),
    EVENT_MESSAGE: tag(Message.SESSION_ID_FIELD_NUMBER),
    EVENT_RUN: tag(Run.SESSION_ID_FIELD_NUMBER),
    EVENT_TOOL_CALL: tag(ToolCall.SESSION_ID_FIELD_NUMBER),
    EVENT_ATTACHMENT: tag(Attachment.SESSION_ID_FIELD_NUMBER),
    EVENT_SUMMARY: tag(Summary.SESSION_ID_FIELD_NUMBER),
}
"""By the tag of a payload, the tag of its session's id."""
LISTED_MESSAGE = tag(ListMessagesResponse.MESSAGES_FIELD_NUMBER)
RETURNED_MESSAGE = tag(DeleteMessagesResponse.MESSAGES_FIELD_NUMBER)
LISTED_SESSION = tag(ListSessionsResponse.SESSIONS_FIELD_NUMBER)

MESSAGE_REWOUND: Final = varint(Message.REWOUND_FIELD_NUMBER << 3) + b"\x01"
"""What, behind a serialised Message, says that a rewind has hidden it."""

SESSION_CREATED: Final = 1
MESSAGES_DELETED = 22
FIRST_MESSAGE_EVENT = 20
FIRST_RUN_EVENT = 30
FIRST_TOOL_CALL_EVENT = 40
FIRST_ATTACHMENT_EVENT = 60
FIRST_DOCUMENT_EVENT = 70
SUMMARY_CREATED = FIRST_SUMMARY_EVENT = 80
"""The first event type of each resource. Events from that number on carry the resource; lower ones carry a Session."""


PATCH: Final = b"\x07"
"""The first byte of a patch of a session's content, in the column of the content. No serialised message begins with it,
so a server of a version before patches fails on it instead of taking the patch for the content."""


def number_field(number: int, value: int) -> bytes:
    """A serialised field of a whole number that is not negative."""
    return varint(number << 3) + varint(value)


def event_head(seq: int, event_id: str, previous: str, index_in_request: int, session_name: str | None) -> bytes:
    """The serialised fields of an Event's head that differ between the events of one write."""
    parts = [_EVENT_SEQ, varint(seq), _EVENT_ID, varint(len(event_id)), event_id.encode()]
    if previous:
        parts += (_EVENT_PREVIOUS, varint(len(previous)), previous.encode())
    if index_in_request:
        parts += (_EVENT_INDEX, varint(index_in_request))
    if session_name is not None:
        name = session_name.encode()
        parts += (_EVENT_NAME, varint(len(name)), name)
    return b"".join(parts)


def message_place(seq: int, message_id: str) -> bytes:
    """The serialised fields of a stored Message that differ between the messages of one append."""
    encoded = message_id.encode()
    return b"".join((_MESSAGE_SEQ, varint(seq), _MESSAGE_ID, varint(len(encoded)), encoded))


def event(event_type: int, head: bytes, body: bytes, content: bytes | None) -> bytes:
    """A serialised Event from the columns of its row."""
    payload = _payload(event_type)
    if content is None:
        return b"".join((head, payload, varint(len(body)), body))
    if content.startswith(PATCH):
        return b"".join((head, payload, varint(len(body)), body, _EVENT_PATCH, varint(len(content) - 1), content[1:]))
    return b"".join((head, payload, varint(len(body) + len(content)), body, content))


def of_session(event_type: int, session_id: str) -> bytes:
    """What, behind a serialised Event of this type, makes it one of the session: the later of two values holds."""
    name = session_id.encode()
    own = field(_EVENT_SESSION_ID, name)
    numbers = _SESSION_IDS.get(_payload(event_type))
    return own if numbers is None else own + field(_payload(event_type), field(numbers, name))


def preset_runs_of_session(data: bytes, session_id: str) -> bytes:
    """The serialised Event of a creation, or its head, with the session's id in its preset runs."""
    event = Event.FromString(data)
    if not event.preset_runs:
        return data
    for run in event.preset_runs:
        run.session_id = session_id
    return event.SerializeToString()


def event_of_session(session_id: str) -> bytes:
    """What, behind the head of an Event, makes it one of the session."""
    return field(_EVENT_SESSION_ID, session_id.encode())


def session_id_of(event_type: int) -> bytes | None:
    """The tag of the session's id in payloads of this type; None if they have none."""
    return _SESSION_IDS.get(_payload(event_type))


def message_of_session(session_id: str) -> bytes:
    """What, behind a serialised Message, makes it one of the session."""
    return field(_SESSION_IDS[EVENT_MESSAGE], session_id.encode())


def summary_of_session(session_id: str) -> bytes:
    """As message_of_session, of a Summary."""
    return field(_SESSION_IDS[EVENT_SUMMARY], session_id.encode())


def _payload(event_type: int) -> bytes:
    """The tag of the payload field of an event of this type."""
    if event_type < FIRST_MESSAGE_EVENT:
        return EVENT_SESSION
    if event_type < FIRST_RUN_EVENT:
        return EVENT_DELETED_MESSAGES if event_type == MESSAGES_DELETED else EVENT_MESSAGE
    if event_type < FIRST_TOOL_CALL_EVENT:
        return EVENT_RUN
    if event_type < FIRST_ATTACHMENT_EVENT:
        return EVENT_TOOL_CALL
    if event_type < FIRST_DOCUMENT_EVENT:
        return EVENT_ATTACHMENT
    return EVENT_DOCUMENT if event_type < FIRST_SUMMARY_EVENT else EVENT_SUMMARY


@cache
def _starts(field_tag: bytes) -> list[bytes]:
    """Encoded tag and length, by length. Nearly all items are short, and encoding a varint costs more than copying the
    item."""
    return [field_tag + varint(length) for length in range(_SHORT)]


def repeated(field_tag: bytes, items: Iterable[bytes], rest: bytes = b"") -> bytes:
    """A serialised message with `items` in one repeated message field, followed by its other fields."""
    starts = _starts(field_tag)
    parts: list[bytes] = []
    for item in items:
        length = len(item)
        parts += (starts[length] if length < _SHORT else field_tag + varint(length), item)
    parts.append(rest)
    return b"".join(parts)
