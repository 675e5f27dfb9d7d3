"""The texts of messages, tool calls and sessions that are searched."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.struct_pb2 import Struct, Value

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_pb2 import Message, Part
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.search.matching import Text

APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
REQUESTED: Final = EventType.EVENT_TYPE_TOOL_CALL_REQUESTED
RESULTS: Final = (
    EventType.EVENT_TYPE_TOOL_CALL_COMPLETED,
    EventType.EVENT_TYPE_TOOL_CALL_FAILED,
    EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT,
)
SEARCHED: Final = (APPENDED, REQUESTED, *RESULTS)
"""Types of the events that are searched."""

SEARCHED_CHARACTERS: Final = 65_536
"""Of a message, an event of a tool call or a session, the first so many characters of all texts together are searched.
It bounds how long one of them keeps the loop busy."""
_PARSED: Final = 4 * SEARCHED_CHARACTERS
"""Characters of the longest JSON text that is parsed."""
_LEVELS: Final = 128
"""Most levels of a JSON text that are looked into."""


def searched(found: Iterable[Text]) -> Iterator[Text]:
    """The texts as far as they are searched."""
    left = SEARCHED_CHARACTERS
    for text in found:
        yield text if len(text.text) <= left else Text(text.path, text.text[:left])
        left -= len(text.text)
        if left <= 0:
            return


def of_message(message: Message) -> Iterator[Text]:
    if message.name:
        yield Text("name", message.name)
    for number, part in enumerate(message.parts):
        for path, text in _part(part):
            if text:
                yield Text(f"parts[{number}].{path}", text)
    if message.labels:
        yield Text("labels", _labels(message.labels))


def of_tool_call(kind: int, call: ToolCall) -> Iterator[Text]:
    """Those of an event of this type, one of SEARCHED."""
    if kind == REQUESTED:
        yield Text("name", call.name)
        yield from _data("arguments", call.arguments)
        return
    late = kind == EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT
    answer = call.late_result if late else call
    prefix = "late_result." if late else ""
    if answer.HasField("result"):
        yield from _data(f"{prefix}result", answer.result)
    if answer.error.message:
        yield Text(f"{prefix}error.message", answer.error.message)


def of_session(session: Session) -> Iterator[Text]:
    if session.name:
        yield Text("name", session.name)
    if session.summary:
        yield Text("summary", session.summary)
    if session.labels:
        yield Text("labels", _labels(session.labels))


def _labels(labels: Mapping[str, str]) -> str:
    return "\n".join(f"{key} {labels[key]}" for key in sorted(labels))


def _part(part: Part) -> Iterator[tuple[str, str]]:
    kind = part.WhichOneof("kind")
    if kind in ("text", "thinking"):
        yield kind, getattr(part, kind)
    elif kind == "json":
        yield kind, _of_json(part.json)
    elif kind == "data":
        yield kind, _of_struct(part.data)
    elif kind == "tool_call":
        call = part.tool_call
        yield "tool_call.name", call.name
        if call.HasField("arguments_struct"):
            yield "tool_call.arguments_struct", _of_struct(call.arguments_struct)
        elif call.arguments_json:
            yield "tool_call.arguments_json", _of_json(call.arguments_json)
    elif kind == "tool_result":
        result = part.tool_result
        if result.HasField("data"):
            yield "tool_result.data", _of_struct(result.data)
        else:
            yield "tool_result.text", result.text
    elif kind == "file":
        yield "file.name", part.file.name
        if not part.file.uri.startswith("data:"):
            yield "file.uri", part.file.uri


def _data(path: str, data: ToolData) -> Iterator[Text]:
    kind = data.WhichOneof("kind")
    if kind == "text":
        yield Text(f"{path}.text", data.text)
    elif kind == "data":
        yield Text(f"{path}.data", _of_struct(data.data))


class _Words:
    """Texts that are collected from a structure, until they are as long as is searched."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._left = SEARCHED_CHARACTERS

    @property
    def enough(self) -> bool:
        return self._left <= 0

    def add(self, text: str) -> None:
        self._found.append(text)
        self._left -= len(text) + 1

    def joined(self) -> str:
        return "\n".join(self._found)


def _of_struct(struct: Struct) -> str:
    found = _Words()
    _walk_struct(struct, found)
    return found.joined()


def _walk_struct(struct: Struct, found: _Words) -> None:
    for key in sorted(struct.fields):
        if found.enough:
            return
        found.add(key)
        _walk_value(struct.fields[key], found)


def _walk_value(value: Value, found: _Words) -> None:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        found.add(value.string_value)
    elif kind == "number_value":
        number = value.number_value
        found.add(str(int(number)) if number.is_integer() else repr(number))
    elif kind == "struct_value":
        _walk_struct(value.struct_value, found)
    elif kind == "list_value":
        for item in value.list_value.values:
            if found.enough:
                return
            _walk_value(item, found)


def _of_json(text: str) -> str:
    """Keys and values of a JSON text, without its escapes; the text as it is where it is none, or very long."""
    if "\\" not in text or len(text) > _PARSED:
        return text
    try:
        value = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return text
    found = _Words()
    _walk_json(value, found, _LEVELS)
    return found.joined()


def _walk_json(value: object, found: _Words, levels: int) -> None:
    if found.enough:
        return
    if isinstance(value, str):
        # A JSON text may have halves of surrogate pairs, which no encoding has.
        found.add(value.encode("utf-8", "replace").decode())
    elif isinstance(value, dict) and levels:
        for key, inner in value.items():
            _walk_json(key, found, levels)
            _walk_json(inner, found, levels - 1)
    elif isinstance(value, list) and levels:
        for inner in value:
            _walk_json(inner, found, levels - 1)
