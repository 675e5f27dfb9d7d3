"""Chat completions: messages with `role`, `content` and `tool_calls`."""

from collections.abc import Iterable
from typing import Any

from sessiond.formats import content, rendering, turns
from sessiond.formats.form import Sorting
from sessiond.formats.plain import Item, plain, same
from sessiond.v1.message_pb2 import Message, Part, Role

NAME = "chat"

_ROLES = {
    "system": Role.ROLE_SYSTEM,
    "developer": Role.ROLE_SYSTEM,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
    "function": Role.ROLE_TOOL,
}


def from_items(items: Iterable[Any]) -> list[Message]:
    """Converts messages of chat completions, one to one; see `sessiond.formats`.

    Raises ValueError or TypeError for what is no such message: another role, calls of tools that the assistant does not
    make, content that is neither text nor a list; and for ids and names that a message cannot have. The error names the
    place, such as `[3].tool_calls[0].id`, and never the value.
    """
    return [_from_item(plain(item, f"[{index}]"), f"[{index}].") for index, item in enumerate(items)]


def to_items(messages: Iterable[Message]) -> list[Item]:
    """Converts messages to those of chat completions; see `sessiond.formats`.

    Raises ValueError for a message that lacks what its form refers to, and for a part without content.
    """
    return [item if isinstance(item, dict) else _rendered(item) for item in turns.arranged(messages, NAME)]


def from_chat(chat: Any) -> Message:
    """Converts one message of chat completions, as `sessiond.formats.chat.from_items` does."""
    return _from_item(plain(chat), "")


def to_chat(message: Message) -> Item:
    """Converts a message to one of chat completions, as `sessiond.formats.chat.to_items` does.

    Raises ValueError if it makes another number of them than one, such as one for each of several tool results.
    """
    items = to_items([message])
    if len(items) != 1:
        raise ValueError(f"parts: they make {len(items)} chat messages; sessiond.formats.chat.to_items returns them")
    return items[0]


def _from_item(item: Any, place: str) -> Message:
    role_name = item.get("role") if isinstance(item, dict) else None
    role = _ROLES.get(role_name) if isinstance(role_name, str) else None
    if role is None:
        raise ValueError(f"{place}role: must be one of {', '.join(_ROLES)}")
    if item.get("tool_calls") and role != Role.ROLE_ASSISTANT:
        raise ValueError(f"{place}tool_calls: only the assistant calls tools")
    if item.get("tool_call_id") and role != Role.ROLE_TOOL:
        raise ValueError(f"{place}tool_call_id: only a tool's answer has one")
    sorting = Sorting(NAME, place.removesuffix("."))
    taken: Item = {}
    if "name" in item:
        taken["name"] = sorting.speaker(item["name"])
    if isinstance(thinking := item.get("reasoning_content"), str):
        taken["reasoning_content"] = sorting.thinking(thinking)
    said = item.get("content")
    if role == Role.ROLE_TOOL:
        result = sorting.result(item.get("tool_call_id"), place.removesuffix("."))
        taken["tool_call_id"] = result.id
        if said is not None and not isinstance(said, str | list):
            raise TypeError(f"{place}content: must be text, a list or None")
        taken["content"] = content.answer_of(said, result, sorting, f"{place}content")
    else:
        taken["content"] = content.text_of(said, sorting, f"{place}content")
    if isinstance(refusal := item.get("refusal"), str):
        taken["refusal"] = sorting.text(refusal)
    if isinstance(audio := item.get("audio"), dict):
        taken["audio"] = _audio(audio, sorting)
    if isinstance(function := item.get("function_call"), dict) and role == Role.ROLE_ASSISTANT:
        taken["function_call"] = _called(function, None, "arguments", sorting, f"{place}function_call")[0]
    if isinstance(calls := item.get("tool_calls"), list):
        taken["tool_calls"] = [_call(call, sorting, f"{place}tool_calls[{index}]") for index, call in enumerate(calls)]
    bare = sorting.bare(role)
    if same([_rendered(piece) for piece in turns.pieces(bare) or [bare]], [item]):
        return bare
    return sorting.message(role, sorting.rest(item, **taken))


