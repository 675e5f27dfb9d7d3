"""The memory store's reads for streams: ends of logs, pages of logs, and feeds."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain import encoding
from sessiond_server.domain.log import XIDS, FeedEntry, FeedPlace, LogEntry
from sessiond_server.domain.rows import EventRow, Head, IndexRow, Key, Writes
from sessiond_server.errors import SessionNotFound
from sessiond_server.memory.pages import fitting_by
from sessiond_server.store import anchors
from sessiond_server.store.anchors import EventLookup
from sessiond_server.store.log_reads import FeedPage, LogHead, LogHeads, LogPage

DELETED: Final = EventType.EVENT_TYPE_SESSION_DELETED
INCARNATION: Final = "memory"
"""The incarnation is constant: the store and its watchers end with the same process."""


class Log(Protocol):
    """One session of the store."""

    @property
    def head(self) -> Head: ...

    @property
    def index(self) -> IndexRow | None: ...

    @property
    def events(self) -> Mapping[int, EventRow]: ...


class Logs:
    """All logs of a store, and the order in which their events were committed."""

    def __init__(self, logs: Mapping[Key, Log]) -> None:
        self._logs = logs
        self._commits = 0
        self._feeds: dict[str, list[FeedPlace]] = {}
        """By tenant, ascending."""

    def commit(self, writes: Writes) -> None:
        """Notes the writes of one transaction."""
        self._commits += 1
        for (tenant_id, session_id), seq in sorted((event.key, event.seq) for event in writes.events):
            self._feeds.setdefault(tenant_id, []).append(FeedPlace(self._commits, session_id, seq))
        for gone in writes.deletions:
            self.forget(gone.key, gone.version)

    def places(self, tenant_id: str) -> Sequence[FeedPlace]:
        """The places of the tenant's events, ascending."""
        return self._feeds.get(tenant_id, ())

    def ends(self) -> Mapping[str, FeedPlace]:
        """The place of the last event of each tenant."""
        return {tenant_id: places[-1] for tenant_id, places in self._feeds.items() if places}

    @property
    def commits(self) -> int:
        """How many transactions there were."""
        return self._commits

    def forget(self, key: Key, below: int | None = None) -> None:
        """Notes that the session's events below a seq, or all of them, were removed."""
        tenant_id, session_id = key
        self._feeds[tenant_id] = [
            place
            for place in self._feeds[tenant_id]
            if place.session_id != session_id or (below is not None and place.seq >= below)
        ]

    def heads(self, keys: Sequence[Key], now_us: int) -> LogHeads:
        logs = map(self._logs.get, keys)
        heads = [None if log is None else LogHead(log.head.version, log.head.deleted) for log in logs]
        return LogHeads(heads, INCARNATION, now_us)

    def page(self, key: Key, after_seq: int, limit: int) -> LogPage:
        log = self._logs.get(key)
        if log is None:
            raise SessionNotFound(key[1])
        head, events = log.head, log.events
        oldest = next(iter(events.values()))
        # A deleted session whose id another one has has left its final event.
        begin = head.version if head.deleted else oldest.seq + (oldest.type == DELETED)
        first = max(begin, after_seq + 1)
        seqs = range(first, min(head.version, first + limit - 1) + 1)
        rows = [events[seq] for seq in seqs]
        before = events.get(after_seq)
        return LogPage(
            LogHead(head.version, head.deleted),
            head.user_id,
            None if before is None else _entry(before),
            [_entry(row) for row in fitting_by(_size, rows)],
        )

    def feed(self, tenant_id: str, after: FeedPlace, limit: int, now_us: int) -> FeedPage:
        places = self._feeds.get(tenant_id, [])
        start = bisect_right(places, after)
        chosen = places[start : start + limit]
        rows = [self._logs[(tenant_id, place.session_id)].events[place.seq] for place in chosen]
        fitting = fitting_by(_size, rows)
        entries = [self._feed_entry(place, row) for place, row in zip(chosen, fitting, strict=False)]
        complete = start + len(entries) == len(places)
        return FeedPage(entries, complete, pending=False, incarnation=INCARNATION, now_us=now_us)

    def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        found: list[FeedPlace] = []
        for place in reversed(self._feeds.get(tenant_id, [])):
            if not found or place.commit_xid < found[-1].commit_xid:
                if len(found) == anchors.MOST:
                    break
                found.append(place)
        return [
            (place, self._logs[(tenant_id, place.session_id)].events[place.seq].event_id) for place in reversed(found)
        ]

    def find_lost(
        self, tenant_id: str, asked: Iterable[tuple[FeedPlace, str]], now_us: int, tombstone_retention_us: int
    ) -> FeedPlace | None:
        for place, event_id in asked:
            lookup = _look_up(self._logs.get((tenant_id, place.session_id)), place.seq)
            if anchors.is_lost(
                place.seq, event_id, lookup, now_us=now_us, tombstone_retention_us=tombstone_retention_us
            ):
                return place
        return None

    def _feed_entry(self, place: FeedPlace, row: EventRow) -> FeedEntry:
        log = self._logs[row.key]
        index = log.index
        agent_id, labels = ("", {}) if index is None else (index.agent_id, index.labels)
        return FeedEntry(place, _entry(row), log.head.user_id, agent_id, labels, place.commit_xid % XIDS)


def _entry(row: EventRow) -> LogEntry:
    data = encoding.event(row.type, row.head, row.body, row.content)
    return LogEntry(row.seq, row.event_id, row.previous_event_id, row.type, data)


def _look_up(log: Log | None, seq: int) -> EventLookup:
    if log is None:
        return EventLookup(None, False, "", "", "", 0)
    head, events = log.head, log.events
    here, first = events.get(seq), next(iter(events.values()))
    return EventLookup(
        head.version,
        head.deleted,
        "" if here is None else here.event_id,
        events[head.version].previous_event_id if head.deleted else "",
        first.event_id,
        first.seq,
    )


def _size(row: EventRow) -> int:
    return len(row.head) + len(row.body) + len(row.content or b"")
