"""What the wire asks of the hub: streams of one session, and of one tenant.

A stream is a cursor into what the hub holds for its session or tenant; it has no queue of its own. Each belongs to one
task. `next` may be cancelled at any time without losing anything: the cursor moves when `next` returns.
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
    """After one event of one session; (0, "") before the first."""

    seq: int
    event_id: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one session that follow each other. Shared by all streams that are at the same place."""

    entries: Sequence[LogEntry]
    """At least one."""
    head_seq: int
    frames: dict[object, bytes] = field(default_factory=dict)
    """For the wire: what it has made of this batch, by whatever it depends on (such as the filter). Made once, sent to
    all. Dies with the batch."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Nothing has happened for a while: a read of the store, at `read_time_us` by its clock, has proved that the stream
    has everything up to its cursor, which is the head."""

    read_time_us: int


@dataclass(frozen=True, slots=True)
class ReceivedDeltas:
    """Deltas for a stream that wants them. Shared like a Batch."""

    data: Sequence[bytes]
    frames: dict[object, bytes] = field(default_factory=dict)


class SessionStream(Protocol):
    """One watcher of one session."""

    cursor: Cursor
    """After what `next` has returned last."""
    head_seq: int
    """The session's last event, as far as is known."""

    async def next(self) -> Batch | CaughtUp | ReceivedDeltas:
        """What comes next, as soon as there is something.

        A Batch follows the cursor without a gap (`entries[0].previous_event_id == cursor.event_id`), except that the
        final event of a deleted session may follow anything; after that one `next` must not be called again.

        Raises PositionLost when the session's history is no longer the one that the cursor is in; StoreUnavailable once
        the store has been away for 10 seconds.
        """
        ...

    def shorten_silence(self, seconds: float) -> None:
        """From now on CaughtUp comes after so many seconds without anything else, to the precision of the hub's look at
        what is watched. Never later than the hub's own limits say."""
        ...


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Events of one tenant that follow each other. Shared like a Batch."""

    entries: Sequence[FeedEntry]
    """At least one."""
    frames: dict[object, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """After one event of one tenant's feed, with its anchors."""

    place: FeedPlace
    anchors: Sequence[tuple[FeedPlace, str]]
    """(place, event id) of the last event of each of the last transactions before the cursor, at most 8, ascending by
    transaction id. Empty at the beginning."""
    late_commits: Sequence[tuple[FeedPlace, str]] = ()
    """(place, event id) of the last event of each of the transactions before the cursor that reads of feeds have seen
    under way, at most 4, those seen last. An asynchronous failover that lost anything before the cursor has lost one of
    these or of the anchors, within the limits that docs/decisions/0012-feeds.md names."""

    @property
    def named(self) -> Sequence[tuple[FeedPlace, str]]:
        """What find_lost is to be asked about: anchors and late_commits, each once."""
        return (*self.anchors, *(late_commit for late_commit in self.late_commits if late_commit not in self.anchors))


class FeedStream(Protocol):
    """One watcher of one tenant. Unfiltered: the wire filters."""

    cursor: FeedCursor

    async def next(self) -> FeedBatch | CaughtUp:
        """As SessionStream.next, for the tenant's feed: entries in order of `place`, none missing."""
        ...

    def shorten_silence(self, seconds: float) -> None:
        """As SessionStream.shorten_silence."""
        ...


class PrimaryReads(SessionReads, LogReads, Protocol):
    """What a hub reads, always from the primary."""


class Hub(Protocol):
    """Streams of what is committed, by any replica."""

    def watch_session(
        self, scope: Scope, session_id: str, after: Cursor | None, *, content: bool, deltas: bool
    ) -> AbstractAsyncContextManager[tuple[SessionStream, SessionSnapshot | None]]:
        """A stream that goes on from `after`; None: from a snapshot, which comes with it (`content` as in
        Store.get_session) and whose version and last event are the stream's first cursor.

        Opening it raises SessionNotFound (deleted ones too, unless `after` is given: then the final event comes);
        PositionLost when the event at `after.seq` is another one, or the log ends before it; PositionCompacted when
        events after the cursor are gone though the session is not deleted; TooManyWatchers; StoreUnavailable.
        """
        ...

    def watch_feed(
        self, scope: Scope, after: FeedCursor | None, *, from_beginning: bool
    ) -> AbstractAsyncContextManager[FeedStream]:
        """A stream of the tenant's events behind `after`; None: of what is committed from now on, or of all there is.

        Opening it raises PositionLost, TooManyWatchers, StoreUnavailable.
        """
        ...
