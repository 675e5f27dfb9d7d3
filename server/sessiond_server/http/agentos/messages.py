"""Messages: ours as the platform writes them, and the platform's as ours.

What the platform's message says and ours has no field for lies in its metadata, as a difference from what we would show
without it, so that it comes back as it came. A redaction takes it away with the rest.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeGuard

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.session_pb2 import TokenUsage
from sessiond_server.http.agentos import structs
from sessiond_server.http.agentos.refusals import Json

KEPT: Final = "agentos"
"""Member of metadata, here and of runs and sessions, that holds what ours has no field for, as a JSON text."""
MEMBER_LABEL: Final = "agentos/member-run"
"""Label of messages of a run within another run, which the conversation of the session leaves out."""

_ROLES: Final = {
    "system": Role.ROLE_SYSTEM,
    "user": Role.ROLE_USER,
    "assistant": Role.ROLE_ASSISTANT,
    "tool": Role.ROLE_TOOL,
}
_NAMES: Final = {role: name for name, role in _ROLES.items()}
LATEST: Final = 253_402_300_799
"""The last second of the year 9999."""


def shown(message: Message) -> list[Json]:
    """A message as the platform writes it. It has a message for each result of a tool."""
    if found := kept(message.metadata):
        return [patched(next(_plain(message)), found)]
    return list(_plain(message))


def taken(found: Json, run_id: str, ids: set[str]) -> Message:
    """The message that one of the platform's becomes. `ids`: those that are in use, to which its own is added."""
    role = found.get("role")
    message = Message(role=_ROLES.get(role, Role.ROLE_ASSISTANT) if isinstance(role, str) else Role.ROLE_ASSISTANT)
    message.run_id = run_id
    if is_id(found.get("id")) and found["id"] not in ids:
        message.message_id = found["id"]
        ids.add(found["id"])
    if is_time(created := found.get("created_at")):
        message.client_time.FromSeconds(created)
    message.parts.extend(_parts(found, message.role))
    if message.role == Role.ROLE_TOOL and is_line(found.get("tool_name"), 128):
        message.name = found["tool_name"]
    if more := difference(next(_plain(message)), found):
        message.metadata[KEPT] = text(more)
    return message


def kept(metadata: Struct) -> Json:
    """What metadata keep; empty where there is nothing that we have written."""
    if KEPT not in metadata.fields:
        return {}
    try:
        found = json.loads(metadata.fields[KEPT].string_value)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_id(value: Any) -> TypeGuard[str]:
    """Whether it can be an id of ours."""
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 255 or value != value.strip():
        return False
    return is_line(value, 255)


def is_line(value: Any, most: int) -> TypeGuard[str]:
    """Whether it is a text of 1 to `most` characters without control characters."""
    return isinstance(value, str) and 1 <= len(value) <= most and value.isprintable()


def is_time(value: Any) -> TypeGuard[int]:
    """Whether it is a whole second that we can keep."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LATEST


def text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def same(one: Any, other: Any) -> bool:
    """Whether two values have one JSON text. In Python, 1, 1.0 and true are equal."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def difference(plain: Json, found: Json) -> Json:
    """What makes `found` of `plain`: members to set and to remove; empty if they are the same."""
    put = {name: value for name, value in found.items() if name not in plain or not same(plain[name], value)}
    removed = [name for name in plain if name not in found]
    return {**({"set": put} if put else {}), **({"unset": removed} if removed else {})}


def patched(plain: Json, more: Json) -> Json:
    """The inverse of `difference`."""
    found = {name: value for name, value in plain.items() if name not in more.get("unset", ())}
    return {**found, **more.get("set", {})}


def metrics(usage: TokenUsage) -> Json:
    """Tokens by the platform's names; those of which there are none are left out."""
    found = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cache_read_tokens": usage.cached_tokens,
    }
    return {name: count for name, count in found.items() if count}


def _plain(message: Message) -> Iterator[Json]:
    """The message without what is kept; one at least."""
    results = [part.tool_result for part in message.parts if part.WhichOneof("kind") == "tool_result"]
    first = _head(message)
    others = [part for part in message.parts if part.WhichOneof("kind") != "tool_result"]
    _fill(first, others)
    for index, result in enumerate(results or [None]):
        found = dict(first) if index == 0 else {**_head(message), "id": f"{message.message_id}:{index}"}
        if result is not None:
            _add_result(found, result, message.name)
        yield found


def _head(message: Message) -> Json:
    moment: Timestamp = message.client_time if message.HasField("client_time") else message.create_time
    found: Json = {
        "id": message.message_id,
        "role": _NAMES.get(message.role, "assistant"),
        "from_history": False,
        "stop_after_tool_call": False,
    }
    if message.name and message.role != Role.ROLE_TOOL:
        found["name"] = message.name
    if message.HasField("usage") and (spent := metrics(message.usage)):
        found["metrics"] = spent
    found["created_at"] = moment.seconds
    return found


def _fill(found: Json, parts: Sequence[Part]) -> None:
    texts = [content for part in parts if (content := _content(part)) is not None]
    if len(texts) == 1:
        found["content"] = texts[0]
    elif texts:
        found["content"] = "\n\n".join(each if isinstance(each, str) else text(each) for each in texts)
    if thoughts := "".join(part.thinking for part in parts if part.WhichOneof("kind") == "thinking"):
        found["reasoning_content"] = thoughts
    if calls := [_call(part.tool_call) for part in parts if part.WhichOneof("kind") == "tool_call"]:
        found["tool_calls"] = calls
    for part in parts:
        if part.WhichOneof("kind") == "file":
            kind = "images" if part.file.media_type.startswith("image/") else "files"
            named = {"url": part.file.uri, "mime_type": part.file.media_type, "filename": part.file.name}
            found.setdefault(kind, []).append({name: value for name, value in named.items() if value})


def _content(part: Part) -> Any:
    kind = part.WhichOneof("kind")
    if kind == "text":
        return part.text
    if kind == "json":
        return json.loads(part.json)
    return structs.shown(part.data) if kind == "data" else None


def _call(call: ToolCallPart) -> Json:
    kind = call.WhichOneof("arguments")
    arguments = call.arguments_json if kind == "arguments_json" else text(structs.shown(call.arguments_struct))
    return {
        "id": call.tool_call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments if kind else "{}"},
    }


def _add_result(found: Json, result: ToolResultPart, name: str) -> None:
    found["tool_call_id"] = result.tool_call_id
    kind = result.WhichOneof("result")
    if kind:
        found["content"] = result.text if kind == "text" else text(structs.shown(result.data))
    if name:
        found["tool_name"] = name
    if result.is_error:
        found["tool_call_error"] = True


def _parts(found: Json, role: int) -> Iterator[Part]:
    content = found.get("content")
    if role == Role.ROLE_TOOL:
        result = ToolResultPart(is_error=found.get("tool_call_error") is True)
        if is_line(found.get("tool_call_id"), 8192):
            result.tool_call_id = found["tool_call_id"]
        if isinstance(content, str):
            result.text = content
        yield Part(tool_result=result)
        return
    thought = found.get("reasoning_content")
    if isinstance(thought, str) and thought:
        yield Part(thinking=thought)
    if isinstance(content, str):
        yield Part(text=content)
    elif isinstance(content, dict | list):
        yield Part(json=text(content))
    calls = found.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and is_line(function.get("name"), 128):
            made = ToolCallPart(name=function["name"])
            if is_line(call.get("id"), 8192):
                made.tool_call_id = call["id"]
            if isinstance(function.get("arguments"), str):
                made.arguments_json = function["arguments"]
            yield Part(tool_call=made)
