"""Reads candidates of searches with the statements of search.sql and search_list.sql."""

import asyncio
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.sessions.content import whole
from sessiond_server.errors import DeadlinePassed, InvalidPageToken, SessionNotFound
from sessiond_server.postgres import filters
from sessiond_server.postgres.read import GET_SESSIONS
from sessiond_server.postgres.statements import LIST, SEARCH, SEARCH_LIST, numbered
from sessiond_server.postgres.transactions import TookTooLong, Transactions
from sessiond_server.search.contract import (
    Candidates,
    EventCandidate,
    Place,
    SessionCandidate,
    Where,
)
from sessiond_server.search.query import Query, Term, key
from sessiond_server.store.session_reads import PAGE_BYTES

FEED = SEARCH["search_feed"].text
BUCKETS = SEARCH["search_buckets"].text
SEEN = SEARCH["search_seen"].text

BUCKET_BITS: Final = 14
SESSIONS: Final = 1
ENTRIES: Final = 2
"""Kinds of numbers."""
MOST_BUCKETS: Final = 64
"""Buckets that one statement looks into: a million rows."""
STATEMENT_SECONDS: Final = 2.0
"""Longest time of one statement. One that takes longer is tried again with fewer buckets: the newest eighth of them."""
_MOST_ANY: Final = 4
"""Alternatives of a query that the index looks for; more are only compared with the texts."""
_SESSIONS_AT_ONCE: Final = 8
"""Sessions whose contents are read at a time."""
_POLL_SECONDS: Final = 0.05

_FRAGMENT = re.compile(r"\{([a-z_]+)\}")


@lru_cache(maxsize=4096)
def salt(feed_id: int, kind: int, bucket: int) -> int:
    """The number that is XORed to all keys of a bucket, so that no two buckets share keys."""
    return zlib.crc32(f"{feed_id}/{kind}/{bucket}".encode()) - 2**31


def salted(keys: Iterable[int], number: int) -> list[int]:
    """XOR of signed numbers of 32 bits is one of them."""
    return [one ^ number for one in keys]


def of_user(user_id: str) -> str:
    return f"\x02user:{user_id}"


def of_role(role: int) -> str:
    return f"\x02role:{role}"


def of_session(session_id: str) -> str:
    """The terms of a row beside those of its texts, which never begin like this."""
    return f"\x02session:{session_id}"


