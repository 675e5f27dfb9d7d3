"""Reads sessions and messages with the statements of read.sql and list.sql."""

from collections.abc import Sequence
from typing import Any

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.sessions.content import whole
from sessiond_server.errors import MessageNotFound, SessionNotFound, StoreUnavailable
from sessiond_server.postgres import filters
from sessiond_server.postgres.statements import READ
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.session_reads import (
    CACHED,
    LOOKED_AT,
    PAGE_BYTES,
    Freshness,
    MessagesPage,
    SessionsPage,
    SummariesPage,
    selected,
)

GET_CORE = READ["get_core"].text
GET_SESSION = READ["get_session"].text
GET_CORES = READ["get_cores"].text
GET_SESSIONS = READ["get_sessions"].text
GET_CONTENT = READ["get_content"].text
GET_MESSAGE = READ["get_message"].text
LIST_MESSAGES_ASCENDING = READ["list_messages_ascending"].text
LIST_MESSAGES_DESCENDING = READ["list_messages_descending"].text
LIST_SUMMARIES = READ["list_summaries"].text
FIND_MARKED_ASCENDING = READ["find_marked_ascending"].text
FIND_MARKED_DESCENDING = READ["find_marked_descending"].text
FIND_TIMED_ASCENDING = READ["find_timed_ascending"].text
FIND_TIMED_DESCENDING = READ["find_timed_descending"].text
RAREST_MARK = READ["rarest_mark"].text
TOKEN_KEY = READ["token_key"].text
PING = READ["ping"].text

NO_BOUND = 2**63 - 1
"""A bound above every seq."""

Row = Any
"""An asyncpg.Record: values by place or by name."""


class PostgresSessionReads:
    """SessionReads and SessionQueries of the store (see store/session_reads.py)."""

    _transactions: Transactions

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        rows = await self._transactions.fetch(
            GET_SESSION if content else GET_CORE, scope.tenant_id, session_id, scope.user_id
        )
        return _session(session_id, rows)

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        rows = await self._transactions.fetch(
            GET_SESSIONS if content else GET_CORES, scope.tenant_id, session_ids, scope.user_id
        )
        return _sessions(len(session_ids), rows)

    async def list_sessions(
        self,
        scope: Scope,
        where: SessionFilter,
        order_by: SessionOrder.ValueType,
        *,
        after: tuple[int | str, str] | None,
        limit: int,
        content: bool,
    ) -> SessionsPage:
        query = filters.page(scope, where, order_by, after=after, limit=limit, content=content)
        return _sessions_page(limit, await self._transactions.fetch(query.text, *query.parameters))

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        query = filters.count(scope, where)
        count: int = (await self._transactions.fetch(query.text, *query.parameters))[0][0]
        return count

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        rows = await self._transactions.fetch(GET_MESSAGE, scope.tenant_id, session_id, scope.user_id, message_id)
        return _message(session_id, message_id, rows)

    async def find_messages(
        self,
        scope: Scope,
        session_id: str,
        where: Selection,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
    ) -> MessagesPage:
        bounds = (scope.tenant_id, session_id, scope.user_id, after_seq, before_seq or NO_BOUND)
        if where.label_marks:
            mark = where.label_marks[0]
            if len(where.label_marks) > 1:
                rarest = await self._transactions.fetch(RAREST_MARK, *bounds, where.label_marks)
                mark = rarest[0][0] if rarest else mark
            look_at = limit if where.is_one_label else LOOKED_AT
            statement = FIND_MARKED_DESCENDING if descending else FIND_MARKED_ASCENDING
            rows = await self._transactions.fetch(statement, *bounds, look_at, PAGE_BYTES, mark)
            return _selected(session_id, rows, where, limit)
        if where.has_times:
            look_at = limit if where.is_times else LOOKED_AT
            statement = FIND_TIMED_DESCENDING if descending else FIND_TIMED_ASCENDING
            times = (where.from_mark, where.until_mark)
            rows = await self._transactions.fetch(statement, *bounds, look_at, PAGE_BYTES, *times)
            if not rows or not rows[0]["broad"]:
                return _selected(session_id, rows, where, limit)
        statement = LIST_MESSAGES_DESCENDING if descending else LIST_MESSAGES_ASCENDING
        rows = await self._transactions.fetch(statement, *bounds, LOOKED_AT, PAGE_BYTES)
        return _selected(session_id, rows, where, limit)

    async def list_summaries(self, scope: Scope, session_id: str, *, before_seq: int, limit: int) -> SummariesPage:
        rows = await self._transactions.fetch(
            LIST_SUMMARIES, scope.tenant_id, session_id, scope.user_id, before_seq or NO_BOUND, limit, PAGE_BYTES
        )
        page = _messages_page(session_id, rows)
        return SummariesPage(page.version, page.messages, page.last_seq if page.more else 0)

    async def get_content(self, scope: Scope, session_id: str, seq: int) -> bytes:
        rows = await self._transactions.fetch(GET_CONTENT, scope.tenant_id, session_id, scope.user_id, seq)
        return _session(session_id, rows).content

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        rows = await self._transactions.fetch(
            LIST_MESSAGES_DESCENDING if descending else LIST_MESSAGES_ASCENDING,
            scope.tenant_id,
            session_id,
            scope.user_id,
            after_seq,
            before_seq or NO_BOUND,
            limit,
            PAGE_BYTES,
        )
        return _messages_page(session_id, rows)


