"""Keeps the index of searches up to date: reads tenants' feeds, and writes the terms of what they bring.

Reading a feed further is one transaction, which locks the index' row in search_feeds: two servers that read the same
feed do not read an event twice. It also locks out redactions and deletions in the sessions of which it reads events
(`lock_searched`), and reads the events after that: what they remove is not brought back.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from google.protobuf.message import DecodeError

from sessiond.v1.event_pb2 import DeletedMessages, Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server import failpoints
from sessiond_server.domain import encoding
from sessiond_server.domain.rows import Writes
from sessiond_server.domain.sessions.content import whole
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.read import GET_SESSIONS
from sessiond_server.postgres.search import (
    BUCKET_BITS,
    ENTRIES,
    SESSIONS,
    of_role,
    of_session,
    of_user,
    salt,
    salted,
)
from sessiond_server.postgres.statements import SEARCH
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.search import texts
from sessiond_server.search.contract import TOOL
from sessiond_server.search.indexer import Advanced, Behind
from sessiond_server.search.matching import Text
from sessiond_server.search.query import key
from sessiond_server.search.text import canonical, terms

_log = logging.getLogger("sessiond.search")

LOCK_SEARCHED = SEARCH["lock_searched"].text
UNSEARCH_EVENTS = SEARCH["unsearch_events"].text
UNSEARCH_NAMES = SEARCH["unsearch_names"].text
UNSEARCH_SESSIONS = SEARCH["unsearch_sessions"].text
TAKE_LEASE = SEARCH["take_lease"].text
GIVE_LEASE = SEARCH["give_lease"].text
LEASE = SEARCH["lease"].text
BEHIND = SEARCH["feeds_behind"].text
ADD_FEED = SEARCH["add_feed"].text
ADD_FEEDS = SEARCH["add_feeds"].text
REBUILDING = SEARCH["feeds_rebuilding"].text
LOCK_FEED = SEARCH["lock_feed"].text
AHEAD = SEARCH["feed_ahead"].text
EVENTS_TO_INDEX = SEARCH["events_to_index"].text
SESSIONS_TO_INDEX = SEARCH["sessions_to_index"].text
WRITE_INDEX = SEARCH["write_index"].text
REPLACE_FEED = SEARCH["replace_feed"].text
COMPLETE_FEED = SEARCH["complete_feed"].text
LOCK_HOMES = SEARCH["lock_homes"].text
REMOVE_DROPPED = SEARCH["remove_dropped"].text

EVENTS: Final = 250
EVENT_BYTES: Final = 4 * 1024 * 1024
"""Most that one transaction reads of a feed."""
SECONDS: Final = 30.0
"""Longest time for one transaction. It may be long, because no caller waits for it."""
_TURN: Final = 8
_TURN_BYTES: Final = 32 * 1024
"""Events, or bytes of them, that are worked on before the loop has a turn."""
_SESSIONS_AT_ONCE: Final = 8
_REMOVED_AT_ONCE: Final = 2000
_ANSWERS: Final = 1
_BUILT: Final = 2
"""States of search_feeds."""

_UNCHANGED: Final = b"\x00"
_DELETED: Final = EventType.EVENT_TYPE_SESSION_DELETED
_REDACTED: Final = EventType.EVENT_TYPE_MESSAGE_REDACTED
_NAME: Final = encoding.tag(Event.SESSION_NAME_FIELD_NUMBER)


async def unsearch(connection: asyncpg.Connection, writes: Writes) -> None:
    """Removes from the index what a batch of writes removes, in its transaction."""
    events = [(*k, message.seq) for part in (writes.removals, writes.stored_redactions()) for k, message in part]
    names = sorted({title.key for title in writes.titles})
    sessions = [(*gone.key, gone.version) for gone in writes.deletions]
    keys = sorted({(one[0], one[1]) for one in (*events, *names, *sessions)})
    if not keys:
        return
    await connection.fetch(LOCK_SEARCHED, *columns(keys, 2))
    if events:
        await connection.fetch(UNSEARCH_EVENTS, *columns(events, 3), 0)
    if names:
        await connection.fetch(UNSEARCH_NAMES, *columns(names, 2))
    if sessions:
        await connection.fetch(UNSEARCH_SESSIONS, *columns(sessions, 3), 0)


class PostgresSearchUpkeep:
    """Implements `search.indexer.IndexUpkeep`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def take_lease(self, holder: str, seconds: float) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            return bool(await connection.fetch(TAKE_LEASE, holder, seconds))

        return await self._transactions.run(work)

    async def give_lease(self, holder: str) -> None:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(GIVE_LEASE, holder)

        await self._transactions.run(work)

    async def behind(self) -> Sequence[Behind]:
        found = await self._transactions.fetch(BEHIND)
        without = sorted({tenant_id for tenant_id, feed_id in found if feed_id is None})
        if not without:
            return [Behind(tenant_id, feed_id) for tenant_id, feed_id in found]

        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(LOCK_HOMES)
            await connection.executemany(ADD_FEED, [(tenant_id, _ANSWERS) for tenant_id in without])

        await self._transactions.run(work)
        return [Behind(*row) for row in await self._transactions.fetch(BEHIND) if row[1] is not None]

    async def advance(self, feed_id: int) -> Advanced:
        async def work(connection: asyncpg.Connection) -> Advanced:
            return await _advance(connection, feed_id)

        return await self._transactions.run(work, seconds=SECONDS)

    async def remove_dropped(self) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            return bool(await connection.fetchval(REMOVE_DROPPED, _REMOVED_AT_ONCE, ""))

        return await self._transactions.run(work, seconds=SECONDS)

    async def is_kept(self) -> bool:
        return bool((await self._transactions.fetch(LEASE))[0][0])

    async def begin_rebuild(self, tenant_id: str) -> None:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(ADD_FEEDS, tenant_id)

        await self._transactions.run(work)

    async def rebuilding(self, tenant_id: str) -> tuple[int, int, int]:
        rows = await self._transactions.fetch(REBUILDING, tenant_id)
        left, done, whole_size = rows[0]
        return left, done, whole_size


