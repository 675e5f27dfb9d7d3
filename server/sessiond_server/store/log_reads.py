"""The contract for reads of logs and feeds, which go to the primary. Errors, times, bytes, cancelling as in
contract.py."""

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
    """Whether the session is a tombstone. Then only the final event, at `version`, is left of its log."""


@dataclass(frozen=True, slots=True)
class LogHeads:
    """The ends of many logs, and the incarnation of the database that was read."""

    heads: Sequence[LogHead | None]
    """One for each requested key, in order. None: the session never existed, or its tombstone has been removed."""
    incarnation: str
    """Changes when the database is restarted or another server takes over. With asynchronous replication, acknowledged
    writes may then be lost."""
    now_us: int
    running: frozenset[int] = frozenset()
    """As FeedPage.running."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of one session's log, from one snapshot of the database."""

    head: LogHead
    user_id: str
    before: LogEntry | None
    """The event at `after_seq`; None if there is none (after_seq 0, or the event was removed)."""
    entries: Sequence[LogEntry]
    """Events with seq > after_seq, ascending, without a gap. For a deleted session, only the final event."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A page of one tenant's feed."""

    entries: Sequence[FeedEntry]
    """Events in order of `place`, none missing."""
    complete: bool
    """Whether the page has all events that may be delivered now. Committed events behind a transaction that is still
    running may not be delivered yet; see `pending`."""
    pending: bool
    """Whether the tenant has committed events that must wait for another transaction to end. Read again soon."""
    incarnation: str
    """As LogHeads.incarnation."""
    now_us: int
    running: frozenset[int] = frozenset()
    """Ids, as FeedEntry.writer, of the transactions of all tenants that were running when the page was read, except
    those with higher ids than every transaction that had ended."""


class LogReads(Protocol):
    """Reads of sessions' logs and tenants' feeds."""

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        """The ends of these logs, tombstones included, read in one statement. At most 10 000 keys."""
        ...

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        """At most `limit` (1 to 1000) events with seq > after_seq, within PAGE_BYTES, and the event at `after_seq`.

        All from one snapshot; tombstones included. The caller must check `user_id`. Raises SessionNotFound if there is
        neither a session nor a tombstone.
        """
        ...

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        """At most `limit` (1 to 1000) events of the tenant behind `after`, within PAGE_BYTES, in commit order. Events
        of a session are in order of `seq`.

        No event that is committed later will ever stand before a returned one: events of a transaction are held back
        until it is older than every running one (`commit_xid < pg_snapshot_xmin(pg_current_snapshot())`).
        """
        ...

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        """(place, event id) of the last event of each of the tenant's last transactions, at most 8, ascending.

        Every event that is committed after the call stands behind the last of them; events that are still held back
        count as committed later. Empty if the tenant has no events.
        """
        ...

    async def find_lost(self, tenant_id: str, anchors: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        """The first of these events that the database has lost; None if it has lost none.

        An event whose session was deleted later is not lost. The tombstone's version shows that; once the tombstone may
        be gone too, the age of the event id, a UUIDv7, decides.
        """
        ...
