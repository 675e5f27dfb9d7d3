"""Reads sessions and messages with the statements of read.sql and list.sql."""

from collections.abc import Sequence
from typing import Any

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.encoding import SUMMARY_CREATED
from sessiond_server.domain.messages.rules import APPENDED
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rewinds.ranges import Ranges
from sessiond_server.domain.sessions.content import whole
from sessiond_server.encryption.envelope import DataKey
from sessiond_server.encryption.keyring import Keyring
from sessiond_server.errors import InvalidFields, MessageNotFound, SessionNotFound, StoreUnavailable, Violation
from sessiond_server.postgres import filters
from sessiond_server.postgres.statements import FORKS, READ
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
LIST_OF_FORK = FORKS["list_of_fork"].text
VISIBLE_ASCENDING = FORKS["visible_messages_ascending"].text
VISIBLE_DESCENDING = FORKS["visible_messages_descending"].text
VISIBLE_SUMMARIES = FORKS["visible_summaries"].text
GET_MESSAGE_OF_FORK = FORKS["get_message_of_fork"].text
GET_SHARED_CONTENT = FORKS["get_shared_content"].text
TOKEN_KEY = READ["token_key"].text
PING = READ["ping"].text

BY_NAME = (SessionOrder.SESSION_ORDER_NAME_ASC, SessionOrder.SESSION_ORDER_NAME_DESC)

NO_BOUND = 2**63 - 1
"""A bound above every seq."""

Row = Any
"""An asyncpg.Record: values by place or by name."""


class PostgresSessionReads:
    """SessionReads and SessionQueries of the store (see store/session_reads.py)."""

    _transactions: Transactions
    keyring: Keyring | None

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
        tokens = await self._tokens(scope, where, by_name=order_by in BY_NAME)
        query = filters.page(scope, where, order_by, after=after, limit=limit, content=content, tokens=tokens)
        return _sessions_page(limit, await self._transactions.fetch(query.text, *query.parameters))

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        query = filters.count(scope, where, await self._tokens(scope, where))
        count: int = (await self._transactions.fetch(query.text, *query.parameters))[0][0]
        return count

    async def _tokens(self, scope: Scope, where: SessionFilter, *, by_name: bool = False) -> DataKey | None:
        """The key of the tokens by which metadata is found; None where it is not encrypted. Raises InvalidFields
        for what cannot be asked of encrypted names."""
        if self.keyring is None or not self.keyring.seals:
            return None
        wrong = [*(["filter.name_contains"] if where.name_contains else []), *(["order_by"] if by_name else [])]
        if wrong:
            raise InvalidFields(Violation(field, "must not ask for names, which are encrypted here") for field in wrong)
        return (await self.keyring.sealing(scope.tenant_id)).first if where.HasField("metadata") else None

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        named = (scope.tenant_id, session_id, scope.user_id, message_id)
        rows = await self._transactions.fetch(GET_MESSAGE, *named)
        if rows and rows[0]["body"] is None and rows[0]["fork_seq"] is not None:
            rows = await self._transactions.fetch(GET_MESSAGE_OF_FORK, *named)
            version, body = _message(session_id, message_id, rows)
            return version, body + encoding.message_of_session(session_id)
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
        rewound: Ranges | None = None,
        include_rewound: bool = False,
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
            if not _reaches_parts(rows, after_seq):
                return _selected(session_id, rows, where, limit)
        if where.has_times:
            look_at = limit if where.is_times else LOOKED_AT
            statement = FIND_TIMED_DESCENDING if descending else FIND_TIMED_ASCENDING
            times = (where.from_mark, where.until_mark)
            rows = await self._transactions.fetch(statement, *bounds, look_at, PAGE_BYTES, *times)
            if not rows or (not rows[0]["broad"] and not _reaches_parts(rows, after_seq)):
                return _selected(session_id, rows, where, limit)
        # Forks share messages, but not their marks; and marks don't know what rewinds have hidden.
        hidden = ranges.NOTHING if include_rewound else rewound
        rows = await self._messages(bounds, LOOKED_AT, descending=descending, hidden=hidden, marked=include_rewound)
        return _selected(session_id, rows, where, limit)

    async def list_summaries(
        self, scope: Scope, session_id: str, *, before_seq: int, limit: int, rewound: Ranges | None = None
    ) -> SummariesPage:
        named = (scope.tenant_id, session_id, scope.user_id)
        rows: Sequence[Row] = await self._transactions.fetch(
            LIST_SUMMARIES, *named, before_seq or NO_BOUND, limit, PAGE_BYTES
        )
        if _reaches_parts(rows, 0) and not _is_above_parts(rows):
            bounds = (*named, 0, before_seq or NO_BOUND)
            if rows[0]["rewound"]:
                hidden = _hidden(rewound)
                rows = await self._transactions.fetch(VISIBLE_SUMMARIES, *bounds, limit, *hidden, True, PAGE_BYTES)
            else:
                rows = await self._transactions.fetch(LIST_OF_FORK, *bounds, limit, PAGE_BYTES, True, SUMMARY_CREATED)
            rows = _of_parts(rows, encoding.summary_of_session(session_id))
        page = _messages_page(session_id, rows)
        return SummariesPage(page.version, page.messages, page.last_seq if page.more else 0)

    async def _chain(self, scope: Scope, session_id: str, seq: int) -> Sequence[bytes]:
        """What `whole` makes the session's content at `seq` of, one of its own places; empty before it had any. Raises
        SessionNotFound."""
        rows = await self._transactions.fetch(GET_CONTENT, scope.tenant_id, session_id, scope.user_id, seq)
        if not rows:
            raise SessionNotFound(session_id)
        chain: Sequence[bytes] = rows[0]["chain"]
        if rows[0]["fork_seq"] is not None and seq <= rows[0]["fork_seq"]:
            shared = await self._transactions.fetch(GET_SHARED_CONTENT, scope.tenant_id, session_id, seq)
            chain = shared[0]["chain"]
        return chain

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        bounds = (scope.tenant_id, session_id, scope.user_id, after_seq, before_seq or NO_BOUND)
        hidden = ranges.NOTHING if include_rewound else rewound
        rows = await self._messages(bounds, limit, descending=descending, hidden=hidden, marked=include_rewound)
        return _messages_page(session_id, rows)

    async def _messages(
        self,
        bounds: tuple[str, str, str, int, int],
        limit: int,
        *,
        descending: bool,
        hidden: Ranges | None,
        marked: bool,
    ) -> Sequence[Row]:
        """Rows of version, seq, body and found. A page that reaches into what a fork shares, or to where something is
        hidden, is read once more, whole: most sessions are neither forks nor rewound, and most pages are filled by what
        was written since. `hidden`: the places to leave out; None: what rewinds have hidden. `marked`: whether messages
        that rewinds have hidden say so."""
        statement = LIST_MESSAGES_DESCENDING if descending else LIST_MESSAGES_ASCENDING
        rows = await self._transactions.fetch(statement, *bounds, limit, PAGE_BYTES)
        if not _reaches_parts(rows, bounds[3]) or (descending and _is_above_parts(rows)):
            return rows
        if rows[0]["rewound"]:
            statement = VISIBLE_DESCENDING if descending else VISIBLE_ASCENDING
            rows = await self._transactions.fetch(statement, *bounds, limit, *_hidden(hidden), descending, PAGE_BYTES)
        else:
            rows = await self._transactions.fetch(LIST_OF_FORK, *bounds, limit, PAGE_BYTES, descending, APPENDED)
        return _of_parts(rows, encoding.message_of_session(bounds[1]), marked=marked)


