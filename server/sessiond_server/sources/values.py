"""Reads the values that other systems store: times in several forms, JSON texts, ids, roles, and parts of messages."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.domain import structs, text, validation

_ROLES: Final = {
    "user": Role.ROLE_USER, "human": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT, "model": Role.ROLE_ASSISTANT, "ai": Role.ROLE_ASSISTANT,
    "agent": Role.ROLE_ASSISTANT,
    "system": Role.ROLE_SYSTEM, "developer": Role.ROLE_SYSTEM,
    "tool": Role.ROLE_TOOL, "function": Role.ROLE_TOOL,
}  # fmt: skip
_MILLISECONDS_FROM: Final = 100_000_000_000
"""Numbers from here on are milliseconds: as seconds they would lie in the year 5138."""
_LATEST_US: Final = 253_402_300_799 * 1_000_000


class Unfit(Exception):
    """A value that sessiond cannot take. The argument says what must be, without the value."""


def time_us(value: object, name: str, notes: list[str]) -> int:
    """Microseconds since 1970 UTC, of a number of seconds or milliseconds, or an ISO text. A text without a zone counts
    as UTC, which is added to `notes`. Raises Unfit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = round(value * (1000 if abs(value) >= _MILLISECONDS_FROM else 1_000_000))
        except (ValueError, OverflowError):
            raise Unfit(f"{name} must be a time") from None
    elif isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
        except ValueError:
            try:
                return time_us(float(value), name, notes)
            except ValueError:
                raise Unfit(f"{name} must be a time") from None
        if parsed.tzinfo is None:
            note = f"{name} has no zone and counts as UTC"
            if note not in notes:
                notes.append(note)
            parsed = parsed.replace(tzinfo=UTC)
        found = round(parsed.timestamp() * 1_000_000)
    else:
        raise Unfit(f"{name} must be a time")
    if not 0 <= found <= _LATEST_US:
        raise Unfit(f"{name} must lie between 1970 and 9999")
    return found


def identifier(value: object, name: str) -> str:
    """An id. Raises Unfit."""
    found = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if (rule := text.identifier(found)) is not None:
        raise Unfit(f"{name} {rule}")
    return found


def optional_identifier(value: object, name: str) -> str:
    return "" if value in (None, "") else identifier(value, name)


def words(value: object, name: str, most: int = 200) -> str:
    """A text, cut to `most` characters; "" for none. Raises Unfit for what is no text."""
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise Unfit(f"{name} must be a text without U+0000")
    return value[:most]


def json_value(value: object, name: str) -> Any:
    """What a JSON text says; a value that is no text stays as it is. Raises Unfit."""
    if not isinstance(value, str | bytes):
        return value
    try:
        return json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unfit(f"{name} must be JSON") from None


def _no_number(name: str) -> float:
    """NaN and infinities are no JSON, though Python's parser takes them."""
    raise ValueError(name)


def struct(value: object, name: str, most_bytes: int = validation.METADATA_BYTES) -> Struct | None:
    """An object, or the JSON text of one; None for none. Raises Unfit."""
    found = json_value(value, name)
    if found is None or found == "":
        return None
    if not isinstance(found, dict):
        raise Unfit(f"{name} must be a JSON object")
    try:
        made = ParseDict(found, Struct())
    except (ParseError, ValueError, TypeError, RecursionError):
        raise Unfit(f"{name} must be a JSON object that protobuf can have") from None
    if (fault := structs.fault(made, most_bytes)) is not None:
        raise Unfit(f"{name}{fault[0]} {fault[1]}")
    return made


def message(role: object, content: object, message_id: str = "", metadata: object = None) -> Message:
    """A message of a role and a content: a text, a list of parts as chat APIs have them, or anything else, which
    becomes JSON. Raises Unfit."""
    known = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if known is None:
        raise Unfit("role must be one of " + ", ".join(_ROLES))
    made = Message(role=known, message_id=message_id)
    if (given := struct(metadata, "metadata")) is not None:
        made.metadata.CopyFrom(given)
    items = content if isinstance(content, list) else [content]
    for item in items:
        if (found := part(item)) is not None:
            made.parts.append(found)
    return made


def part(item: object) -> Part | None:
    """A part of a message: text as text, anything else as JSON; None for nothing. Raises Unfit."""
    if item is None or item == "":
        return None
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        item = item["text"]
    if isinstance(item, str):
        if "\0" in item:
            raise Unfit("content must not contain U+0000")
        return Part(text=item)
    try:
        return Part(json=json.dumps(item, ensure_ascii=False, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise Unfit("content must be text or JSON") from None
