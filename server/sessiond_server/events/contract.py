"""The contract of the hub: streams of the events of one session or of one tenant.

A stream is a cursor into the events that the hub holds for its session or tenant; it has no queue of its own. It
belongs to one task. Cancelling `next` loses nothing: the cursor moves when `next` returns.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import SessionReads


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after one event of a session; (0, "") before the first event."""

    seq: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one session. Shared by all streams with the same cursor."""

    entries: Sequence[LogEntry]
    """At least one."""
    head_seq: int
    frames: dict[object, bytes] = field(default_factory=dict)
    """Cache for the gRPC layer: the encoded frames of this batch, by everything that they depend on, such as the
    filter. Each frame is encoded once and sent to all streams."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The stream is idle: a read of the store, at `read_time_us` by the store's clock, has proved that no event follows
    the cursor."""

    read_time_us: int


@dataclass(frozen=True, slots=True)
class ReceivedDeltas:
    """Deltas for a stream that requested them. Shared like a Batch."""

    data: Sequence[bytes]
    frames: dict[object, bytes] = field(default_factory=dict)


class SessionStream(Protocol):
    """One watcher of one session."""

    cursor: Cursor
    """The position after the last events that `next` returned."""
    head_seq: int
    """`seq` of the session's last event, as far as the hub knows."""

    async def next(self) -> Batch | CaughtUp | ReceivedDeltas:
        """Waits for the next events, deltas or proof of idleness, and returns them.

        A Batch follows the cursor without a gap (`entries[0].previous_event_id == cursor.event_id`), except that the
        final event of a deleted session may follow anything; after that one `next` must not be called again.

        Raises PositionLost if the cursor is not part of the session's present history, StoreUnavailable once the store
        has been unavailable for 10 seconds.
        """
        ...

    def shorten_silence(self, seconds: float) -> None:
        """From now on CaughtUp comes after so many seconds without anything else, to the precision of the hub's look at
        what is watched. Never later than the hub's own limits say."""
        ...


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Consecutive events of one tenant's feed. Shared like a Batch."""

    entries: Sequence[FeedEntry]
    """At least one."""
    frames: dict[object, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """The position after one event of a tenant's feed, with the events that prove it."""

    place: FeedPlace
    anchors: Sequence[tuple[FeedPlace, str]]
    """(place, event id) of the last event of each of the last transactions before the cursor, at most 8, ascending by
    transaction id. Empty at the beginning."""
    late_commits: Sequence[tuple[FeedPlace, str]] = ()
    """(place, event id) of the last event of each of the transactions before the cursor that a read has seen running,
    at most 4, those seen most recently. An asynchronous failover that lost any event before the cursor has lost one of
    these or of the anchors, within the limits in docs/decisions/0012-feeds.md."""

    @property
    def named(self) -> Sequence[tuple[FeedPlace, str]]:
        """The events to check with find_lost: anchors and late_commits, without duplicates."""
        return (*self.anchors, *(late_commit for late_commit in self.late_commits if late_commit not in self.anchors))


class FeedStream(Protocol):
    """One watcher of one tenant. Not filtered: the gRPC layer filters."""

    cursor: FeedCursor

    async def next(self) -> FeedBatch | CaughtUp:
        """As SessionStream.next, for the tenant's feed: entries in order of `place`, none missing."""
        ...

    def shorten_silence(self, seconds: float) -> None:
        """As SessionStream.shorten_silence."""
        ...


class PrimaryReads(SessionReads, LogReads, Protocol):
    """The reads that a hub needs, always of the primary."""

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        """As SessionQueries.get_message."""
        ...


class Hub(Protocol):
    """Streams of committed events, whichever replica committed them."""

    def watch_session(
        self, scope: Scope, session_id: str, after: Cursor | None, *, content: bool, deltas: bool
    ) -> AbstractAsyncContextManager[tuple[SessionStream, SessionSnapshot | None]]:
        """Opens a stream that continues after `after`. With None it starts at a snapshot, which is returned too
        (`content` as in SessionReads.get_session) and whose version and last event are the first cursor.

        Raises SessionNotFound (also for a deleted session, unless `after` is given: then the stream has the final
        event); PositionLost if the event at `after.seq` is another one or the log ends before it; PositionCompacted if
        events after the cursor are gone although the session is not deleted; TooManyWatchers; StoreUnavailable.
        """
        ...

    def watch_feed(
        self, scope: Scope, after: FeedCursor | None, *, from_beginning: bool
    ) -> AbstractAsyncContextManager[FeedStream]:
        """Opens a stream of the tenant's events after `after`. With None it starts at the end of the feed, or at its
        beginning if `from_beginning`.

        Raises PositionLost, TooManyWatchers, StoreUnavailable.
        """
        ...