def _audio(audio: Item, sorting: Sorting) -> Any:
    taken = {}
    if isinstance(transcript := audio.get("transcript"), str):
        taken["transcript"] = sorting.text(transcript)
    if isinstance(data := audio.get("data"), str):
        taken["data"] = sorting.base64(data, "audio/*")
    return sorting.rest(audio, **taken)


def _call(call: Any, sorting: Sorting, place: str) -> Any:
    kind = call.get("type", "function") if isinstance(call, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{place}: must be an object with a type")
    if kind not in _INPUTS:
        return sorting.kept(call)
    if not isinstance(function := call.get(kind), dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{place}: a call has a {kind} with a name")
    form, call_id = _called(function, call.get("id"), _INPUTS[kind], sorting, place)
    return sorting.rest(call, id=call_id, **{kind: form})


_INPUTS = {"function": "arguments", "custom": "input"}
"""Where a call's input is, by the type of the call."""


def _called(function: Item, call_id: Any, member: str, sorting: Sorting, place: str) -> tuple[Any, Any]:
    if not isinstance(function.get("name"), str):
        raise ValueError(f"{place}.name: must be text")
    call = sorting.call(call_id, function["name"], function.get(member, ...), place)
    return sorting.rest(function, name=call.name, **{member: call.arguments}), call.id


def _rendered(piece: Message) -> Item:
    role = rendering.role_name(piece.role)
    answer, items, calls, thinking = None, [], [], []
    if role == "tool" and not rendering.of_kind(piece.parts, "tool_result"):
        role = "user"  # a tool's message without a call is refused
    for part in piece.parts:
        match part.WhichOneof("kind"):
            case "tool_call":
                call = part.tool_call
                function = {"name": call.name, "arguments": rendering.arguments_text(call)}
                calls.append({"id": call.tool_call_id, "type": "function", "function": function})
            case "tool_result":
                answer = part.tool_result
                if (text := rendering.answer_text(answer)) is not None:
                    items.append({"type": "text", "text": text})
            case "thinking":
                thinking.append(part.thinking)
            case _:
                items.append(_block(part))
    item: Item = {"role": role}
    if piece.name:
        item["name"] = piece.name
    item["content"] = items or ("" if answer is not None else None)
    if len(items) == 1 and items[0].keys() == {"type", "text"} and items[0]["type"] == "text":
        item["content"] = items[0]["text"]
    if thinking:
        item["reasoning_content"] = "\n".join(thinking)
    if calls:
        item["tool_calls"] = calls
    if answer is not None and answer.tool_call_id:
        item["tool_call_id"] = answer.tool_call_id
    return item


def _block(part: Part) -> Item:
    match part.WhichOneof("kind"):
        case "text":
            return {"type": "text", "text": part.text}
        case "file" | "blob" if rendering.is_image(part):
            return {"type": "image_url", "image_url": {"url": rendering.url(part)}}
        case "blob" if part.blob.media_type in _SOUNDS:
            audio = {"data": rendering.encoded(part), "format": _SOUNDS[part.blob.media_type]}
            return {"type": "input_audio", "input_audio": audio}
        case "blob":
            return {"type": "file", "file": {"file_data": rendering.url(part)}}
        case "file" if part.file.uri.startswith(content.OPENAI_FILE):
            return {"type": "file", "file": {"file_id": part.file.uri.removeprefix(content.OPENAI_FILE)}}
        case "file":
            file = part.file
            return {"type": "file", "file": {"uri": file.uri, "media_type": file.media_type, "name": file.name}}
    block = rendering.structured(part)
    return {"type": "text", "text": block} if isinstance(block, str) else block


_SOUNDS = {"audio/wav": "wav", "audio/mpeg": "mp3"}
