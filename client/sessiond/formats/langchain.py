"""LangChain: messages as `messages_to_dict` writes them, or the objects themselves."""

from collections.abc import Iterable
from typing import Any

from sessiond.formats import content, rendering, turns
from sessiond.formats.form import Sorting
from sessiond.formats.plain import Item, plain
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import TokenUsage

NAME = "langchain"

_ROLES = {
    "human": Role.ROLE_USER,
    "HumanMessageChunk": Role.ROLE_USER,
    "ai": Role.ROLE_ASSISTANT,
    "AIMessageChunk": Role.ROLE_ASSISTANT,
    "system": Role.ROLE_SYSTEM,
    "SystemMessageChunk": Role.ROLE_SYSTEM,
    "tool": Role.ROLE_TOOL,
    "ToolMessageChunk": Role.ROLE_TOOL,
    "function": Role.ROLE_TOOL,
    "FunctionMessageChunk": Role.ROLE_TOOL,
    "remove": Role.ROLE_SYSTEM,
}
_CHAT_ROLES = {
    "assistant": Role.ROLE_ASSISTANT,
    "ai": Role.ROLE_ASSISTANT,
    "system": Role.ROLE_SYSTEM,
    "developer": Role.ROLE_SYSTEM,
}
"""Roles of messages of type `chat`; the other ones are people."""


def from_items(items: Iterable[Any]) -> list[Message]:
    """Converts messages of LangChain, one to one; see `sessiond.formats`. Each has a form.

    An item is `{"type": ..., "data": {...}}` of `messages_to_dict`, the data alone, or a message object, which becomes
    the former. The `usage_metadata` of an answer becomes the message's usage.

    Raises ValueError or TypeError for what is no such message, and for ids and names that a message cannot have. The
    error names the place, such as `[3].tool_calls[0].id`, and never the value.
    """
    return [_from_item(_item(item, f"[{index}]"), f"[{index}]") for index, item in enumerate(items)]


def to_items(messages: Iterable[Message]) -> list[Item]:
    """Converts messages to `{"type": ..., "data": {...}}`, which LangChain's `messages_from_dict` takes; see
    `sessiond.formats`.

    Raises ValueError for a message that lacks what its form refers to, and for a part without content.
    """
    return [item if isinstance(item, dict) else _rendered(item) for item in turns.arranged(messages, NAME)]


def _item(item: Any, place: str) -> Any:
    if not isinstance(item, dict) and callable(dump := getattr(item, "model_dump", None)):
        data = plain(dump(), place)
        return {"type": data.get("type"), "data": data}
    return plain(item, place)


def _from_item(item: Any, place: str) -> Message:
    if not isinstance(item, dict):
        raise ValueError(f"{place}: must be an object")
    wrapped = isinstance(item.get("data"), dict) and "content" not in item
    data = item["data"] if wrapped else item
    kind = item.get("type")
    if kind in ("chat", "ChatMessageChunk"):
        role = _CHAT_ROLES.get(str(data.get("role")), Role.ROLE_USER)
    elif isinstance(kind, str) and kind in _ROLES:
        role = _ROLES[kind]
    else:
        raise ValueError(f"{place}.type: must be one of {', '.join(_ROLES)}, chat")
    sorting = Sorting(NAME, place)
    taken: Item = {}
    if "name" in data:
        taken["name"] = sorting.speaker(data["name"])
    said = data.get("content")
    if kind == "remove":
        taken["content"] = sorting.kept(said)
    elif role == Role.ROLE_TOOL:
        result = sorting.result(data.get("tool_call_id"), place, is_error=data.get("status") == "error")
        taken["tool_call_id"] = result.id
        taken["content"] = content.answer_of(said, result, sorting, f"{place}.content")
    elif isinstance(said, list):
        taken["content"] = [_block(each, sorting, f"{place}.content[{index}]") for index, each in enumerate(said)]
    else:
        taken["content"] = content.text_of(said, sorting, f"{place}.content")
    if isinstance(calls := data.get("tool_calls"), list) and role == Role.ROLE_ASSISTANT:
        taken["tool_calls"] = [_call(call, sorting, f"{place}.tool_calls[{index}]") for index, call in enumerate(calls)]
    form = sorting.rest(data, **taken)
    usage = _usage(data.get("usage_metadata"))
    return sorting.message(role, sorting.rest(item, data=form) if wrapped else form, usage)


