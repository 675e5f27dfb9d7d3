"""Anthropic: messages with content blocks, as requests have them and as answers are."""

from collections.abc import Iterable
from typing import Any

from sessiond.formats import content, rendering, turns
from sessiond.formats.form import Sorting
from sessiond.formats.plain import Item, plain, same
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import TokenUsage

NAME = "anthropic"

_ROLES = {"system": Role.ROLE_SYSTEM, "user": Role.ROLE_USER, "assistant": Role.ROLE_ASSISTANT}


def from_items(items: Iterable[Any]) -> list[Message]:
    """Converts messages of Anthropic, one to one; see `sessiond.formats`. One that holds results of tools only gets the
    role of a tool. The `usage` of an answer becomes the message's.

    Raises ValueError or TypeError for what is no such message, and for ids and names that a message cannot have. The
    error names the place, such as `[3].content[0].id`, and never the value.
    """
    return [_from_item(plain(item, f"[{index}]"), f"[{index}]") for index, item in enumerate(items)]


def to_items(messages: Iterable[Message]) -> list[Item]:
    """Converts messages to those of Anthropic; see `sessiond.formats`. Messages of the system have the role `system`:
    the API takes their content as its parameter of that name.

    Raises ValueError for a message that lacks what its form refers to, and for a part without content.
    """
    return [item if isinstance(item, dict) else _rendered(item) for item in turns.arranged(messages, NAME)]


def _from_item(item: Any, place: str) -> Message:
    role_name = item.get("role") if isinstance(item, dict) else None
    role = _ROLES.get(role_name) if isinstance(role_name, str) else None
    if role is None:
        raise ValueError(f"{place}.role: must be one of {', '.join(_ROLES)}")
    sorting = Sorting(NAME, place)
    said = content.text_of(item.get("content"), sorting, f"{place}.content")
    kinds = [block.get("type") for block in item["content"]] if isinstance(said, list) else []
    if role == Role.ROLE_USER and kinds and all(kind == "tool_result" for kind in kinds):
        role = Role.ROLE_TOOL
    usage = _usage(item.get("usage"))
    bare = sorting.bare(role, usage)
    if len(found := turns.pieces(bare) or [bare]) == 1 and same(_rendered(found[0]), item):
        return bare
    return sorting.message(role, sorting.rest(item, content=said), usage)


def _usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    cached = usage.get("cache_read_input_tokens")
    return rendering.token_usage(
        input_tokens=rendering.total(usage.get("input_tokens"), usage.get("cache_creation_input_tokens"), cached),
        output_tokens=usage.get("output_tokens"),
        cached_tokens=cached,
    )


def _rendered(piece: Message) -> Item:
    role = "user" if piece.role == Role.ROLE_TOOL else rendering.role_name(piece.role)
    if piece.parts and piece.parts[0].WhichOneof("kind") == "tool_result":
        return {"role": role, "content": [_answer(piece)]}
    blocks = [_block(part) for part in piece.parts if _has_place(part)]
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return {"role": role, "content": blocks[0]["text"]}
    return {"role": role, "content": blocks}


def _has_place(part: Part) -> bool:
    """The API refuses thinking that it did not sign, and text without anything but white space."""
    kind = part.WhichOneof("kind")
    return kind != "thinking" and (kind != "text" or bool(part.text.strip()))


def _answer(piece: Message) -> Item:
    answer = piece.parts[0].tool_result
    block: Item = {"type": "tool_result", "tool_use_id": answer.tool_call_id}
    text = rendering.answer_text(answer)
    blocks = [_block(part) for part in piece.parts[1:] if _has_place(part)]
    if blocks:
        block["content"] = [{"type": "text", "text": text}, *blocks] if text else blocks
    elif text is not None:
        block["content"] = text
    if answer.is_error:
        block["is_error"] = True
    return block


def _block(part: Part) -> Item:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "tool_call":
            call = part.tool_call
            given, _ = rendering.arguments_object(call)
            return {"type": "tool_use", "id": call.tool_call_id, "name": call.name, "input": given}
        case "blob":
            source = {"type": "base64", "media_type": part.blob.media_type, "data": rendering.encoded(part)}
            return {"type": "image" if rendering.is_image(part) else "document", "source": source}
        case "file":
            uri = part.file.uri
            source = {"type": "url", "url": uri}
            if uri.startswith(content.ANTHROPIC_FILE):
                source = {"type": "file", "file_id": uri.removeprefix(content.ANTHROPIC_FILE)}
            return {"type": "image" if rendering.is_image(part) else "document", "source": source}
    block = rendering.structured(part)
    return {"type": "text", "text": block} if isinstance(block, str) else block
