"""What the forms write alike for parts that did not come from them."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from sessiond.formats.plain import read, written
from sessiond.structs import from_struct
from sessiond.v1.message_pb2 import Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import TokenUsage

ROLE_NAMES: Mapping[Role.ValueType, str] = {
    Role.ROLE_SYSTEM: "system",
    Role.ROLE_USER: "user",
    Role.ROLE_ASSISTANT: "assistant",
    Role.ROLE_TOOL: "tool",
}

_MOST_INTEGER = 2**53 - 1


def role_name(role: Role.ValueType) -> str:
    if role not in ROLE_NAMES:
        raise ValueError("role: not one that a message may have")
    return ROLE_NAMES[role]


def media_type(part: Part) -> str:
    return part.blob.media_type if part.WhichOneof("kind") == "blob" else part.file.media_type


def is_image(part: Part) -> bool:
    return media_type(part).startswith("image/")


def url(part: Part) -> str:
    """Of a blob its `data:` URL, of a file its URI."""
    if part.WhichOneof("kind") == "file":
        return part.file.uri
    return f"data:{part.blob.media_type};base64,{encoded(part)}"


def encoded(part: Part) -> str:
    return base64.b64encode(part.blob.data).decode()


def structured(part: Part) -> dict[str, Any] | str:
    """Of a part with data or JSON: the object, if it has a `type` and so can be a block; else its JSON text.

    Raises ValueError for a part without content.
    """
    match part.WhichOneof("kind"):
        case "data":
            value: Any = from_struct(part.data)
            text = written(value)
        case "json":
            text = part.json
            try:
                value = read(text)
            except ValueError:
                return text
        case _:
            raise ValueError("parts: a part without content")
    return value if isinstance(value, dict) and isinstance(value.get("type"), str) else text


def arguments_text(call: ToolCallPart) -> str:
    """The arguments as JSON text; of a call without arguments, that of an empty object."""
    match call.WhichOneof("arguments"):
        case "arguments_json":
            return call.arguments_json
        case "arguments_struct":
            return written(from_struct(call.arguments_struct))
    return "{}"


def arguments_object(call: ToolCallPart) -> tuple[dict[str, Any], bool]:
    """The arguments as an object, and whether they are one. Others lie in its member `arguments`, as text."""
    text = arguments_text(call)
    try:
        value = read(text)
    except ValueError:
        value = None
    return (value, True) if isinstance(value, dict) else ({"arguments": text}, False)


def answer_text(answer: ToolResultPart) -> str | None:
    match answer.WhichOneof("result"):
        case "text":
            return answer.text
        case "data":
            return written(from_struct(answer.data))
    return None


def token_usage(**tokens: Any) -> TokenUsage | None:
    """The tokens that are given as integers which the service takes; None if there are none."""
    counted = {field: count for field, count in tokens.items() if type(count) is int and 0 < count <= _MOST_INTEGER}
    return TokenUsage(**counted) if counted else None


def total(*counts: Any) -> int:
    return sum(count for count in counts if type(count) is int)


def of_kind(parts: Iterable[Part], kind: str) -> list[Part]:
    return [part for part in parts if part.WhichOneof("kind") == kind]
