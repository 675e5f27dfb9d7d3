"""Requests with a marker in every field of which people decide the words."""

from collections.abc import Iterator
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

PLAIN: Final = frozenset(
    {
        # Names and ids, by which things are found (docs/encryption.md says that they stay as they are).
        "session_id", "fork_session_id", "message_id", "run_id", "tool_call_id", "attachment_id", "request_id",
        "user_id", "agent_id", "team_id", "workflow_id", "scope_id", "key", "labels", "actor", "event_id",
        "previous_event_id", "message_ids", "summary_id", "session_ids",
        "model",
    }
)  # fmt: skip
SET_OTHERWISE: Final = frozenset({"media_type", "json", "update_mask", "google.protobuf.Timestamp"})
"""Fields with a form of their own."""


M = TypeVar("M", bound=Message)


class Markers:
    """Numbers the markers, and knows where each was put."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def text(self, place: str) -> str:
        marker = f"Marked{len(self.places):05d}W\u00f6rd"
        self.places[marker[:11]] = place
        return marker

    def fill(self, message: M, *left_out: str, place: str = "") -> M:
        """Puts a marker into every field of text, bytes or JSON that is not set and not in PLAIN, and into those of the
        messages that it has or that have such fields. `left_out`: names of fields to leave as they are."""
        place = place or message.DESCRIPTOR.name
        for field in message.DESCRIPTOR.fields:
            name = field.name
            if name in PLAIN or name in SET_OTHERWISE or name in left_out:
                continue
            if field.containing_oneof and message.WhichOneof(field.containing_oneof.name) not in (None, name):
                continue
            self._fill(message, field, f"{place}.{name}", left_out)
        return message

    def _fill(self, message: Any, field: Any, place: str, left_out: tuple[str, ...]) -> None:
        name = field.name
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            kind = field.message_type
            if kind.full_name == "google.protobuf.Struct":
                if not getattr(message, name).fields:
                    inner = {self.text(place): [self.text(place), {"deep": self.text(place)}]}
                    getattr(message, name).update({self.text(place): inner})
            elif kind.full_name.startswith("google.protobuf.") or kind.GetOptions().map_entry:
                return
            elif field.is_repeated:
                for item in getattr(message, name):
                    self.fill(item, *left_out, place=place)
            elif message.HasField(name) or _has_words(kind, set()):
                self.fill(getattr(message, name), *left_out, place=place)
        elif field.is_repeated:
            if field.type == FieldDescriptor.TYPE_STRING and not getattr(message, name):
                getattr(message, name).append(self.text(place))
        elif field.type == FieldDescriptor.TYPE_STRING and not getattr(message, name):
            setattr(message, name, self.text(place))
        elif field.type == FieldDescriptor.TYPE_BYTES and not getattr(message, name):
            setattr(message, name, self.text(place).encode())

    def found_in(self, data: bytes) -> set[str]:
        """The places of the markers that the bytes have."""
        return set(self._found(data))

    def _found(self, data: bytes) -> Iterator[str]:
        start = 0
        while (start := data.find(b"Marked", start)) >= 0:
            marker = data[start : start + 11].decode("latin-1")
            if marker in self.places:
                yield self.places[marker]
            start += 6


def _has_words(kind: Any, seen: set[str]) -> bool:
    """Whether a message has a field of text, JSON or bytes."""
    if kind.full_name in seen:
        return False
    seen.add(kind.full_name)
    for field in kind.fields:
        if field.name in PLAIN or field.name in SET_OTHERWISE:
            continue
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            return True
        if field.type == FieldDescriptor.TYPE_MESSAGE and (
            field.message_type.full_name == "google.protobuf.Struct" or _has_words(field.message_type, seen)
        ):
            return True
    return False
