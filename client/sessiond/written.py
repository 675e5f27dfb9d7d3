"""The messages of a draft as far as they are written: their parts, their room, and what was not published yet."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from sessiond.errors import InvalidFields, Violation
from sessiond.request_ids import new_request_id
from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message, Part, ToolCallPart

Kind = Literal["text", "thinking", "arguments"]

MESSAGE_BYTES = 1024 * 1024
"""Maximum bytes of one serialised message that the service accepts."""
MESSAGE_PARTS = 256
"""Maximum parts of one message."""
METADATA_BYTES = 64 * 1024
PIECE_BYTES = 32 * 1024
"""Maximum bytes of one delta; the service accepts twice as much."""
PUBLISHED_BYTES = 192 * 1024
"""Maximum bytes of text in one PublishDelta; the service accepts a request of 256 KiB."""
_SPARE = 256
"""Bytes of a message that are reserved for its usage and its run."""
_PART = 24
"""Bytes of a part around its content, at most."""

_REPLACEMENT = "\ufffd"
_ID_BYTES = 255
has_control = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search


@dataclass(slots=True)
class _Written:
    """One part of the draft, as far as it is written."""

    kind: Kind
    message: int
    """Index of the draft's message that contains it."""
    index: int
    """Its index among the parts of that message."""
    call: ToolCallPart | None = None
    """The tool call without its arguments."""
    content: bytearray = field(default_factory=bytearray)

    def part(self) -> Part:
        content = self.content.decode()
        match self.kind:
            case "text":
                return Part(text=content)
            case "thinking":
                return Part(thinking=content)
        call = ToolCallPart()
        call.MergeFrom(self.call or ToolCallPart())
        if content:
            call.arguments_json = content
        return Part(tool_call=call)


