"""Items of the Responses API: messages, reasoning, calls of tools and their outputs, and all others."""

from collections.abc import Iterable
from typing import Any

from sessiond.formats import content, rendering, turns
from sessiond.formats.form import Sorting
from sessiond.formats.plain import Item, plain
from sessiond.v1.message_pb2 import Message, Part, Role

NAME = "responses"

_ROLES = {"system": Role.ROLE_SYSTEM, "developer": Role.ROLE_SYSTEM, "user": Role.ROLE_USER, "tool": Role.ROLE_TOOL}
"""Other roles, such as `critic`, are the model's."""

_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Where a call's input is, by the type of the item. Tools that the provider runs itself are no calls to answer."""


def from_items(items: Iterable[Any]) -> list[Message]:
    """Converts items of the Responses API, input and output, one to one; see `sessiond.formats`. Each has a form.

    Raises ValueError or TypeError for what is no item: no object, neither a type nor a role; and for ids and names that
    a message cannot have. The error names the place, such as `[3].call_id`, and never the value.
    """
    return [_from_item(plain(item, f"[{index}]"), f"[{index}]") for index, item in enumerate(items)]


def to_items(messages: Iterable[Message]) -> list[Item]:
    """Converts messages to items; see `sessiond.formats`. A message of another form becomes an item for what it says
    and one for each call and each result.

    Raises ValueError for a message that lacks what its form refers to, and for a part without content.
    """
    items: list[Item] = []
    for item in turns.arranged(messages, NAME):
        items += [item] if isinstance(item, dict) else _rendered(item)
    return items


def _from_item(item: Any, place: str) -> Message:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if not isinstance(kind, str) or (kind == "message" and not isinstance(item.get("role"), str)):
        raise ValueError(f"{place}: must be an object with a type or a role")
    sorting = Sorting(NAME, place)
    role, taken = Role.ROLE_ASSISTANT, Item()
    if kind == "message":
        role = _ROLES.get(item["role"], role)
        taken["content"] = content.text_of(item.get("content"), sorting, f"{place}.content")
    elif kind == "reasoning":
        for member in ("summary", "content"):
            if isinstance(blocks := item.get(member), list):
                taken[member] = content.text_of(blocks, sorting, f"{place}.{member}")
    elif kind in _CALLS and isinstance(name := item.get("name"), str):
        call = sorting.call(item.get("call_id"), name, item.get(_CALLS[kind], ...), place)
        taken = {"call_id": call.id, "name": call.name, _CALLS[kind]: call.arguments}
    elif kind in ("function_call_output", "custom_tool_call_output"):
        role = Role.ROLE_TOOL
        result = sorting.result(item.get("call_id"), place)
        output = content.answer_of(item.get("output"), result, sorting, f"{place}.output")
        taken = {"call_id": result.id, "output": output}
    elif kind == "image_generation_call" and isinstance(made := item.get("result"), str):
        named = item.get("output_format")
        taken["result"] = sorting.base64(made, f"image/{named if isinstance(named, str) else 'png'}")
    elif kind.endswith("_output"):
        role = Role.ROLE_TOOL
    elif kind == "mcp_approval_response":
        role = Role.ROLE_USER
    return sorting.message(role, sorting.rest(item, **taken))


def _rendered(piece: Message) -> list[Item]:
    if piece.parts and piece.parts[0].WhichOneof("kind") == "tool_result":
        return [_answer(piece)]
    role = "user" if piece.role == Role.ROLE_TOOL else rendering.role_name(piece.role)
    items: list[Item] = []
    blocks: list[Item] = []
    for part in piece.parts:
        match part.WhichOneof("kind"):
            case "thinking":
                continue
            case "tool_call":
                call = part.tool_call
                arguments = rendering.arguments_text(call)
                named = {"call_id": call.tool_call_id, "name": call.name, "arguments": arguments}
                items.append({"type": "function_call", **named})
            case _ if role == "assistant":
                items.append(_said(role, [_block(part)]))
            case _:
                blocks.append(_block(part))
    return [*items, _said(role, blocks)] if blocks else items


def _said(role: str, blocks: list[Item]) -> Item:
    """A message. The API takes lists of texts from the assistant only with the ids that it gave itself, so each is a
    message of its own."""
    only_text = len(blocks) == 1 and blocks[0].keys() == {"type", "text"} and blocks[0]["type"] == "input_text"
    return {"type": "message", "role": role, "content": blocks[0]["text"] if only_text else blocks}


def _answer(piece: Message) -> Item:
    answer = piece.parts[0].tool_result
    text = rendering.answer_text(answer)
    blocks = [_block(part) for part in piece.parts[1:] if part.WhichOneof("kind") != "thinking"]
    if blocks:
        output: Any = [{"type": "input_text", "text": text}, *blocks] if text else blocks
    else:
        output = text or ""
    return {"type": "function_call_output", "call_id": answer.tool_call_id, "output": output}


def _block(part: Part) -> Item:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "input_text", "text": part.text}
        case "file" if part.file.uri.startswith(content.OPENAI_FILE):
            kind = "input_image" if rendering.is_image(part) else "input_file"
            return {"type": kind, "file_id": part.file.uri.removeprefix(content.OPENAI_FILE)}
        case "file" | "blob" if rendering.is_image(part):
            return {"type": "input_image", "detail": "auto", "image_url": rendering.url(part)}
        case "blob":
            return {"type": "input_file", "file_data": rendering.url(part)}
        case "file":
            return {"type": "input_file", "file_url": part.file.uri}
    block = rendering.structured(part)
    return {"type": "input_text", "text": block} if isinstance(block, str) else block
