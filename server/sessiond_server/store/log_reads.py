"""Reads of logs and feeds, always from the primary. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.domain.rows import Key


@dataclass(frozen=True, slots=True)
class LogHead:
    """The end of one session's log."""

    version: int
    deleted: bool
    """The session is a tombstone; its final event, at `version`, is all that is left of the log."""


@dataclass(frozen=True, slots=True)
class LogHeads:
    """The ends of many logs, and which database said so."""

    heads: Sequence[LogHead | None]
    """One for each key asked for, in order; None: there is no such session (never was, or its tombstone is gone)."""
    incarnation: str
    """Differs when the database has been restarted, or another one has taken over: what was acknowledged may be lost,
    where it replicates asynchronously."""
    now_us: int
    running: frozenset[int] = frozenset()
    """As in FeedPage."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of one session's log, for streams: of one snapshot of the database."""

    head: LogHead
    user_id: str
    before: LogEntry | None
    """The event at `after_seq`; None where there is none (after_seq 0, or removed)."""
    entries: Sequence[LogEntry]
    """seq > after_seq, ascending, without a gap; of a deleted session the final event alone."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A piece of one tenant's feed."""

    entries: Sequence[FeedEntry]
    """In order of `place`, none missing."""
    complete: bool
    """Everything that may be delivered by now has been: there was room left in the page. What is committed but stands
    behind a transaction that is still under way is not in it; see `pending`."""
    pending: bool
    """Events of the tenant have been committed that must wait for another transaction to end: look again soon."""
    incarnation: str
    """As in LogHeads."""
    now_us: int
    running: frozenset[int] = frozenset()
    """Transactions that were under way when the page was read, anyone's, as FeedEntry.writer; but those whose ids are
    higher than that of every transaction that had ended."""


class LogReads(Protocol):
    """The log of each session, and the feed of each tenant."""

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        """The ends of these logs, tombstones included, read from the primary in one statement. At most 10 000 keys."""
        ...

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        """At most `limit` (1 to 1000) events with seq > after_seq, obeying PAGE_BYTES, and the one at `after_seq`;
        tombstones too.

        Read from the primary; of one snapshot. The caller checks who may see it, by `user_id`. Raises SessionNotFound
        where there is neither session nor tombstone.
        """
        ...

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        """At most `limit` (1 to 1000) events of the tenant behind `after`, obeying PAGE_BYTES, in commit order; those
        of a session in order of `seq`.

        Nothing that is committed later will ever stand before an event in the answer: events of transactions that are
        not older than every one still under way are held back (`commit_xid < pg_snapshot_xmin(pg_current_snapshot())`).
        """
        ...

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        """(place, event id) of the last event of each of the tenant's last transactions, at most 8, ascending.

        Everything that is committed after the call stands behind the last of them. What is still held back counts as
        committed later. Empty: there is nothing yet.
        """
        ...

    async def find_lost(self, tenant_id: str, anchors: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        """The first of these events that the database has lost; None when it has lost none.

        An event is not lost when its session was deleted after it: the tombstone's version tells, and once the
        tombstone may be gone too, the age of the event id, a UUIDv7.
        """
        ...
