"""A database for simulations of the hub: the truth, its order of commits, transactions that take their time, failovers
that lose the newest commits. It remembers what it was, so that anything that a stream says may be compared with it.
"""

import copy
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.domain.rows import EventRow, Key
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.commits import Applied
from sessiond_server.store.log_reads import FeedPage, LogHeads, LogPage
from tests.support.caller import PATCHING


@dataclass
class Committed:
    """An event as a history has it."""

    key: Key
    seq: int
    event_id: str
    place: FeedPlace
    time_us: int
    writer: int


@dataclass
class History:
    """What a database holds, and what it ever held on the way there."""

    logs: dict[Key, Any] = field(default_factory=dict)
    next_xid: int = 1
    events: dict[str, Committed] = field(default_factory=dict)
    """Every event ever committed, those of deleted sessions included; in order of commits."""


class Database:
    """The truth. `read` methods are those of a Store; all answer at once."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._start_us = time.time_ns() // 1000
        """Event ids tell the time, and are made by the real clock."""
        self._last_us = 0
        self.incarnation = 1
        self.history = History()
        self.store = self._opened()
        self.open: set[int] = set()
        """Transactions that have begun to write and not ended."""
        self.heads: dict[Key, list[tuple[int, int, str]]] = {}
        """(time, seq, event_id) of every end that each log had, in order of time; over all histories."""
        self.resets: list[int] = []
        """When a history was replaced."""
        self.data: dict[str, set[bytes]] = {}
        """Every form that an event ever had."""
        self.current: dict[str, bytes] = {}
        """The latest form."""
        self.known: dict[str, tuple[Key, int]] = {}
        """The session and the seq of every event there ever was."""
        self.bases: dict[Key, int] = {}
        """Highest version at which a session was ever deleted; over all histories."""
        self.gone: dict[Key, list[int]] = {}
        """When a session with this id was deleted, or taken away by a failover."""
        self.redacted: dict[str, str] = {}
        """event_id of a redacted or deleted message's event -> event_id of the redaction or deletion."""

    def clock(self) -> int:
        """Never the same twice."""
        self._last_us = max(self._last_us + 1, self._start_us + round(self._now() * 1_000_000))
        return self._last_us

    def begin(self) -> int:
        """A transaction gets its id, and holds back what comes after it until it ends."""
        xid = self.history.next_xid
        self.history.next_xid += 1
        self.open.add(xid)
        return xid

    def roll_back(self, xid: int) -> None:
        self.open.discard(xid)

    def commit(self, xid: int, commands: Sequence[c.Command]) -> Applied:
        """Decides, writes and commits, in one moment."""
        applied = self.store._apply(commands)
        time_us, history = self.clock(), self.history
        for gone in applied.writes.deletions:
            self.bases[gone.key] = max(gone.version, self.bases.get(gone.key, 0))
            self.gone.setdefault(gone.key, []).append(time_us)
        for row in applied.writes.events:
            last = max((e.place.commit_xid for e in history.events.values() if e.key == row.key), default=0)
            place = FeedPlace(max(xid, last), row.key[1], row.seq)
            history.events[row.event_id] = Committed(row.key, row.seq, row.event_id, place, time_us, xid)
            self._keep(row)
        for key, message in (*applied.writes.removals, *applied.writes.redactions):
            row = self.history.logs[key].events.get(message.seq)
            if row is not None:
                self._keep(row)
                by = [e for e in applied.writes.events if e.key == key][-1]
                self.redacted[row.event_id] = by.event_id
        for head in applied.writes.heads:
            event_id = [e.event_id for e in applied.writes.events if e.key == head.key][-1]
            self.heads.setdefault(head.key, []).append((time_us, head.head.version, event_id))
        self.open.discard(xid)
        return applied

    def snapshot(self) -> History:
        """What a standby has by now."""
        return copy.deepcopy(self.history)

    def restart(self) -> None:
        """Everything under way is undone, nothing committed is lost."""
        self.incarnation += 1
        self.open.clear()

    def fail_over(self, standby: History) -> set[str]:
        """A standby takes over, with what it has; the ids of the events that are lost."""
        lost = set(self.history.events) - set(standby.events)
        self.history = copy.deepcopy(standby)
        self.store = self._opened()
        self.restart()
        time_us = self.clock()
        self.resets.append(time_us)
        self.redacted = {event_id: by for event_id, by in self.redacted.items() if by in standby.events}
        for key, log in self.history.logs.items():
            for row in log.events.values():
                self._keep(row)
            version = log.head.version
            self.heads.setdefault(key, []).append((time_us, version, log.events[version].event_id))
        for key, ends in self.heads.items():
            if key not in self.history.logs:
                ends.append((time_us, 0, ""))
                self.gone.setdefault(key, []).append(time_us)
        return lost

    def end_at(self, key: Key, time_us: int) -> tuple[int, str]:
        """(seq, event_id) of the end of the log at that time."""
        ends = self.heads.get(key, [])
        at = bisect_right(ends, time_us, key=lambda end: end[0])
        return ends[at - 1][1:] if at else (0, "")

    def session(self, key: Key) -> Session | None:
        log = self.history.logs.get(key)
        if log is None or log.head.deleted:
            return None
        snapshot = log.snapshot(content=True)
        return Session.FromString(snapshot.core + snapshot.content)

    def was_gone(self, key: Key, since_us: int) -> bool:
        """Whether the session did not exist at some time since then."""
        return self.session(key) is None or any(time_us >= since_us for time_us in self.gone.get(key, ()))

    def highest_base(self, key: Key) -> int:
        """A position up to there may be one of a session that was deleted."""
        return self.bases.get(key, 0)

    def is_removed(self, event_id: str) -> bool:
        """Whether the event may have been removed with its session, as far as can be known."""
        key, seq = self.known[event_id]
        log = self.history.logs.get(key)
        if log is None:
            return False
        return bool(log.head.deleted) or seq < next(iter(log.events.values())).seq

    async def get_session(self, *args: Any, **more: Any) -> c.SessionSnapshot:
        return await self.store.get_session(*args, **more)

    async def get_message(self, scope: c.Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        return await self.store.get_message(scope, session_id, message_id)

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        heads = await self.store.log_heads(keys)
        return replace(heads, incarnation=str(self.incarnation), now_us=self.clock(), running=frozenset(self.open))

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        return await self.store.read_log(key, after_seq=after_seq, limit=limit)

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        barrier = min(self.open, default=self.history.next_xid)
        stored = sorted(
            (event for event in self.history.events.values() if event.key[0] == tenant_id and event.place > after),
            key=lambda event: event.place,
        )
        rows = [(event.place, row) for event in stored if (row := self._row(event)) is not None]
        ready = [(place, row) for place, row in rows if place.commit_xid < barrier]
        return FeedPage(
            [self._feed_entry(place, row) for place, row in ready[:limit]],
            complete=len(ready) <= limit,
            pending=len(ready) < len(rows),
            incarnation=str(self.incarnation),
            now_us=self.clock(),
            running=frozenset(self.open),
        )

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        barrier = min(self.open, default=self.history.next_xid)
        last: dict[int, tuple[FeedPlace, str]] = {}
        for event in sorted(self.history.events.values(), key=lambda event: event.place):
            if event.key[0] == tenant_id and event.place.commit_xid < barrier and self._row(event) is not None:
                last[event.place.commit_xid] = (event.place, event.event_id)
        return list(last.values())[-8:]

    async def find_lost(self, tenant_id: str, anchors: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        return await self.store.find_lost(tenant_id, anchors)

    def _opened(self) -> MemoryStore:
        store = MemoryStore(clock=self.clock, policy=PATCHING)
        # The parts of the store share its dictionary, so that is filled, not replaced.
        store._logs.update(self.history.logs)
        self.history.logs = store._logs
        for event in self.history.events.values():
            if self._row(event) is not None:
                store._streams._feeds.setdefault(event.key[0], []).append(event.place)
        return store

    def _row(self, event: Committed) -> EventRow | None:
        """None once its session was deleted."""
        log = self.history.logs.get(event.key)
        row = None if log is None else log.events.get(event.seq)
        return row if row is not None and row.event_id == event.event_id else None

    def _keep(self, row: EventRow) -> None:
        data = encoding.event(row.type, row.head, row.body, row.content)
        self.current[row.event_id] = data
        self.known[row.event_id] = (row.key, row.seq)
        self.data.setdefault(row.event_id, set()).add(data)

    def _feed_entry(self, place: FeedPlace, row: EventRow) -> FeedEntry:
        data = encoding.event(row.type, row.head, row.body, row.content)
        entry = LogEntry(row.seq, row.event_id, row.previous_event_id, row.type, data)
        return FeedEntry(
            place, entry, self.history.logs[row.key].head.user_id, "", {}, self.history.events[row.event_id].writer
        )
