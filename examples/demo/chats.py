"""Conversations in the common chat form: read from a file, cut into turns, compared."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sessiond

Chat = dict[str, Any]
"""One message: role, content, and where they apply name, tool_calls and tool_call_id."""

TURN_MESSAGES = 256
"""Most messages of one append."""
TURN_BYTES = 2 * 1024 * 1024
"""Where a turn is cut; the service takes 3 MiB in one append."""


class BadFileError(Exception):
    """A file that holds no conversations; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    chats: list[Chat]
    messages: list[sessiond.Message]
    """The same, as the service takes them."""


def load(path: Path) -> list[Conversation]:
    """The conversations of a JSONL file: one `{"id": ..., "messages": [...]}` a line; blank lines are skipped."""
    conversations = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    conversations.append(_conversation(line, number, f"{path}:{number}"))
    except OSError as error:
        raise BadFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFileError(f"{path}: not UTF-8 text") from error
    if not conversations:
        raise BadFileError(f"{path}: no conversation in it")
    return conversations


def _conversation(line: str, number: int, place: str) -> Conversation:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{place}: not JSON") from error
    chats = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(chats, list) or not all(isinstance(chat, dict) for chat in chats):
        raise BadFileError(f'{place}: must be an object with "messages", a list of objects')
    messages = []
    for index, chat in enumerate(chats):
        try:
            messages.append(sessiond.from_chat(chat))
        except (ValueError, TypeError) as error:
            raise BadFileError(f"{place}: messages[{index}]: {error}") from error
    return Conversation(str(value.get("id") or number), chats, messages)


def turns(messages: list[sessiond.Message]) -> Iterator[list[sessiond.Message]]:
    """What an agent would save at once: a user's message, and all that follows up to the next one."""
    turn: list[sessiond.Message] = []
    size = 0
    for message in messages:
        begins = message.role == sessiond.Role.ROLE_USER
        if turn and (begins or len(turn) == TURN_MESSAGES or size + message.ByteSize() > TURN_BYTES):
            yield turn
            turn, size = [], 0
        turn.append(message)
        size += message.ByteSize()
    if turn:
        yield turn


def same(chat: Chat, message: sessiond.Message) -> bool:
    """Whether the message says what the chat form says, character by character."""
    return sessiond.to_chat(message) == chat