def _block(item: Any, sorting: Sorting, place: str) -> Any:
    """Blocks of calls repeat what `tool_calls` says, and stay in the form."""
    return sorting.text(item) if isinstance(item, str) else content.block(item, sorting, place, calls=False)


def _call(call: Any, sorting: Sorting, place: str) -> Any:
    if not isinstance(call, dict) or not isinstance(name := call.get("name"), str):
        return sorting.kept(call)
    made = sorting.call(call.get("id"), name, call.get("args", ...), place)
    return sorting.rest(call, id=made.id, name=made.name, args=made.arguments)


def _usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("input_token_details"), usage.get("output_token_details")
    return rendering.token_usage(
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
        total_tokens=usage.get("total_tokens"),
        cached_tokens=read.get("cache_read") if isinstance(read, dict) else None,
        reasoning_tokens=written.get("reasoning") if isinstance(written, dict) else None,
    )


_TYPES = {
    Role.ROLE_SYSTEM: "system",
    Role.ROLE_USER: "human",
    Role.ROLE_ASSISTANT: "ai",
    Role.ROLE_TOOL: "tool",
}


def _rendered(piece: Message) -> Item:
    rendering.role_name(piece.role)
    kind = _TYPES[piece.role]
    blocks: list[Item] = []
    calls: list[Item] = []
    wrong: list[Item] = []
    data: Item = {"type": kind}
    for part in piece.parts:
        match part.WhichOneof("kind"):
            case "tool_call":
                call = part.tool_call
                given, valid = rendering.arguments_object(call)
                named = {"name": call.name, "id": call.tool_call_id}
                if valid:
                    calls.append({**named, "args": given, "type": "tool_call"})
                else:
                    text = rendering.arguments_text(call)
                    wrong.append({**named, "args": text, "error": None, "type": "invalid_tool_call"})
            case "tool_result":
                answer = part.tool_result
                data["tool_call_id"] = answer.tool_call_id
                data["status"] = "error" if answer.is_error else "success"
                if (text_ := rendering.answer_text(answer)) is not None:
                    blocks.append({"type": "text", "text": text_})
            case _:
                blocks.append(_written_block(part))
    if kind == "tool":
        data.setdefault("tool_call_id", "")
    plain_text = len(blocks) == 1 and blocks[0].keys() == {"type", "text"}
    data["content"] = blocks[0]["text"] if plain_text else blocks or ""
    if piece.name:
        data["name"] = piece.name
    if kind == "ai":
        data |= {"tool_calls": calls, "invalid_tool_calls": wrong}
        if piece.HasField("usage"):
            data["usage_metadata"] = {
                "input_tokens": piece.usage.input_tokens,
                "output_tokens": piece.usage.output_tokens,
                "total_tokens": piece.usage.total_tokens or piece.usage.input_tokens + piece.usage.output_tokens,
            }
    return {"type": kind, "data": data}


def _written_block(part: Part) -> Item:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "thinking":
            return {"type": "reasoning", "reasoning": part.thinking}
        case "blob":
            kind = "image" if rendering.is_image(part) else "file"
            return {"type": kind, "base64": rendering.encoded(part), "mime_type": part.blob.media_type}
        case "file":
            if rendering.is_image(part):
                return {"type": "image", "url": part.file.uri}
            return {"type": "file", "url": part.file.uri, "mime_type": part.file.media_type}
    block = rendering.structured(part)
    return {"type": "text", "text": block} if isinstance(block, str) else block
