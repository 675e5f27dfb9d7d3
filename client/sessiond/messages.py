"""Builds messages, reads their text, and converts them from and to the common chat form.

The chat form is the dict of chat completion interfaces: `role`, `content`, `name`, `tool_call_id` and `tool_calls`, a
list of `{"id", "type": "function", "function": {"name", "arguments"}}`. `to_chat(from_chat(chat)) == chat`, except that
equivalent forms become one: a key other than `content` whose value is None or empty is absent afterwards, a `content`
that is absent or an empty list becomes None, a list of one text becomes that text (except in a tool's answer, where it
stays a list), and arguments given as an object become JSON text.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sessiond.structs import from_struct, to_struct
from sessiond.v1.message_pb2 import BlobPart, FilePart, Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import TokenUsage

Content = str | Mapping[str, Any] | Part
"""One piece of content: text, a JSON object, or a `Part`."""

_ROLES: Mapping[str, Role.ValueType] = MappingProxyType(
    {
        "system": Role.ROLE_SYSTEM,
        "user": Role.ROLE_USER,
        "assistant": Role.ROLE_ASSISTANT,
        "tool": Role.ROLE_TOOL,
    }
)
_ROLE_NAMES: Mapping[Role.ValueType, str] = MappingProxyType({role: name for name, role in _ROLES.items()})


def system(
    *content: Content, name: str = "", metadata: Mapping[str, Any] | None = None, message_id: str = ""
) -> Message:
    """A message with instructions. Without `message_id` the service generates one."""
    return _message(Role.ROLE_SYSTEM, map(_part, content), name, metadata, None, message_id)


def user(*content: Content, name: str = "", metadata: Mapping[str, Any] | None = None, message_id: str = "") -> Message:
    """A message of a person: `user("hi")`."""
    return _message(Role.ROLE_USER, map(_part, content), name, metadata, None, message_id)


def assistant(
    *content: Content,
    tool_calls: Iterable[Part] = (),
    thinking: str | None = None,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
    usage: TokenUsage | None = None,
    message_id: str = "",
) -> Message:
    """A message of the model: its thinking, its content, and the tool calls it asks for (see `tool_call`), in this
    order."""
    parts = [Part(thinking=thinking)] if thinking is not None else []
    parts += map(_part, content)
    parts += tool_calls
    return _message(Role.ROLE_ASSISTANT, parts, name, metadata, usage, message_id)


def tool(
    result: str | Mapping[str, Any] | None,
    *,
    tool_call_id: str,
    name: str = "",
    is_error: bool = False,
    metadata: Mapping[str, Any] | None = None,
    message_id: str = "",
) -> Message:
    """The result of a call of the tool `name`; None for an empty result."""
    answer = ToolResultPart(tool_call_id=tool_call_id, is_error=is_error)
    if isinstance(result, str):
        answer.text = result
    elif result is not None:
        answer.data.CopyFrom(to_struct(result))
    return _message(Role.ROLE_TOOL, [Part(tool_result=answer)], name, metadata, None, message_id)


def tool_call(tool_call_id: str, name: str, arguments: str | Mapping[str, Any] | None = None) -> Part:
    """A tool call that the assistant asks for. Arguments given as text are stored byte for byte, whether they are valid
    JSON or not."""
    call = ToolCallPart(tool_call_id=tool_call_id, name=name)
    if isinstance(arguments, str):
        call.arguments_json = arguments
    elif arguments is not None:
        call.arguments_struct.CopyFrom(to_struct(arguments))
    return Part(tool_call=call)


def json_part(text: str) -> Part:
    """A part of JSON text that is stored byte for byte, such as a block that its provider signed."""
    return Part(json=text)


def blob(data: bytes, media_type: str = "") -> Part:
    """A part of bytes, such as a small image. A message has at most 1 MiB in all."""
    return Part(blob=BlobPart(data=data, media_type=media_type))


def text_of(message: Message) -> str:
    """The message's text: its text parts and the text results of tools, joined by newlines."""
    texts = []
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "text":
                texts.append(part.text)
            case "tool_result" if part.tool_result.WhichOneof("result") == "text":
                texts.append(part.tool_result.text)
    return "\n".join(texts)


def from_chat(chat: Mapping[str, Any]) -> Message:
    """Converts a chat message to a Message.

    Raises ValueError or TypeError for input that a Message cannot represent: another role, an unknown key with a value,
    a tool call that is not of a function. The error names the key and not its value.
    """
    for key, value in chat.items():
        if key not in _CHAT_KEYS and value not in (None, "", [], {}):
            raise ValueError(f"{key}: has no place in a message")
    role = _ROLES.get(chat.get("role", ""))
    if role is None:
        raise ValueError(f"role: must be one of {', '.join(_ROLES)}")
    calls, tool_call_id, content = chat.get("tool_calls") or (), chat.get("tool_call_id"), chat.get("content")
    if calls and role != Role.ROLE_ASSISTANT:
        raise ValueError("tool_calls: only the assistant calls tools")
    if tool_call_id and role != Role.ROLE_TOOL:
        raise ValueError("tool_call_id: only a tool's answer has one")
    parts = []
    if role == Role.ROLE_TOOL:
        answer = ToolResultPart(tool_call_id=tool_call_id or "")
        parts.append(Part(tool_result=answer))
        if isinstance(content, str):
            parts[0].tool_result.text = content
            content = None
    if isinstance(content, str):
        parts.append(Part(text=content))
    elif isinstance(content, Sequence):
        parts += (_part_from_chat(item, index) for index, item in enumerate(content))
    elif content is not None:
        raise TypeError("content: must be text, a list or None")
    parts += (_call_from_chat(call, index) for index, call in enumerate(calls))
    return Message(role=role, name=chat.get("name") or "", parts=parts)


