"""Reads logs and feeds with the statements of log.sql. Raises StoreUnavailable if a standby answered."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sessiond.v1.event_pb2 import Event
from sessiond_server.domain import encoding
from sessiond_server.domain.log import XIDS, FeedEntry, FeedPlace, LogEntry, inherited
from sessiond_server.domain.rows import Key
from sessiond_server.errors import SessionNotFound, StoreUnavailable
from sessiond_server.postgres.statements import FORKS, LOG
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store import anchors
from sessiond_server.store.anchors import EventLookup
from sessiond_server.store.log_reads import FeedPage, LogHead, LogHeads, LogPage
from sessiond_server.store.session_reads import PAGE_BYTES

HEADS = LOG["log_heads"].text
PAGE = LOG["read_log"].text
PAGE_OF_FORK = FORKS["read_log_of_fork"].text
FEED = LOG["read_feed"].text
FEED_END = LOG["feed_end"].text
TRACE = LOG["trace"].text

Row = Any
"""An asyncpg.Record: values by place or by name."""


class RestoredFromDump(Exception):
    """Events have transaction ids that this cluster has not assigned yet: they were written in another cluster."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(
            f"events of tenant {tenant_id!r} have transaction ids of the future: the database was restored from a "
            "dump while it was in use. Stop every server and start them again: docs/operations.md"
        )


async def heads(transactions: Transactions, keys: Sequence[Key]) -> LogHeads:
    """See Store.log_heads."""
    tenants, sessions = [key[0] for key in keys], [key[1] for key in keys]
    rows = await transactions.fetch(HEADS, tenants, sessions)
    server = _server(rows)
    found: list[LogHead | None] = [None] * len(keys)
    for place, version, deleted, *_ in rows:
        if place:
            found[place - 1] = LogHead(version, deleted)
    return LogHeads(found, _incarnation(server), server["read_time"], _running(server))


async def page(transactions: Transactions, key: Key, after_seq: int, limit: int) -> LogPage:
    """See Store.read_log."""
    rows = await transactions.fetch(PAGE, *key, after_seq, limit, PAGE_BYTES)
    fork_seq = rows[0]["fork_seq"]
    if fork_seq is not None and after_seq <= fork_seq:
        rows = await transactions.fetch(PAGE_OF_FORK, *key, after_seq, limit, PAGE_BYTES)
        fork_seq = rows[0]["fork_seq"]
    standby, version, deleted, user_id, _, first_seq = rows[0][:6]
    if standby:
        raise StoreUnavailable
    if version is None:
        raise SessionNotFound(key[1])
    entries = [] if first_seq is None else [_entry(*row[5:]) for row in rows]
    if fork_seq is not None:
        entries = [inherited(entry, key[1]) if entry.seq <= fork_seq else entry for entry in entries]
    before = entries.pop(0) if entries and entries[0].seq == after_seq else None
    return LogPage(LogHead(version, deleted), user_id, before, entries)


async def feed(transactions: Transactions, tenant_id: str, after: FeedPlace, limit: int) -> FeedPage:
    """See Store.read_feed."""
    rows = await transactions.fetch(FEED, tenant_id, after.commit_xid, after.session_id, after.seq, limit, PAGE_BYTES)
    first = rows[0]
    if first["standby"]:
        raise StoreUnavailable
    if first["impossible"]:
        raise RestoredFromDump(tenant_id)
    empty = first["seq"] is None
    return FeedPage(
        [] if empty else [_feed_entry(row) for row in rows],
        complete=empty or len(rows) == first["found"],
        pending=bool(first["pending"]),
        incarnation=_incarnation(first),
        now_us=first["read_time"],
        running=_running(first),
    )


async def feed_end(transactions: Transactions, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
    """See Store.feed_end."""
    barrier, *ends = await transactions.fetch(FEED_END, tenant_id, anchors.MOST)
    if barrier["standby"]:
        raise StoreUnavailable
    if barrier["impossible"]:
        raise RestoredFromDump(tenant_id)
    return [
        (FeedPlace(commit_xid, session_id, seq), _event_id(head))
        for _, _, commit_xid, session_id, seq, head in ends[::-1]
    ]


async def find_lost(
    transactions: Transactions,
    tenant_id: str,
    asked: Sequence[tuple[FeedPlace, str]],
    tombstone_retention: timedelta,
) -> FeedPlace | None:
    """See Store.find_lost."""
    places = [place for place, _ in asked]
    rows = await transactions.fetch(
        TRACE, tenant_id, [place.session_id for place in places], [place.seq for place in places]
    )
    server = _server(rows)
    lookups = [EventLookup(None, False, "", "", "", 0)] * len(asked)
    for place, version, deleted, here, final, first, first_seq, *_ in rows:
        if place:
            previous = Event.FromString(final).previous_event_id if deleted and final else ""
            lookups[place - 1] = EventLookup(
                version, deleted, _event_id(here), previous, _event_id(first), first_seq or 0
            )
    retention_us = tombstone_retention // timedelta(microseconds=1)
    for (place, event_id), lookup in zip(asked, lookups, strict=True):
        if anchors.is_lost(
            place.seq, event_id, lookup, now_us=server["read_time"], tombstone_retention_us=retention_us
        ):
            return place
    return None


def _server(rows: Sequence[Row]) -> Row:
    """The row that describes the server. Raises StoreUnavailable if it is a standby."""
    server = next(row for row in rows if row["place"] == 0)
    if server["standby"]:
        raise StoreUnavailable
    return server


def _incarnation(server: Row) -> str:
    """Identifies one lifetime of the primary by the server's start: a primary becomes a standby only by a restart."""
    return str(server["started"])


def _running(server: Row) -> frozenset[int]:
    return frozenset(xid % XIDS for xid in server["running"])


def _entry(seq: int, kind: int, head: bytes, body: bytes, content: bytes | None) -> LogEntry:
    ids = Event.FromString(head)
    return LogEntry(seq, ids.event_id, ids.previous_event_id, kind, encoding.event(kind, head, body, content))


def _feed_entry(row: Row) -> FeedEntry:
    place = FeedPlace(row["commit_xid"], row["session_id"], row["seq"])
    entry = _entry(row["seq"], row["type"], row["head"], row["body"], row["content"])
    labels = json.loads(row["labels"]) if row["labels"] else {}
    return FeedEntry(place, entry, row["user_id"], row["agent_id"] or "", labels, row["writer"] or 0)


def _event_id(head: bytes | None) -> str:
    return Event.FromString(head).event_id if head else ""