class WrittenMessages:
    """The messages of a draft as far as they are written. Each has the outline's fields; text that exceeds one message
    continues in the next. It does no I/O.

    Raises InvalidFields for an outline that no message can have: the append at the end would fail with the whole text
    otherwise.
    """

    def __init__(self, outline: Message, run_id: str) -> None:
        _check(outline)
        self._outline = outline
        self._run_id = run_id
        self.parts: list[_Written] = []
        self.ids = [outline.message_id]
        """The ids of the messages that contain the parts."""
        self._room = self._most = MESSAGE_BYTES - outline.ByteSize() - _SPARE
        """The bytes that the last message can still hold, and the bytes that an empty message can hold."""
        self._count = 0
        """Number of parts in the last message."""
        self._half: tuple[Kind, str] | None = None
        """The first half of a surrogate pair, if the last text ended with one."""
        self._published = (0, 0)
        """The part and the byte up to which the draft was published."""

    def messages(self) -> list[Message]:
        messages = []
        for message_id in self.ids:
            message = Message()
            message.MergeFrom(self._outline)
            message.message_id = message_id
            messages.append(message)
        for written in self.parts:
            messages[written.message].parts.append(written.part())
        return messages

    def add(self, kind: Kind, text: str) -> None:
        """Adds text, with the characters replaced that no message can contain. "arguments": to the last part, which is
        a call; raises InvalidFields for more than a message can hold."""
        if self._half is not None and self._half[0] == kind:
            text, self._half = self._half[1] + text, None
        self.flush_half()
        if "\ud800" <= text[-1] <= "\udbff":
            self._half, text = (kind, text[-1]), text[:-1]
        self._add(kind, _repaired(text))

    def begin_call(self, tool_call_id: str, name: str) -> None:
        """Begins a tool call without arguments. Raises InvalidFields for an id or a name that no call can have."""
        _check_call(tool_call_id, name)
        call = ToolCallPart(tool_call_id=tool_call_id, name=name)
        self._begin("arguments", call.ByteSize(), call)

    def flush_half(self) -> bool:
        """Replaces a first half of a surrogate pair whose second half did not follow. Returns whether there was one."""
        half, self._half = self._half, None
        if half is None:
            return False
        self._add(half[0], _REPLACEMENT.encode())
        return True

    def unpublished(self) -> Iterator[Delta]:
        """Yields the deltas not published yet, as many as fit in one request. What was yielded counts as published."""
        room = PUBLISHED_BYTES
        index, offset = self._published
        while index < len(self.parts) and room > 0:
            written = self.parts[index]
            if offset == len(written.content):
                if index + 1 == len(self.parts):
                    return
                index, offset = index + 1, 0
                continue
            end = _boundary(written.content, offset + min(PIECE_BYTES, room))
            if end == offset:  # no room for a whole character
                return
            self._published = index, end
            piece = written.content[offset:end].decode()
            yield self.delta(index, offset, **{written.kind: piece})
            room -= end - offset
            offset = end

    def delta(self, part: int, offset: int, **piece: str | bool) -> Delta:
        """A delta of the part with that number; `piece` is one of the delta's oneof."""
        written = self.parts[part] if self.parts else None
        return Delta(
            message_id=self.ids[written.message] if written else self._outline.message_id,
            part_index=written.index if written else 0,
            offset=offset,
            name=self._outline.name,
            run_id=self._run_id,
            **piece,  # type: ignore[arg-type]  # one of the oneof, of its type
        )

    def _add(self, kind: Kind, content: bytes) -> None:
        if kind == "arguments":
            self._add_arguments(content)
        else:
            self._add_text(kind, content)

    def _add_text(self, kind: Kind, content: bytes) -> None:
        while content:
            if not self.parts or self.parts[-1].kind != kind or self.parts[-1].message != len(self.ids) - 1:
                self._begin(kind, 0)
            end = _boundary(content, self._room)
            self.parts[-1].content += content[:end]
            self._room -= end
            content = content[end:]
            if content:
                self._go_on()

    def _add_arguments(self, content: bytes) -> None:
        """Adds to the last part, because arguments must stay in one part and cannot continue in another message."""
        written = self.parts[-1]
        assert written.call is not None
        if len(content) > self._room:
            size = written.call.ByteSize() + len(written.content)
            if self._count == 1 or size + len(content) + _PART > self._most:
                raise invalid("arguments_json", f"must fit in a message of {MESSAGE_BYTES} bytes with all around them")
            # The whole call moves to the next message, and is published there from its beginning.
            self._go_on()
            written.message, written.index, self._count = len(self.ids) - 1, 0, 1
            self._room -= size + _PART
            if self._published[0] == len(self.parts) - 1:
                self._published = self._published[0], 0
        written.content += content
        self._room -= len(content)

    def _begin(self, kind: Kind, size: int, call: ToolCallPart | None = None) -> None:
        """Begins a part, in the next message if this one has no room for it."""
        if self._count == MESSAGE_PARTS or self._room < size + 2 * _PART:
            self._go_on()
        self.parts.append(_Written(kind, len(self.ids) - 1, self._count, call))
        self._count += 1
        self._room -= size + _PART

    def _go_on(self) -> None:
        """Begins another message."""
        self.ids.append(new_request_id())
        self._room, self._count = self._most, 0


def _repaired(text: str) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        # The way through UTF-16 joins the halves of a pair.
        content = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return content.replace(b"\0", _REPLACEMENT.encode())


def _check(outline: Message) -> None:
    if not is_id(outline.message_id):
        rule = "must be 1 to 255 bytes of UTF-8 without control characters, leading and trailing white space"
        raise invalid("message_id", rule)
    if len(outline.name) > 128 or has_control(outline.name):
        raise invalid("name", "must be 0 to 128 characters, none of them a control character")
    if outline.metadata.ByteSize() > METADATA_BYTES:
        raise invalid("metadata", f"must be at most {METADATA_BYTES} bytes serialised")


def is_id(value: str) -> bool:
    """Whether a message can have it as its id."""
    if has_control(value) or value != value.strip():
        return False
    return 1 <= len(value.encode()) <= _ID_BYTES


def _check_call(tool_call_id: str, name: str) -> None:
    if len(tool_call_id) > 8192 or has_control(tool_call_id):
        raise invalid("tool_call_id", "must be 0 to 8192 characters, none of them a control character")
    if not 1 <= len(name) <= 128 or has_control(name):
        raise invalid("name", "must be 1 to 128 characters, none of them a control character")


def invalid(field: str, rule: str) -> InvalidFields:
    """The error that the service would answer with."""
    text = f"{field}: {rule}"
    return InvalidFields(text, reason="INVALID_FIELD", code="INVALID_ARGUMENT", violations=[Violation(field, rule)])


def _boundary(content: bytes | bytearray, end: int) -> int:
    """Returns the last offset at or before `end` that lies between two characters."""
    if end >= len(content):
        return len(content)
    while content[end] & 0xC0 == 0x80:
        end -= 1
    return end
