"""The coding agent's SQLite file (tables `sessions` and `messages`), and its JSON export of the same."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from sessiond.v1.session_pb2 import AgentMode, Session, SessionStatus
from sessiond_server.sources import sqlite
from sessiond_server.sources.foreign import ForeignSession, Read, Unreadable, attempt
from sessiond_server.sources.values import Unfit, identifier, json_value, message, struct, time_us, words

KIND: Final = "coding-agent"
_MODES: Final = {"build": AgentMode.AGENT_MODE_BUILD, "plan": AgentMode.AGENT_MODE_PLAN}
_ENDED: Final = frozenset({"ended", "completed", "done", "closed", "archived", "terminated"})
_CREATED: Final = ("created_at", "create_time", "created")
_UPDATED: Final = ("updated_at", "update_time", "updated", "last_activity")
_SQLITE: Final = b"SQLite format 3\0"
MOST_JSON: Final = 256 * 1024 * 1024
"""Bytes of a JSON export, which is read as a whole."""


def read(path: Path) -> Read:
    """Raises Unfit, OSError for a file that is none of these."""
    with path.open("rb") as file:
        is_sqlite = file.read(len(_SQLITE)) == _SQLITE
    yield from _sqlite(path) if is_sqlite else _json(path)


def _sqlite(path: Path) -> Read:
    needed = {"sessions": ("id", "name"), "messages": ("session_id", "role", "content", "timestamp")}
    with sqlite.opened(path, needed) as connection:
        for number, row in enumerate(sqlite.rows(connection, "select * from sessions order by rowid"), 1):
            statement = "select * from messages where session_id = ? order by timestamp, rowid"
            messages = sqlite.rows(connection, statement, row["id"])
            yield attempt(f"row {number}", partial(_session, row, messages))


def _json(path: Path) -> Read:
    if path.stat().st_size > MOST_JSON:
        raise Unfit(f"a JSON export must have at most {MOST_JSON} bytes")
    found = json_value(path.read_bytes(), "the file")
    if isinstance(found, dict):
        found = found.get("sessions", [found])
    if not isinstance(found, list):
        raise Unfit("the file must have a list of sessions")
    for number, item in enumerate(found, 1):
        given = item.get("session", item) if isinstance(item, dict) else None
        messages = item.get("messages", given.get("messages", [])) if isinstance(given, dict) else None
        if not isinstance(given, dict) or not isinstance(messages, list):
            yield Unreadable(f"session {number}", "must be an object with a list of messages")
            continue
        yield attempt(f"session {number}", partial(_session, given, messages))


def _session(row: Mapping[str, Any], messages: Iterable[Any]) -> ForeignSession:
    notes: list[str] = []
    session_id = identifier(row.get("id", row.get("session_id")), "id")
    session = Session(session_id=session_id, name=words(row.get("name"), "name"))
    mode = row.get("agent_mode")
    session.agent_mode = _MODES.get(mode if isinstance(mode, str) else "", AgentMode.AGENT_MODE_GENERAL)
    if str(row.get("status", "")).lower() in _ENDED:
        session.status = SessionStatus.SESSION_STATUS_ENDED
    if (metadata := struct(row.get("metadata"), "metadata")) is not None:
        session.metadata.CopyFrom(metadata)
    found = []
    for number, each in enumerate(messages, 1):
        if not isinstance(each, Mapping):
            raise Unfit(f"message {number} must be an object")
        try:
            made = message(each.get("role"), each.get("content"), metadata=each.get("metadata"))
            found.append((time_us(each.get("timestamp"), "timestamp", notes), made))
        except Unfit as error:
            raise Unfit(f"message {number}: {error}") from None
    found.sort(key=lambda pair: pair[0])
    created = _time(row, _CREATED, notes) or (found[0][0] if found else 0)
    return ForeignSession(session_id, session, created, _time(row, _UPDATED, notes), found, notes)


def _time(row: Mapping[str, Any], names: Iterable[str], notes: list[str]) -> int:
    """The first of these columns that is there; 0 without any."""
    name = next((name for name in names if row.get(name) is not None), None)
    return 0 if name is None else time_us(row[name], name, notes)