class PostgresSearch:
    """Implements `search.contract.SearchIndex`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self.news = asyncio.Event()
        """Set when a caller waits for the index."""

    async def message_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[EventCandidate]:
        feed = await self._feed(scope, ENTRIES, before)
        buckets, more = await self._buckets(feed, ENTRIES, where)
        if not buckets:
            return Candidates((), None, feed.edge, feed.complete)
        rows, searched = await self._found("entries", scope, query, where, feed, ENTRIES, buckets, limit)
        more = more or len(searched) < len(buckets)
        items = [
            EventCandidate(
                feed.place(row["number"]),
                row["session_id"],
                row["seq"],
                row["type"],
                row["create_time"],
                row["body"] + (row["content"] or b""),
            )
            for row in rows
            if row["type"] is not None
        ]
        if rows and rows[0]["found"] > len(rows):
            following: Place | None = feed.place(rows[-1]["number"])
        else:
            following = feed.below(searched) if more else None
        return Candidates(items, following, feed.edge, feed.complete)

    async def session_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[SessionCandidate]:
        feed = await self._feed(scope, SESSIONS, before)
        buckets, more = await self._buckets(feed, SESSIONS, Where())
        if not buckets:
            return Candidates((), None, feed.edge, feed.complete)
        found, searched = await self._found("sessions", scope, query, where, feed, SESSIONS, buckets, limit)
        more = more or len(searched) < len(buckets)
        items: list[SessionCandidate] = []
        size = looked = 0
        while looked < min(len(found), limit) and size < PAGE_BYTES:
            part = found[looked : min(looked + _SESSIONS_AT_ONCE, limit)]
            looked += len(part)
            rows = await self._transactions.fetch(
                GET_SESSIONS, scope.tenant_id, [row["session_id"] for row in part], scope.user_id
            )
            for place, version, core, chain in rows:
                snapshot = SessionSnapshot(version, core, whole(chain))
                size += len(snapshot.core) + len(snapshot.content)
                items.append(SessionCandidate(feed.place(part[place - 1]["number"]), snapshot))
        following = feed.place(found[looked - 1]["number"]) if looked < len(found) else None
        return Candidates(items, following or (feed.below(searched) if more else None), feed.edge, feed.complete)

    async def wait_until_seen(self, scope: Scope, session_id: str, version: int, seconds: float) -> int:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            rows = await self._transactions.fetch(SEEN, scope.tenant_id, session_id, scope.user_id)
            if not rows:
                raise SessionNotFound(session_id)
            own, seen = rows[0]
            if seen >= version or own < version or loop.time() >= until:
                return int(min(own, seen))
            self.news.set()
            await asyncio.sleep(_POLL_SECONDS)

    async def _feed(self, scope: Scope, kind: int, before: Place | None) -> "_Feed":
        """The tenant's index, and where to look in it. Raises InvalidPageToken for a place of another one."""
        (row,) = await self._transactions.fetch(FEED, scope.tenant_id)
        if row["feed_id"] is None:
            if before is not None:
                raise InvalidPageToken
            return _Feed(0, 0, 0, (0, 0), row["complete"])
        edge = (row["generation"], row["sessions"] if kind == SESSIONS else row["entries"])
        number = edge[1] if before is None else before[1]
        if (before is not None and before[0] != edge[0]) or not isinstance(number, int):
            raise InvalidPageToken
        return _Feed(row["feed_id"], row["generation"], number, edge, row["complete"])

    async def _buckets(self, feed: "_Feed", kind: int, where: Where) -> tuple[list[int], bool]:
        """(the newest buckets in which candidates may be, whether there are more)."""
        if feed.before <= 0:
            return [], False
        newest = (feed.before - 1) >> BUCKET_BITS
        most = MOST_BUCKETS + 1
        rows = await self._transactions.fetch(BUCKETS, feed.id, kind, newest, where.from_us, where.until_us, most)
        buckets = [row[0] for row in rows[:MOST_BUCKETS]]
        return buckets, len(rows) > MOST_BUCKETS

    async def _found(
        self,
        template: str,
        scope: Scope,
        query: Query,
        where: Where,
        feed: "_Feed",
        kind: int,
        buckets: list[int],
        limit: int,
    ) -> tuple[Sequence[Any], list[int]]:
        """(rows, the buckets that were looked into). Raises DeadlinePassed if not even one bucket can be looked into
        within STATEMENT_SECONDS."""
        while True:
            text, parameters = _composed(template, scope, query, where, feed, kind, buckets, limit)
            try:
                return await self._transactions.fetch_within(STATEMENT_SECONDS, text, *parameters), buckets
            except TookTooLong:
                if len(buckets) == 1:
                    raise DeadlinePassed from None
                buckets = buckets[: max(1, len(buckets) // 8)]


@dataclass(frozen=True, slots=True)
class _Feed:
    """An index, and the number below which to look in it."""

    id: int
    generation: int
    before: int
    edge: Place
    complete: bool

    def place(self, number: int) -> Place:
        return self.generation, number

    def below(self, buckets: Sequence[int]) -> Place:
        """The place behind the last of the buckets."""
        return self.place(buckets[-1] << BUCKET_BITS)


def _composed(
    template: str,
    scope: Scope,
    query: Query,
    where: Where,
    feed: _Feed,
    kind: int,
    buckets: Sequence[int],
    limit: int,
) -> tuple[str, tuple[Any, ...]]:
    """A statement and its parameters. Values are always parameters, never part of the text."""
    conditions, values = filters.conditions(scope, where.sessions)
    values |= {"feed_id": feed.id, "buckets": buckets, "before": feed.before, "limit": limit, "page_bytes": PAGE_BYTES}
    salts = [salt(feed.id, kind, bucket) for bucket in buckets]
    wanted = []

    def add(name: str, fragment: str, terms: Iterable[str]) -> None:
        keys = sorted({key(term) for term in terms})
        values[name] = [one for number in salts for one in salted(keys, number)]
        values[name.replace("any", "any_size") if name != "all" else "all_size"] = len(keys)
        wanted.append(fragment)

    alternatives = [each for each in query.required if len(each) > 1][:_MOST_ANY]
    needed = {term for each in query.required if len(each) == 1 for term in each[0].indexed()}
    needed.update(_of_row(scope, where, kind))
    if needed:
        add("all", SEARCH_LIST["keys_all"].text, needed)
    for number, each in enumerate(alternatives):
        fragment = SEARCH_LIST["keys_any"].text.replace("{number}", "abcd"[number])
        add(f"any_{'abcd'[number]}", fragment, map(_telling, each))
    if kind == ENTRIES:
        for name in ("roles", "from_us", "until_us"):
            value = getattr(where, name)
            if value is not None and value != frozenset():
                values[name] = list(value) if name == "roles" else value
                wanted.append(SEARCH_LIST[name].text)
    fragments = {
        "keys": "\n      and ".join(wanted),
        "source": filters.source(conditions),
        "conditions": "\n    and ".join(LIST[name].text for name in conditions),
    }
    text = _FRAGMENT.sub(lambda found: fragments[found[1]], SEARCH_LIST[template].text)
    text, names = numbered(text)
    return text, tuple(values[name] for name in names)


def _of_row(scope: Scope, where: Where, kind: int) -> Iterator[str]:
    """Terms that all rows have which are looked for, besides those of their texts."""
    if user_id := scope.user_id or where.sessions.user_id:
        yield of_user(user_id)
    if kind == ENTRIES:
        if where.session_id:
            yield of_session(where.session_id)
        if len(where.roles) == 1:
            yield of_role(*where.roles)


def _telling(term: Term) -> str:
    """One of the terms that the index has where this one occurs: the longest, which is likely the rarest."""
    return max(term.indexed(), key=lambda each: (len(each), each))
