"""Chat JSON lines: each line is a conversation, `{"messages": [{"role", "content"}, ...]}`, with an id and times if it
has any. A line without an id is named after the file and its number."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sessiond.v1.session_pb2 import Session
from sessiond_server.sources.foreign import ForeignSession, Read, Unreadable, attempt
from sessiond_server.sources.values import (
    Unfit,
    identifier,
    json_value,
    message,
    optional_identifier,
    struct,
    time_us,
    words,
)

KIND: Final = "chat-lines"
MOST_LINE: Final = 64 * 1024 * 1024
"""Bytes of a line."""
_IDS: Final = ("session_id", "conversation_id", "id")
_TIMES: Final = ("created_at", "create_time", "timestamp", "time")


def read(path: Path) -> Read:
    """Raises OSError."""
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MOST_LINE):
            number += 1
            if len(line) == MOST_LINE:
                yield Unreadable(f"line {number}", f"must have less than {MOST_LINE} bytes; the rest was not read")
                return
            if not line.strip():
                continue
            yield attempt(f"line {number}", partial(_session, line, f"{path.stem}-{number}"))


def _session(line: bytes, name: str) -> ForeignSession:
    given = json_value(line, "the line")
    if not isinstance(given, Mapping) or not isinstance(given.get("messages"), list):
        raise Unfit("must be an object with a list of messages")
    notes: list[str] = []
    key = next((key for key in _IDS if given.get(key) not in (None, "")), None)
    session = Session(session_id=identifier(name if key is None else given[key], key or "id"))
    session.user_id = optional_identifier(given.get("user_id"), "user_id")
    session.name = words(given.get("title", given.get("name")), "title")
    if (metadata := struct(given.get("metadata"), "metadata")) is not None:
        session.metadata.CopyFrom(metadata)
    created = _time(given, notes)
    now, found = created, []
    for number, each in enumerate(given["messages"], 1):
        if not isinstance(each, Mapping):
            raise Unfit(f"message {number} must be an object")
        try:
            now = max(now, _time(each, notes) or now)
            found.append((now, _message(each)))
        except Unfit as error:
            raise Unfit(f"message {number}: {error}") from None
    if not now:
        notes.append("has no time and counts as of 1970")
    return ForeignSession(session.session_id, session, created or (found[0][0] if found else 0), 0, found, notes)


def _message(each: Mapping[str, Any]) -> Any:
    made = message(each.get("role"), each.get("content"))
    calls = each.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Unfit("tool_calls must be calls of functions")
        part = made.parts.add().tool_call
        part.tool_call_id, part.name = words(call.get("id"), "id", 8192), words(function["name"], "name", 128)
        part.arguments_json = words(function.get("arguments"), "arguments", 1_000_000)
    if (answered := each.get("tool_call_id")) is not None and len(made.parts) == 1:
        result = made.parts[0].text
        made.parts[0].tool_result.tool_call_id = words(answered, "tool_call_id", 8192)
        made.parts[0].tool_result.text = result
    made.name = words(each.get("name"), "name", 128)
    return made


def _time(given: Mapping[str, Any], notes: list[str]) -> int:
    name = next((name for name in _TIMES if given.get(name) is not None), None)
    return 0 if name is None else time_us(given[name], name, notes)
