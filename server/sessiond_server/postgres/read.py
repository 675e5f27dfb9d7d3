"""Builds the answers of reads from the rows of read.sql and list.sql."""

from collections.abc import Sequence
from typing import Any

from sessiond_server.domain.commands import SessionSnapshot
from sessiond_server.errors import MessageNotFound, SessionNotFound, StoreUnavailable
from sessiond_server.postgres.statements import READ
from sessiond_server.store.session_reads import MessagesPage, SessionsPage

GET_CORE = READ["get_core"].text
GET_SESSION = READ["get_session"].text
GET_CORES = READ["get_cores"].text
GET_SESSIONS = READ["get_sessions"].text
GET_MESSAGE = READ["get_message"].text
LIST_MESSAGES_ASCENDING = READ["list_messages_ascending"].text
LIST_MESSAGES_DESCENDING = READ["list_messages_descending"].text
TOKEN_KEY = READ["token_key"].text
PING = READ["ping"].text

NO_BOUND = 2**63 - 1
"""A bound above every seq."""

Row = Any
"""An asyncpg.Record: values by place or by name."""


def session(session_id: str, rows: Sequence[Row]) -> SessionSnapshot:
    if not rows:
        raise SessionNotFound(session_id)
    version, core, content = rows[0]
    return SessionSnapshot(version, core, content)


def sessions(count: int, rows: Sequence[Row]) -> Sequence[SessionSnapshot | None]:
    found: list[SessionSnapshot | None] = [None] * count
    for place, version, core, content in rows:
        found[place - 1] = SessionSnapshot(version, core, content)
    return found


def sessions_page(limit: int, rows: Sequence[Row]) -> SessionsPage:
    """A page from the rows of `filters.page`."""
    shown = rows[:limit]
    more = bool(rows) and rows[0]["found"] > len(shown)
    last = (shown[-1]["place"], shown[-1]["session_id"]) if more else None
    return SessionsPage([SessionSnapshot(row["version"], row["core"], row["content"]) for row in shown], last)


def message(session_id: str, message_id: str, rows: Sequence[Row]) -> tuple[int, bytes]:
    if not rows:
        raise SessionNotFound(session_id)
    version, body = rows[0]
    if body is None:
        raise MessageNotFound(session_id, message_id)
    return version, body


def messages_page(session_id: str, rows: Sequence[Row]) -> MessagesPage:
    if not rows:
        raise SessionNotFound(session_id)
    version, first_seq, _, found = rows[0]
    if first_seq is None:
        return MessagesPage(version, [], 0, 0, more=False)
    return MessagesPage(version, [row[2] for row in rows], first_seq, rows[-1][1], more=found > len(rows))


def check_primary(rows: Sequence[Row]) -> None:
    """Raises StoreUnavailable if the server that answered PING takes no writes: a standby, or a read-only database."""
    if any(rows[0]):
        raise StoreUnavailable
