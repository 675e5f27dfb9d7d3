"""The SQLite file of ADK's database sessions: the tables `sessions` and `events`, in both forms that ADK has had
(columns, or `event_data`)."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.sessions.validation import STATE_BYTES
from sessiond_server.sources import sqlite
from sessiond_server.sources.foreign import ForeignSession, Read, attempt
from sessiond_server.sources.values import Unfit, identifier, json_value, part, struct, time_us, words

KIND: Final = "adk"
NEEDED: Final = {
    "sessions": ("app_name", "user_id", "id", "state", "create_time", "update_time"),
    "events": ("app_name", "user_id", "session_id", "id", "timestamp"),
}


def read(path: Path) -> Read:
    """Raises Unfit, OSError for a file that is none of these."""
    with sqlite.opened(path, NEEDED) as connection:
        for number, row in enumerate(sqlite.rows(connection, "select * from sessions order by rowid"), 1):
            statement = (
                "select * from events where app_name = ? and user_id = ? and session_id = ? order by timestamp, rowid"
            )
            events = sqlite.rows(connection, statement, row["app_name"], row["user_id"], row["id"])
            yield attempt(f"row {number}", partial(_session, row, events))


def _session(row: sqlite.Row, events: Iterable[sqlite.Row]) -> ForeignSession:
    notes: list[str] = []
    session = Session(
        session_id=identifier(row["id"], "id"),
        user_id=identifier(row["user_id"], "user_id"),
        agent_id=identifier(row["app_name"], "app_name"),
    )
    if (state := struct(row["state"], "state", STATE_BYTES)) is not None:
        session.state.CopyFrom(state)
    messages = []
    for number, event in enumerate(events, 1):
        try:
            made = _message(event)
            time = time_us(event["timestamp"], "timestamp", notes)
        except Unfit as error:
            raise Unfit(f"event {number}: {error}") from None
        if made is not None:
            messages.append((time, made))
    created = time_us(row["create_time"], "create_time", notes)
    used = time_us(row["update_time"], "update_time", notes)
    source_id = f"{session.agent_id}/{session.user_id}/{session.session_id}"
    return ForeignSession(source_id, session, created, used, messages, notes)


def _message(event: sqlite.Row) -> Message | None:
    """None for an event that says nothing, such as one that only changes the state."""
    data = json_value(event.get("event_data"), "event_data")
    given = data if isinstance(data, Mapping) else event
    content = json_value(given.get("content"), "content")
    if not isinstance(content, Mapping) or not isinstance(content.get("parts"), list):
        return None
    author = given.get("author")
    made = Message(message_id=identifier(event["id"], "id"), name=words(author, "author", 128))
    made.role = Role.ROLE_USER if author == "user" else Role.ROLE_ASSISTANT
    for item in content["parts"]:
        if isinstance(item, Mapping):
            _add(made, item)
    return made if made.parts else None


def _add(made: Message, item: Mapping[str, Any]) -> None:
    if isinstance(call := item.get("function_call"), Mapping):
        added = made.parts.add().tool_call
        added.tool_call_id, added.name = words(call.get("id"), "id", 8192), words(call.get("name"), "name", 128)
        if (arguments := struct(call.get("args"), "args", STATE_BYTES)) is not None:
            added.arguments_struct.CopyFrom(arguments)
    elif isinstance(response := item.get("function_response"), Mapping):
        made.role = Role.ROLE_TOOL
        result = made.parts.add().tool_result
        result.tool_call_id = words(response.get("id"), "id", 8192)
        if (answer := struct(response.get("response"), "response", STATE_BYTES)) is not None:
            result.data.CopyFrom(answer)
    elif item.get("thought") is True:
        made.parts.add(thinking=words(item.get("text"), "text", 1_000_000))
    elif (plain := part(item)) is not None:
        made.parts.append(plain)
