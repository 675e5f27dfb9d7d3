"""A conversation as text, for models and for the extractive summary. Thinking and files are left out."""

from collections.abc import Iterator
from typing import Final

from google.protobuf.json_format import MessageToJson

from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond_server.domain.context import tokens
from sessiond_server.domain.context.conversation import cut

NAMES: Final = {
    Role.ROLE_USER: "user",
    Role.ROLE_ASSISTANT: "assistant",
    Role.ROLE_SYSTEM: "system",
    Role.ROLE_TOOL: "tool",
}
NOTHING: Final = "(nothing in words)"
"""Stands for messages without any."""


def line_of(message: Message, most: int) -> str:
    """What a message says, behind the name of its role; at most about `most` estimated tokens, the middle of a longer
    one left out. Empty for a message that says nothing in words."""
    text = "\n".join(filter(None, map(_words, message.parts))).strip()
    if not text:
        return ""
    if len(text) > most and tokens.of_text(text) > most:
        text = cut(text, most)
    return f"{NAMES.get(message.role, 'other')}: {text}"


def said_in_words(message: Message) -> Iterator[str]:
    """The texts of a message."""
    for part in message.parts:
        if part.text:
            yield part.text


def _words(part: Part) -> str:
    kind = part.WhichOneof("kind")
    if kind == "text":
        return part.text
    if kind == "tool_call":
        call = part.tool_call
        given = _json(call.arguments_struct) if call.HasField("arguments_struct") else call.arguments_json
        return f"[calls {call.name} {given}]"
    if kind == "tool_result":
        result = part.tool_result
        said = _json(result.data) if result.HasField("data") else result.text
        return f"[{'error' if result.is_error else 'result'}: {said}]"
    if kind == "json" and not part.json.startswith(tokens.FORM):
        return part.json
    if kind == "data":
        return _json(part.data)
    return ""


def _json(struct: object) -> str:
    return MessageToJson(struct, indent=None, ensure_ascii=False, sort_keys=True)  # type: ignore[arg-type]