@dataclass(slots=True)
class _Indexed:
    """What the index has, or will have, of a session."""

    user_id: str
    lives: bool
    number: int | None
    digest: bytes
    version: int = 0
    touched: bool = False
    is_new: bool = False
    reread: bool = False
    """Whether its name, summary or labels may have changed."""
    keys: list[int] | None = None
    """New ones; None: as they are."""


@dataclass(slots=True)
class _Page:
    """What one transaction writes."""

    feed_id: int
    tenant_id: str
    sessions: int
    entries: int
    indexed: dict[str, _Indexed]
    rows: list[tuple[str, int, int, int, int, list[int]]] = field(default_factory=list)
    """(session, seq, number, create time, role, keys)."""
    removed_events: list[tuple[str, str, int]] = field(default_factory=list)
    removed_sessions: list[tuple[str, str, int]] = field(default_factory=list)
    times: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def note(self, kind: int, number: int, time_us: int) -> int:
        """Notes the time of a new number. Returns the salt of its keys."""
        bucket = number >> BUCKET_BITS
        first, last = self.times.get((kind, bucket), (time_us, time_us))
        self.times[kind, bucket] = min(first, time_us), max(last, time_us)
        return salt(self.feed_id, kind, bucket)


async def _advance(connection: asyncpg.Connection, feed_id: int) -> Advanced:
    found = await connection.fetch(LOCK_FEED, feed_id)
    if not found:
        return Advanced(0, complete=True)  # another server reads it
    tenant_id, state, commit_xid, session_id, seq, sessions, entries, was_complete = found[0]
    ahead = await connection.fetch(AHEAD, tenant_id, commit_xid, session_id, seq, EVENTS, EVENT_BYTES)
    complete = not ahead or ahead[0]["found"] == len(ahead)
    if ahead:
        ids = sorted({row["session_id"] for row in ahead})
        await connection.fetch(LOCK_SEARCHED, [tenant_id] * len(ids), ids)
        rows = await connection.fetch(SESSIONS_TO_INDEX, tenant_id, ids, feed_id)
        indexed = {row[0]: _Indexed(row[1], row[2], row[3], row[5] or b"", row[4] or 0) for row in rows}
        page = _Page(feed_id, tenant_id, sessions, entries, indexed)
        places = [(row["session_id"], row["seq"]) for row in ahead]
        await _read(connection, page, places)
        last = ahead[-1]
        await _write(connection, page, (last["commit_xid"], last["session_id"], last["seq"]))
    if complete and state == _BUILT:
        await connection.fetch(REPLACE_FEED, tenant_id)
    if complete and not was_complete:
        await connection.execute(COMPLETE_FEED, feed_id)
    _ = failpoints.armed and await failpoints.reach("indexed")
    return Advanced(len(ahead), complete=complete)


async def _read(connection: asyncpg.Connection, page: _Page, places: Sequence[tuple[str, int]]) -> None:
    """Reads the events at these places, and adds what they bring to the page."""
    count = size = 0
    for row in await connection.fetch(EVENTS_TO_INDEX, page.tenant_id, *columns(places, 2)):
        session_id, seq = places[row["place"] - 1]
        session = page.indexed.get(session_id)
        if session is None:
            continue
        count, size = count + 1, size + len(row["body"]) + len(row["content"] or b"")
        if count >= _TURN or size >= _TURN_BYTES:
            count = size = 0
            await asyncio.sleep(0)
        if row["type"] == _DELETED:
            page.removed_sessions.append((page.tenant_id, session_id, seq))
            session.number, session.digest, session.keys, session.touched = None, b"", None, False
        elif session.lives:
            try:
                _add(page, session_id, session, seq, row)
            except DecodeError:
                _log.error("event %d of a session cannot be parsed, and is not searched; sessiond show names it", seq)
    await _reread(connection, page)