def _session(session_id: str, rows: Sequence[Row]) -> SessionSnapshot:
    if not rows:
        raise SessionNotFound(session_id)
    version, core, chain = rows[0]
    return SessionSnapshot(version, core, whole(chain))


def _sessions(count: int, rows: Sequence[Row]) -> Sequence[SessionSnapshot | None]:
    found: list[SessionSnapshot | None] = [None] * count
    for place, version, core, chain in rows:
        found[place - 1] = SessionSnapshot(version, core, whole(chain))
    return found


def _sessions_page(limit: int, rows: Sequence[Row]) -> SessionsPage:
    """A page from the rows of `filters.page`."""
    shown = rows[:limit]
    more = bool(rows) and rows[0]["found"] > len(shown)
    last = (shown[-1]["place"], shown[-1]["session_id"]) if more else None
    return SessionsPage(
        [SessionSnapshot(row["version"], row["core"], whole(row["chain"] or ())) for row in shown], last
    )


def _message(session_id: str, message_id: str, rows: Sequence[Row]) -> tuple[int, bytes]:
    if not rows:
        raise SessionNotFound(session_id)
    version, body = rows[0]
    if body is None:
        raise MessageNotFound(session_id, message_id)
    return version, body


def _messages_page(session_id: str, rows: Sequence[Row]) -> MessagesPage:
    if not rows:
        raise SessionNotFound(session_id)
    version, first_seq, _, found = rows[0]
    if first_seq is None:
        return MessagesPage(version, [], 0, 0, more=False)
    return MessagesPage(version, [row[2] for row in rows], first_seq, rows[-1][1], more=found > len(rows))


def _selected(session_id: str, rows: Sequence[Row], where: Selection, limit: int) -> MessagesPage:
    """A page of the selected ones among rows of version, seq, body, found."""
    if not rows:
        raise SessionNotFound(session_id)
    version, first_seq, _, found = rows[0][:4]
    looked_at = [] if first_seq is None else [(row[1], row[2]) for row in rows]
    return selected(version, looked_at, where, limit, more=first_seq is not None and found > len(rows))


def check_primary(rows: Sequence[Row]) -> None:
    """Raises StoreUnavailable if the server that answered PING takes no writes: a standby, or a read-only database."""
    if any(rows[0][:2]):
        raise StoreUnavailable
