"""The form of an item: what its parts cannot hold, kept as JSON text in the last part of the message.

The form is the item itself, with references in place of what the parts hold: `{"$": "0.text"}` is the text of the first
part. Members of the item whose names begin with `$` have one more `$`. So nothing is stored twice, and filling the
references in gives the item again. An item that is what `to_items` makes of the parts alone has no form.
"""

import base64
import binascii
import re
from typing import Any

from sessiond.formats.plain import Item, read, written
from sessiond.v1.message_pb2 import BlobPart, FilePart, Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import TokenUsage

KEY = "sessiond.form"
"""The key of a form's part: `{"sessiond.form": NAME, "item": ...}`."""
_BEGINNING = f'{{"{KEY}":"'

MOST_PARTS = 256
_MOST_ID = 8192
_MOST_NAME = 128
_MOST_URI = 8192
_MOST_LINE = 255

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_DATA_URL = re.compile(r"(data:([^,]{0,255}?)(?:;base64),)(.*)", re.DOTALL)

Reference = dict[str, Any]


class Sorting:
    """Sorts an item into the parts of a message and a form.

    Each method adds a part, and returns what stands in its place in the form. Errors name the place in the item, and
    never the value.
    """

    def __init__(self, name: str, place: str) -> None:
        self._name = name
        self._place = place
        self.parts: list[Part] = []
        self._results: list[Result] = []
        self._speaker = ""

    def kept(self, value: Any) -> Any:
        """The value itself, for the form; but `data:` URLs of base64 become blobs wherever they are."""
        match value:
            case dict():
                return {_escaped(key): self.kept(item) for key, item in value.items()}
            case list():
                return [self.kept(item) for item in value]
            case str() if value.startswith("data:"):
                return self.url(value)
        return value

    def rest(self, item: Item, **taken: Any) -> Item:
        """An object for the form: the members that were taken as they are given, and the others as they are."""
        return {_escaped(key): taken[key] if key in taken else self.kept(value) for key, value in item.items()}

    def speaker(self, name: Any) -> Any:
        """The name of who speaks. One that a message cannot have stays in the form only."""
        if not isinstance(name, str) or not _is_line(name, 1, _MOST_NAME):
            return self.kept(name)
        self._speaker = name
        return {"$": "name"}

    def text(self, text: str) -> Any:
        return self._add(Part(text=_storable(text)), "text", text)

    def thinking(self, text: str) -> Any:
        return self._add(Part(thinking=_storable(text)), "thinking", text)

    def base64(self, data: str, media_type: str, before: str = "") -> Any:
        """Base64 as bytes. What is not written as the standard says stays text in the form."""
        try:
            held = base64.b64decode(data, validate=True)
        except (ValueError, binascii.Error):
            return before + data
        if base64.b64encode(held).decode() != data or not _is_line(media_type, 0, _MOST_LINE):
            return before + data
        reference = self._add(Part(blob=BlobPart(data=held, media_type=media_type)), "base64", "")
        return {**reference, "before": before} if before else reference

    def url(self, url: str, media_type: str = "", name: str = "") -> Any:
        """A `data:` URL as bytes, another one as a file. A URL that no file can have stays in the form only."""
        if url.startswith("data:"):
            found = _DATA_URL.fullmatch(url)
            return self.base64(found[3], found[2], found[1]) if found else url
        return self.file(url, media_type, name)

    def file(self, uri: str, media_type: str = "", name: str = "", before: str = "") -> Any:
        """A file that lies elsewhere. `before` is a beginning that the URI gets and the item does not have."""
        if not _is_line(before + uri, 1, _MOST_URI):
            return uri
        named = name if _is_line(name, 0, _MOST_LINE) else ""
        kind = media_type if _is_line(media_type, 0, _MOST_LINE) else ""
        reference = self._add(Part(file=FilePart(uri=before + uri, media_type=kind, name=named)), "uri", uri)
        return {**reference, "cut": [len(before), len(before + uri)]} if before else reference

    def call(self, call_id: Any, name: str, arguments: Any, place: str) -> "Call":
        """A tool call. Arguments that are no text are stored as the JSON text of their value; `...` are none."""
        call = ToolCallPart(tool_call_id=_call_id(call_id, f"{place}.id"))
        if not _is_line(name, 1, _MOST_NAME):
            raise ValueError(f"{place}.name: must be 1 to {_MOST_NAME} characters, no control characters")
        call.name = name
        given: Any = None
        if isinstance(arguments, str):
            call.arguments_json = _storable(arguments)
            given = self._reference("arguments", arguments)
        elif arguments is not ...:
            call.arguments_json = written(arguments)
            given = {**self._reference("arguments", ""), "as": "json"}
        taken = Call(
            self._reference("id", "") if isinstance(call_id, str) else self.kept(call_id),
            self._reference("name", ""),
            given,
        )
        self.parts.append(Part(tool_call=call))
        return taken

    def result(self, call_id: Any, place: str, *, is_error: bool = False) -> "Result":
        """What a tool answered. Its content is set through the Result."""
        answer = ToolResultPart(tool_call_id=_call_id(call_id, f"{place}.tool_call_id"), is_error=is_error)
        taken = self._reference("id", "") if isinstance(call_id, str) else self.kept(call_id)
        self.parts.append(Part(tool_result=answer))
        self._results.append(Result(self.parts[-1].tool_result, len(self.parts) - 1, taken))
        return self._results[-1]

    def message(self, role: Role.ValueType, form: Any, usage: TokenUsage | None = None) -> Message:
        """The message, with its form. Raises ValueError for more parts than a message has."""
        message = self.bare(role, usage)
        message.parts.append(Part(json=written({KEY: self._name, "item": form})))
        return self._checked(message)

    def bare(self, role: Role.ValueType, usage: TokenUsage | None = None) -> Message:
        """The message without a form. Raises as `message` does."""
        for result in self._results:
            result.settle()
        return self._checked(Message(role=role, name=self._speaker, parts=self.parts, usage=usage))

    def _checked(self, message: Message) -> Message:
        if len(message.parts) > MOST_PARTS:
            raise ValueError(
                f"{self._place or 'content'}: makes {len(message.parts)} parts; a message has at most {MOST_PARTS}"
            )
        return message

    def _add(self, part: Part, field: str, text: str) -> Any:
        reference = self._reference(field, text)
        self.parts.append(part)
        return reference

    def _reference(self, field: str, text: str) -> Any:
        """Text that cannot be stored as it is stays in the form, which escapes it; its part has U+FFFD there."""
        return text if _UNSTORABLE.search(text) else {"$": f"{len(self.parts)}.{field}"}