def _add(page: _Page, session_id: str, session: _Indexed, seq: int, row: Any) -> None:
    if session.number is None:
        session.number, session.is_new = page.sessions, True
        page.note(SESSIONS, session.number, row["create_time"])
        page.sessions += 1
    session.touched = True
    session.version = max(session.version, seq)
    kind = row["type"]
    if 0 < kind < encoding.FIRST_MESSAGE_EVENT:
        core = Session.FromString(row["body"])
        if row["changes_summary"] or _digest(core) != session.digest:
            session.reread = True
        return
    if _NAME in row["head"] and Event.FromString(row["head"]).HasField("session_name"):
        session.reread = True
    if kind == _REDACTED:
        page.removed_events.append((page.tenant_id, session_id, Message.FromString(row["body"]).seq))
    elif kind == encoding.MESSAGES_DELETED:
        gone = DeletedMessages.FromString(row["body"]).seqs
        page.removed_events += ((page.tenant_id, session_id, one) for one in gone)
    elif kind in texts.SEARCHED:
        if kind == texts.APPENDED:
            message = Message.FromString(row["body"])
            found, role = texts.of_message(message), int(message.role)
        else:
            call = ToolCall.FromString(row["body"] + (row["content"] or b""))
            found, role = texts.of_tool_call(kind, call), TOOL
        number = page.entries
        of_row = (of_user(session.user_id), of_role(role), of_session(session_id))
        if keys := _keys(found, of_row):
            page.entries += 1
            made = salted(keys, page.note(ENTRIES, number, row["create_time"]))
            page.rows.append((session_id, seq, number, row["create_time"], role, made))


def _keys(found: Iterable[Text], of_row: Iterable[str]) -> list[int]:
    """Keys of a row; none if its texts have no terms."""
    known = terms(canonical(text.text) for text in texts.searched(found))
    if not known:
        return []
    known.update(of_row)
    return [*{key(term) for term in known}]


async def _reread(connection: asyncpg.Connection, page: _Page) -> None:
    """Reads the names, summaries and labels of the sessions of which they may have changed."""
    ids = [session_id for session_id, one in page.indexed.items() if one.reread and one.number is not None]
    for start in range(0, len(ids), _SESSIONS_AT_ONCE):
        part = ids[start : start + _SESSIONS_AT_ONCE]
        for place, _, core, chain in await connection.fetch(GET_SESSIONS, page.tenant_id, part, ""):
            one = page.indexed[part[place - 1]]
            try:
                session = Session.FromString(core + whole(chain))
            except DecodeError:
                _log.error("a session cannot be parsed, and is not searched; sessiond show names it")
                continue
            assert one.number is not None
            number = salt(page.feed_id, SESSIONS, one.number >> BUCKET_BITS)
            one.keys = salted(_keys(texts.of_session(session), (of_user(one.user_id),)), number)
            one.digest = _digest(session)
            await asyncio.sleep(0)


def _digest(session: Session) -> bytes:
    """Of the name and the labels; empty if there are none."""
    if not session.name and not session.labels:
        return b""
    told = json.dumps([session.name, sorted(session.labels.items())])
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=8).digest()


async def _write(connection: asyncpg.Connection, page: _Page, place: tuple[int, str, int]) -> None:
    if page.removed_sessions:
        await connection.fetch(UNSEARCH_SESSIONS, *columns(page.removed_sessions, 3), page.feed_id)
    keys: list[int] = []

    def added(new: Sequence[int]) -> tuple[int, int]:
        first = len(keys) + 1
        keys.extend(new)
        return first, len(keys)

    sessions = []
    numbers: dict[str, int] = {}
    for session_id, one in page.indexed.items():
        if one.number is None:
            continue
        numbers[session_id] = one.number
        if one.touched:
            digest = one.digest if one.keys is not None else b"" if one.is_new else _UNCHANGED
            sessions.append((session_id, one.number, one.version, one.user_id, digest, *added(one.keys or ())))
    entries = [
        (numbers[session_id], seq, number, time_us, role, *added(made))
        for session_id, seq, number, time_us, role, made in page.rows
        if session_id in numbers
    ]
    buckets = ((kind, bucket, first, last) for (kind, bucket), (first, last) in page.times.items())
    await connection.execute(
        WRITE_INDEX,
        page.feed_id,
        keys,
        *columns(sessions, 7),
        *columns(entries, 7),
        *columns(buckets, 4),
        *place,
        page.sessions,
        page.entries,
    )
    if page.removed_events:
        await connection.fetch(UNSEARCH_EVENTS, *columns(page.removed_events, 3), page.feed_id)
