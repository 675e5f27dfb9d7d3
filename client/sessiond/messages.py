"""Builds messages and reads their text. See `sessiond.formats` for conversions from and to the forms of others."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sessiond.fields import timestamp
from sessiond.structs import struct_of
from sessiond.texts import naming_texts
from sessiond.v1.message_pb2 import BlobPart, Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import TokenUsage

Content = str | Mapping[str, Any] | Part
"""One piece of content: text, a JSON object, or a `Part`."""


@naming_texts
def system(
    *content: Content,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
    message_id: str = "",
    labels: Mapping[str, str] | None = None,
    client_time: datetime | None = None,
) -> Message:
    """A message with instructions. Without `message_id` the service generates one. `labels` are to find it by;
    `client_time`, with a time zone, says when it was really written."""
    return _message(Role.ROLE_SYSTEM, map(_part, content), name, metadata, None, message_id, labels, client_time)


@naming_texts
def user(
    *content: Content,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
    message_id: str = "",
    labels: Mapping[str, str] | None = None,
    client_time: datetime | None = None,
) -> Message:
    """A message of a person: `user("hi")`."""
    return _message(Role.ROLE_USER, map(_part, content), name, metadata, None, message_id, labels, client_time)


@naming_texts
def assistant(
    *content: Content,
    tool_calls: Iterable[Part] = (),
    thinking: str | None = None,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
    usage: TokenUsage | None = None,
    model: str = "",
    message_id: str = "",
    labels: Mapping[str, str] | None = None,
    client_time: datetime | None = None,
) -> Message:
    """A message of the model: its thinking, its content, and the tool calls it asks for (see `tool_call`), in this
    order. `usage` counts under `model`; without a name, under that of the run."""
    parts = [Part(thinking=thinking)] if thinking is not None else []
    parts += map(_part, content)
    parts += tool_calls
    message = _message(Role.ROLE_ASSISTANT, parts, name, metadata, usage, message_id, labels, client_time)
    message.model = model
    return message


@naming_texts
def tool(
    result: str | Mapping[str, Any] | None,
    *,
    tool_call_id: str,
    name: str = "",
    is_error: bool = False,
    metadata: Mapping[str, Any] | None = None,
    message_id: str = "",
    labels: Mapping[str, str] | None = None,
    client_time: datetime | None = None,
) -> Message:
    """The result of a call of the tool `name`; None for an empty result."""
    answer = ToolResultPart(tool_call_id=tool_call_id, is_error=is_error)
    if isinstance(result, str):
        answer.text = result
    elif result is not None:
        answer.data.CopyFrom(struct_of(result))
    return _message(Role.ROLE_TOOL, [Part(tool_result=answer)], name, metadata, None, message_id, labels, client_time)


@naming_texts
def tool_call(tool_call_id: str, name: str, arguments: str | Mapping[str, Any] | None = None) -> Part:
    """A tool call that the assistant asks for. Arguments given as text are stored byte for byte, whether they are valid
    JSON or not."""
    call = ToolCallPart(tool_call_id=tool_call_id, name=name)
    if isinstance(arguments, str):
        call.arguments_json = arguments
    elif arguments is not None:
        call.arguments_struct.CopyFrom(struct_of(arguments))
    return Part(tool_call=call)


@naming_texts
def json_part(text: str) -> Part:
    """A part of JSON text that is stored byte for byte, such as a block that its provider signed."""
    return Part(json=text)


@naming_texts
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


def _message(
    role: Role.ValueType,
    parts: Iterable[Part],
    name: str,
    metadata: Mapping[str, Any] | None,
    usage: TokenUsage | None,
    message_id: str,
    labels: Mapping[str, str] | None,
    client_time: datetime | None,
) -> Message:
    return Message(
        message_id=message_id,
        role=role,
        name=name,
        parts=parts,
        metadata=None if metadata is None else struct_of(metadata),
        usage=usage,
        labels=labels,
        client_time=None if client_time is None else timestamp(client_time),
    )


def _part(content: Content) -> Part:
    if isinstance(content, Part):
        return content
    if isinstance(content, str):
        return Part(text=content)
    return Part(data=struct_of(content))