def _reaches_parts(rows: Sequence[Row], after_seq: int) -> bool:
    """Whether messages after `after_seq` may be among those that a fork shares with its parent, or be hidden."""
    return bool(rows) and rows[0]["parts_seq"] is not None and after_seq < rows[0]["parts_seq"]


def _is_above_parts(rows: Sequence[Row]) -> bool:
    """Whether a page that descends ends before it comes to what a fork shares, or to a place where something is
    hidden."""
    found, seq = rows[0]["found"], rows[-1]["seq"]
    return found is not None and found > len(rows) and bool(seq > rows[0]["parts_seq"])


def _hidden(hidden: Ranges | None) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """The parameters of visible_parts in forks.sql."""
    if hidden is None:
        return None, None
    return [first for first, _ in hidden], [last for _, last in hidden]


def _of_parts(rows: Sequence[Row], session: bytes, *, marked: bool = False) -> Sequence[Row]:
    """Rows of LIST_OF_FORK or of visible parts, of which those that are shared have the session's id; see
    encoding.message_of_session."""
    made = []
    for row in rows:
        body, seq, fork_seq = row["body"], row["seq"], row["fork_seq"]
        if seq is not None and fork_seq is not None and seq <= fork_seq:
            body += session
        if marked and row.get("hidden"):
            body += encoding.MESSAGE_REWOUND
        made.append({"version": row["version"], "seq": seq, "body": body, "found": row["found"]})
    return made


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
    version, body = rows[0][:2]
    if body is None:
        raise MessageNotFound(session_id, message_id)
    return version, body + encoding.MESSAGE_REWOUND if rows[0]["hidden"] else body


def _messages_page(session_id: str, rows: Sequence[Row]) -> MessagesPage:
    if not rows:
        raise SessionNotFound(session_id)
    first, last = rows[0], rows[-1]
    version, first_seq = first["version"], first["seq"]
    if first_seq is None:
        return MessagesPage(version, [], 0, 0, more=False)
    more = first["found"] > len(rows)
    return MessagesPage(version, [row["body"] for row in rows], first_seq, last["seq"], more=more)


def _selected(session_id: str, rows: Sequence[Row], where: Selection, limit: int) -> MessagesPage:
    """A page of the selected ones among rows of version, seq, body, found."""
    if not rows:
        raise SessionNotFound(session_id)
    first = rows[0]
    looked_at = [] if first["seq"] is None else [(row["seq"], row["body"]) for row in rows]
    more = first["seq"] is not None and first["found"] > len(rows)
    return selected(first["version"], looked_at, where, limit, more=more)


def check_primary(rows: Sequence[Row]) -> None:
    """Raises StoreUnavailable if the server that answered PING takes no writes: a standby, or a read-only database."""
    if any(rows[0][:2]):
        raise StoreUnavailable