def to_chat(message: Message) -> dict[str, Any]:
    """Converts a Message to a chat message. The message's id, times, metadata and usage are left out.

    Struct arguments and a tool result that is an object become JSON text. Raises ValueError for a message with several
    tool results, without a role, or with a part that has no content.
    """
    if message.role not in _ROLE_NAMES:
        raise ValueError("role: not one that the chat form has")
    calls: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    answer: ToolResultPart | None = None
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "tool_call":
                calls.append(_call_to_chat(part.tool_call))
            case "tool_result" if answer is None:
                answer = part.tool_result
            case "tool_result":
                raise ValueError("parts: the chat form has one message for each answer of a tool")
            case _:
                items.append(_part_to_chat(part))
    chat: dict[str, Any] = {"role": _ROLE_NAMES[message.role]}
    if message.name:
        chat["name"] = message.name
    chat["content"] = _content_to_chat(answer, items)
    if calls:
        chat["tool_calls"] = calls
    if answer is not None and answer.tool_call_id:
        chat["tool_call_id"] = answer.tool_call_id
    return chat


_CHAT_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})


def _message(
    role: Role.ValueType,
    parts: Iterable[Part],
    name: str,
    metadata: Mapping[str, Any] | None,
    usage: TokenUsage | None,
    message_id: str,
) -> Message:
    return Message(
        message_id=message_id,
        role=role,
        name=name,
        parts=parts,
        metadata=None if metadata is None else to_struct(metadata),
        usage=usage,
    )


def _part(content: Content) -> Part:
    if isinstance(content, Part):
        return content
    if isinstance(content, str):
        return Part(text=content)
    return Part(data=to_struct(content))


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _content_to_chat(answer: ToolResultPart | None, items: list[dict[str, Any]]) -> str | list[dict[str, Any]] | None:
    if answer is None:
        if len(items) == 1 and items[0].keys() == _TEXT_KEYS and items[0]["type"] == "text":
            text: str = items[0]["text"]
            return text
        return items or None
    match answer.WhichOneof("result"):
        case "text":
            said = answer.text
        case "data":
            said = _json(from_struct(answer.data))
        case _:
            return items or None
    return [{"type": "text", "text": said}, *items] if items else said


_TEXT_KEYS = {"type", "text"}


def _part_from_chat(item: Mapping[str, Any], index: int) -> Part:
    """Text, thinking and files have parts of their own. Everything else (images, audio ...) is stored unchanged as
    data."""
    if not isinstance(item, Mapping):
        raise TypeError(f"content[{index}]: must be an object")
    kind = item.get("type")
    if kind == "text" and item.keys() == _TEXT_KEYS and isinstance(item["text"], str):
        return Part(text=item["text"])
    if kind == "thinking" and item.keys() == {"type", "thinking"} and isinstance(item["thinking"], str):
        return Part(thinking=item["thinking"])
    if kind == "file" and isinstance(file := item.get("file"), Mapping) and file.keys() == _FILE_KEYS:
        return Part(file=FilePart(**file))
    if kind == "blob" and isinstance(held := item.get("blob"), Mapping) and held.keys() == _BLOB_KEYS:
        return blob(base64.b64decode(held["data"], validate=True), held["media_type"])
    try:
        return Part(data=to_struct(item))
    except ValueError:
        # Such as an integer above 2^53, which a Struct cannot hold. NaN and infinity have no place in JSON either.
        return json_part(json.dumps(item, ensure_ascii=False, allow_nan=False))


_FILE_KEYS = {"uri", "media_type", "name"}
_BLOB_KEYS = {"media_type", "data"}


def _part_to_chat(part: Part) -> dict[str, Any]:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "thinking":
            return {"type": "thinking", "thinking": part.thinking}
        case "file":
            file = part.file
            return {"type": "file", "file": {"uri": file.uri, "media_type": file.media_type, "name": file.name}}
        case "data":
            return from_struct(part.data)
        case "json":
            item = json.loads(part.json)
            if not isinstance(item, dict):
                raise ValueError("parts: JSON that is no object has no place in the chat form")
            return item
        case "blob":
            data = base64.b64encode(part.blob.data).decode()
            return {"type": "blob", "blob": {"media_type": part.blob.media_type, "data": data}}
        case _:
            raise ValueError("parts: a part without content")


def _call_from_chat(call: Mapping[str, Any], index: int) -> Part:
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, Mapping) or "name" not in function:
        raise ValueError(f"tool_calls[{index}]: only calls of functions with a name have a place in a message")
    extra = (call.keys() - {"id", "type", "function"}) | (function.keys() - {"name", "arguments"})
    if extra:
        raise ValueError(f"tool_calls[{index}]: {min(extra)} has no place in a message")
    return tool_call(call.get("id") or "", function["name"], function.get("arguments"))


def _call_to_chat(call: ToolCallPart) -> dict[str, Any]:
    """A call without arguments gets the text of an empty object, because the chat form requires text there."""
    match call.WhichOneof("arguments"):
        case "arguments_json":
            arguments = call.arguments_json
        case "arguments_struct":
            arguments = _json(from_struct(call.arguments_struct))
        case _:
            arguments = "{}"
    return {"id": call.tool_call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