class Call:
    """What stands for a tool call in the form."""

    def __init__(self, call_id: Any, name: Any, arguments: Any) -> None:
        self.id, self.name, self.arguments = call_id, name, arguments


class Result:
    """What stands for a tool's answer in the form."""

    def __init__(self, answer: ToolResultPart, index: int, call_id: Any) -> None:
        self.id = call_id
        self._answer, self._index = answer, index
        self._texts: list[str] = []
        self._length = 0

    def text(self, text: str) -> Any:
        """Text of the answer. Several texts are joined by newlines."""
        first = self._length + len(self._texts)
        self._texts.append(_storable(text))
        self._length += len(text)
        if _UNSTORABLE.search(text):
            return text
        return {"$": f"{self._index}.result", "cut": [first, first + len(text)]}

    def value(self, value: Any) -> Any:
        """Another JSON value, as the only content."""
        self._texts.append(written(value))
        return {"$": f"{self._index}.result", "as": "json"}

    def settle(self) -> None:
        """Sets the answer to all texts, once they are known: an answer may have thousands."""
        if self._texts:
            self._answer.text = "\n".join(self._texts)


def form_of(message: Message) -> str:
    """The name of the message's form; empty if it has none."""
    if not message.parts or not (text := message.parts[-1].json).startswith(_BEGINNING):
        return ""
    return text[len(_BEGINNING) :].partition('"')[0]


def without_form(message: Message) -> Message:
    """A copy of the message without its form; the message itself if it has none."""
    if not form_of(message):
        return message
    bare = Message()
    bare.CopyFrom(message)
    del bare.parts[-1]
    return bare


class _Lost(ValueError):
    """The message lacks what its form refers to."""


def filled(message: Message) -> Item:
    """The item of a message that has a form.

    Raises ValueError where the form refers to what the message no longer has, and for a form that `Sorting` cannot have
    made: a message may come from any program.
    """
    item = None
    try:
        item = _Filling(message).filled(read(message.parts[-1].json)["item"])
    except _Lost:
        raise
    except (KeyError, TypeError, ValueError, RecursionError):
        pass
    if not isinstance(item, dict):
        raise ValueError(f"parts[{len(message.parts) - 1}].json: no form that this version can read")
    return item


class _Filling:
    """Fills the references of one form in."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._known: dict[str, Any] = {"name": message.name}
        self._left = 2 * message.ByteSize()
        """Characters that references may still yield. A form refers to nothing twice, and base64 adds a third; one that
        repeats a large part would fill the memory."""

    def filled(self, form: Any) -> Any:
        match form:
            case {"$": str(path)}:
                if path not in self._known:
                    self._known[path] = _value(path, self._message)
                return self._taken(self._known[path], form)
            case dict():
                return {key.removeprefix("$"): self.filled(item) for key, item in form.items()}
            case list():
                return [self.filled(item) for item in form]
        return form

    def _taken(self, text: str, form: Item) -> Any:
        if "cut" in form:
            first, end = form["cut"]
            text = text[first:end]
        self._left -= len(text)
        if self._left < 0:
            raise ValueError("repeats parts")
        return read(text) if form.get("as") == "json" else form.get("before", "") + text


def _value(path: str, message: Message) -> str:
    number, _, field = path.partition(".")
    if int(number) >= len(message.parts):
        raise _Lost(f"parts[{number}]: the message's form needs it, and it is not there")
    part = message.parts[int(number)]
    kind = part.WhichOneof("kind")
    match kind, field:
        case ("text", "text") | ("thinking", "thinking"):
            return str(getattr(part, field))
        case "blob", "base64":
            return base64.b64encode(part.blob.data).decode()
        case "file", "uri":
            return part.file.uri
        case ("tool_call", "id") | ("tool_result", "id"):
            return part.tool_call.tool_call_id or part.tool_result.tool_call_id
        case "tool_call", "name":
            return part.tool_call.name
        case "tool_call", "arguments" if part.tool_call.WhichOneof("arguments") == "arguments_json":
            return part.tool_call.arguments_json
        case "tool_result", "result" if part.tool_result.WhichOneof("result") == "text":
            return part.tool_result.text
    raise _Lost(f"parts[{number}]: the message's form needs its {field}, and it has none")


def _escaped(key: str) -> str:
    return "$" + key if key.startswith("$") else key


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("\ufffd", text)


def _is_line(text: str, least: int, most: int) -> bool:
    return least <= len(text) <= most and not _CONTROL.search(text)


def _call_id(call_id: Any, place: str) -> str:
    if not isinstance(call_id, str):
        return ""
    if not _is_line(call_id, 0, _MOST_ID):
        raise ValueError(f"{place}: must be at most {_MOST_ID} characters, no control characters")
    return call_id
