"""Messages of user interfaces of Vercel's AI SDK: `UIMessage`, with parts."""

from collections.abc import Iterable
from typing import Any

from sessiond.formats import rendering, turns
from sessiond.formats.form import Sorting
from sessiond.formats.plain import Item, plain, read
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart

NAME = "vercel"

_ROLES = {"system": Role.ROLE_SYSTEM, "user": Role.ROLE_USER, "assistant": Role.ROLE_ASSISTANT}


def from_items(items: Iterable[Any]) -> list[Message]:
    """Converts messages of user interfaces, one to one; see `sessiond.formats`. Each has a form.

    A part of a tool becomes a call and, once there is an output, its result, which comes after all else of the step.

    Raises ValueError or TypeError for what is no such message, and for ids and names that a message cannot have. The
    error names the place, such as `[3].parts[0].toolCallId`, and never the value.
    """
    return [_from_item(plain(item, f"[{index}]"), f"[{index}]") for index, item in enumerate(items)]


def to_items(messages: Iterable[Message]) -> list[Item]:
    """Converts messages to those of user interfaces; see `sessiond.formats`. Of other forms, all that the assistant and
    its tools say between two messages of the user becomes one message, with a `step-start` before each step.

    Raises ValueError for a message that lacks what its form refers to, and for a part without content.
    """
    items: list[Item] = []
    turn: Item | None = None
    calls: dict[str, Item] = {}
    for item in turns.arranged(messages, NAME):
        if isinstance(item, dict):
            items.append(item)
            turn = None
            continue
        if item.role in (Role.ROLE_SYSTEM, Role.ROLE_USER) or turn is None:
            role = "assistant" if item.role == Role.ROLE_TOOL else rendering.role_name(item.role)
            turn = {"id": item.message_id, "role": role, "parts": []}
            items.append(turn)
        if item.role == Role.ROLE_TOOL:
            _answer(item, calls, turn)
        else:
            if item.role == Role.ROLE_ASSISTANT:
                turn["parts"].append({"type": "step-start"})
            for part in item.parts:
                turn["parts"].append(shown := _part(part))
                if part.WhichOneof("kind") == "tool_call":
                    calls[part.tool_call.tool_call_id] = shown
        if item.role != Role.ROLE_ASSISTANT and item.role != Role.ROLE_TOOL:
            turn = None
    return items


def _from_item(item: Any, place: str) -> Message:
    role_name = item.get("role") if isinstance(item, dict) else None
    role = _ROLES.get(role_name) if isinstance(role_name, str) else None
    if role is None:
        raise ValueError(f"{place}.role: must be one of {', '.join(_ROLES)}")
    sorting = Sorting(NAME, place)
    taken = {}
    if isinstance(parts := item.get("parts"), list):
        taken["parts"] = _parts(parts, sorting, f"{place}.parts")
    elif isinstance(text := item.get("content"), str):
        taken["content"] = sorting.text(text)
    return sorting.message(role, sorting.rest(item, **taken))


def _parts(parts: list[Any], sorting: Sorting, place: str) -> list[Any]:
    forms: list[Any] = []
    answered: list[int] = []
    for index, part in enumerate(parts):
        here = f"{place}[{index}]"
        if not isinstance(part, dict):
            raise TypeError(f"{here}: must be an object")
        if part.get("type") == "step-start":
            _results(parts, forms, answered, sorting, place)
            answered = []
        forms.append(_shown(part, sorting, here))
        if _tool(part) and part.get("state") in ("output-available", "output-error"):
            answered.append(index)
    _results(parts, forms, answered, sorting, place)
    return forms


def _tool(part: Item) -> str:
    """The name of the tool; empty for a part of another type, and for tools that the provider runs itself."""
    kind, named = part.get("type"), part.get("toolName")
    if not isinstance(kind, str) or part.get("providerExecuted") is True:
        return ""
    if kind == "dynamic-tool":
        return named if isinstance(named, str) else ""
    return kind[len("tool-") :] if kind.startswith("tool-") else ""


def _shown(part: Item, sorting: Sorting, place: str) -> Any:
    kind = part.get("type")
    if kind == "text" and isinstance(text := part.get("text"), str):
        return sorting.rest(part, text=sorting.text(text))
    if kind == "reasoning" and isinstance(text := part.get("text"), str):
        return sorting.rest(part, text=sorting.thinking(text))
    if kind == "file" and isinstance(url := part.get("url"), str):
        named, called = part.get("mediaType"), part.get("filename")
        media_type = named if isinstance(named, str) else ""
        return sorting.rest(part, url=sorting.url(url, media_type, called if isinstance(called, str) else ""))
    if name := _tool(part):
        given = ... if part.get("input") is None else part["input"]
        call = sorting.call(part.get("toolCallId"), name, given, place)
        taken = {"toolCallId": call.id}
        if call.arguments is not None:
            taken["input"] = call.arguments
        return sorting.rest(part, **taken)
    return sorting.kept(part)


def _results(parts: list[Any], forms: list[Any], answered: list[int], sorting: Sorting, place: str) -> None:
    for index in answered:
        part, failed = parts[index], parts[index]["state"] == "output-error"
        result = sorting.result(part.get("toolCallId"), f"{place}[{index}]", is_error=failed)
        member = "errorText" if failed else "output"
        if member in part:
            value = part[member]
            forms[index][member] = result.text(value) if isinstance(value, str) else result.value(value)


def _part(part: Part) -> Item:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "thinking":
            return {"type": "reasoning", "text": part.thinking}
        case "tool_call":
            call = part.tool_call
            return {
                "type": f"tool-{call.name}",
                "toolCallId": call.tool_call_id,
                "state": "input-available",
                "input": _input(call),
            }
        case "file" | "blob":
            shown: Item = {"type": "file", "mediaType": rendering.media_type(part), "url": rendering.url(part)}
            if part.file.name:
                shown["filename"] = part.file.name
            return shown
    block = rendering.structured(part)
    return (
        {"type": "text", "text": block} if isinstance(block, str) else {"type": f"data-{block['type']}", "data": block}
    )


def _input(call: ToolCallPart) -> Any:
    text = rendering.arguments_text(call)
    try:
        return read(text)
    except ValueError:
        return text


def _answer(piece: Message, calls: dict[str, Item], turn: Item) -> None:
    first = piece.parts[0]
    answer = first.tool_result if first.WhichOneof("kind") == "tool_result" else ToolResultPart()
    call_id = answer.tool_call_id
    shown = calls.pop(call_id, None)
    if shown is None:
        shown = {"type": "dynamic-tool", "toolName": piece.name or "tool", "toolCallId": call_id, "input": {}}
        turn["parts"].append(shown)
    texts = [] if (text := rendering.answer_text(answer)) is None else [text]
    texts += [part.text for part in piece.parts if part.WhichOneof("kind") == "text"]
    if answer.is_error:
        shown |= {"state": "output-error", "errorText": "\n".join(texts)}
    else:
        shown |= {"state": "output-available", "output": _output(texts)}
    turn["parts"] += [_part(part) for part in piece.parts if part.WhichOneof("kind") in ("file", "blob")]


def _output(texts: list[str]) -> Any:
    """JSON as its value, since user interfaces show its members; other text as it is; null for no result."""
    if len(texts) == 1:
        try:
            return read(texts[0])
        except ValueError:
            return texts[0]
    return "\n".join(texts) if texts else None
