"""ChatGPT's export: `conversations.json`, a list of conversations, each a tree of messages of which the branch that was
shown last is imported."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server.sources.foreign import ForeignSession, Read, attempt
from sessiond_server.sources.values import Unfit, identifier, json_value, message, time_us, words

KIND: Final = "chatgpt"
MOST_BYTES: Final = 512 * 1024 * 1024
"""The file is read as a whole."""


def read(path: Path) -> Read:
    """Raises Unfit, OSError for a file that is none of these."""
    if path.stat().st_size > MOST_BYTES:
        raise Unfit(f"the file must have at most {MOST_BYTES} bytes")
    found = json_value(path.read_bytes(), "the file")
    if not isinstance(found, list):
        raise Unfit("the file must be a list of conversations")
    for number, given in enumerate(found, 1):
        yield attempt(f"conversation {number}", partial(_session, given))


def _session(given: object) -> ForeignSession:
    if not isinstance(given, Mapping) or not isinstance(given.get("mapping"), Mapping):
        raise Unfit("must be an object with a mapping")
    notes: list[str] = []
    session = Session(session_id=identifier(given.get("conversation_id") or given.get("id"), "conversation_id"))
    session.name = words(given.get("title"), "title")
    created = 0 if given.get("create_time") is None else time_us(given["create_time"], "create_time", notes)
    now, messages = created, []
    for node in _branch(given["mapping"], given.get("current_node")):
        made = _message(node)
        if made is None:
            continue
        time = node["message"].get("create_time")
        now = max(now, now if time is None else time_us(time, "create_time", notes))
        messages.append((now, made))
    update = given.get("update_time")
    used = 0 if update is None else time_us(update, "update_time", notes)
    return ForeignSession(
        session.session_id, session, created or (messages[0][0] if messages else used), used, messages, notes
    )


def _branch(mapping: Mapping[str, Any], last: object) -> list[Mapping[str, Any]]:
    """The nodes from the root to the last one. Without it: to the last in the file."""
    if not isinstance(last, str) or last not in mapping:
        last = next(reversed(list(mapping)), None)
    found: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    while isinstance(last, str) and last in mapping:
        node = mapping[last]
        if last in seen or not isinstance(node, Mapping):
            raise Unfit("mapping must be a tree of nodes")
        seen.add(last)
        found.append(node)
        last = node.get("parent")
    return found[::-1]


def _message(node: Mapping[str, Any]) -> Message | None:
    """None for a node that shows nothing."""
    given = node.get("message")
    if not isinstance(given, Mapping):
        return None
    author, content = given.get("author"), given.get("content")
    role = author.get("role") if isinstance(author, Mapping) else None
    parts: object = None
    if isinstance(content, Mapping):
        parts = content.get("parts", content.get("text", content.get("result")))
    made = message(role, parts, identifier(given.get("id"), "message.id"))
    return made if made.parts else None
