"""The hub's state of one tenant's feed: its newest events, in the order of their places.

Does no I/O and reads no clock. All events come from pages of the store, in which none is missing and before which none
will ever be inserted, so a feed only continues at its tip. The anchors of a cursor show what a failover has lost.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from sessiond_server.domain.log import FeedEntry, FeedPlace
from sessiond_server.events.channel import Where
from sessiond_server.events.contract import FeedBatch, FeedCursor
from sessiond_server.events.late_commits import RunningTransactions, late_commits_after
from sessiond_server.events.limits import BATCH_BYTES, BATCH_EVENTS, HubLimits

BEGINNING: Final = FeedCursor(FeedPlace(0, "", 0), ())
ANCHORS: Final = 8
"""Most transactions that a cursor names: more than commonly commit side by side. See late_commits.py for slow ones."""

_BATCHES_KEPT: Final = 4
_REDACTIONS_KEPT: Final = 256


class FeedBroken(Exception):
    """The store returned events out of order: a defect."""

    def __init__(self, tenant_id: str, place: FeedPlace) -> None:
        super().__init__(f"tenant {tenant_id!r}: {place} does not follow the one before it")


def check_order(tenant_id: str, after: FeedPlace, entries: Sequence[FeedEntry]) -> None:
    """Raises FeedBroken unless the places ascend from `after`."""
    for entry in entries:
        if entry.place <= after:
            raise FeedBroken(tenant_id, entry.place)
        after = entry.place


def advanced(cursor: FeedCursor, entries: Sequence[FeedEntry], transactions: RunningTransactions) -> FeedCursor:
    """The cursor after these events, which follow `cursor`."""
    newest: list[tuple[FeedPlace, str]] = []
    for entry in reversed(entries):
        if not newest or entry.place.commit_xid != newest[-1][0].commit_xid:
            if len(newest) == ANCHORS:
                break
            newest.append((entry.place, entry.entry.event_id))
    for anchor in reversed(cursor.anchors):
        if len(newest) == ANCHORS:
            break
        if not newest or anchor[0].commit_xid != newest[-1][0].commit_xid:
            newest.append(anchor)
    newest.reverse()
    late_commits = late_commits_after(cursor.late_commits, entries, transactions)
    return FeedCursor(entries[-1].place if entries else cursor.place, tuple(newest), late_commits)


class Feed:
    """The feed of one watched tenant. The ring holds the events in (floor, tip], bounded by HubLimits.ring_events and
    ring_bytes; the oldest are dropped first. `tip` only moves forward.
    """

    __slots__ = (
        "_batches",
        "_limits",
        "_redactions",
        "_transactions",
        "caught_up",
        "entries",
        "floor",
        "hint_pending",
        "incarnation",
        "proof",
        "proofs",
        "redaction_count",
        "size",
        "tenant_id",
        "tip",
    )

    def __init__(self, tenant_id: str, limits: HubLimits, transactions: RunningTransactions) -> None:
        self.tenant_id: Final = tenant_id
        self.floor = BEGINNING.place
        self.tip: FeedCursor | None = None
        """None: nothing is known yet."""
        self.entries: list[FeedEntry] = []
        self.size = 0
        """Bytes of the ring."""
        self.hint_pending = False
        """Whether a commit, a hint or the poll has asked for a read since the last one began."""
        self.caught_up = False
        """Whether the last read after the tip returned all events there were."""
        self.incarnation = ""
        """Incarnation of the database that last proved the tip's anchors."""
        self.proofs = 0
        """How often `incarnation` was set. A late page may set an earlier incarnation again, so the incarnation alone
        does not show that the tip was proved again."""
        self.proof: tuple[FeedPlace, int] | None = None
        """(place, time): at that time, by the store's clock, no deliverable event followed the place."""
        self.redaction_count = 0
        """Number of redactions, and deletions of messages, that the feed has been notified of."""
        self._limits = limits
        self._transactions = transactions
        self._batches: dict[int, tuple[FeedBatch, FeedCursor]] = {}
        self._redactions: deque[tuple[str, int, int]] | None = None
        """(session_id, first seq, last seq) of the events that they rewrote, the newest at the end."""

    @property
    def behind(self) -> bool:
        """Whether there may be events that the feed does not have."""
        return self.hint_pending or not self.caught_up

    def take_over(self, dead: "Feed") -> None:
        """Takes the redactions over from the replaced feed `dead`, so that they hold for reads in flight."""
        self.redaction_count, self._redactions = dead.redaction_count, dead._redactions

    def proved(self, incarnation: str) -> None:
        """Notes that the database of that incarnation has the tip's anchors. Streams must prove their own cursors: the
        tip may have come from a stream that has just begun."""
        self.incarnation = incarnation
        self.proofs += 1

    def after(self, cursor: FeedCursor) -> tuple[FeedBatch, FeedCursor] | Where:
        """Returns the events after the cursor, as many as a batch may hold, and the cursor after them. Callers with the
        same cursor get the same batch until the ring changes."""
        place = cursor.place
        if self.tip is None or place > self.tip.place or place < self.floor:
            return Where.ELSEWHERE
        if place == self.tip.place:
            return Where.TIP
        start = bisect_right(self.entries, place, key=_place)
        known = self._batches.get(start)
        if known is not None:
            return known
        entries = batch_of(self.entries, start)
        made = (FeedBatch(entries), advanced(cursor, entries, self._transactions))
        if len(self._batches) >= _BATCHES_KEPT:
            del self._batches[next(iter(self._batches))]
        self._batches[start] = made
        return made

    def begin(self, cursor: FeedCursor) -> None:
        """Starts a stream at a cursor that a read has proved. If the cursor is ahead of the tip, the feed continues at
        the cursor, and streams that need the skipped events read them from the store."""
        if self.tip is None or cursor.place > self.tip.place:
            self.evict()
            self.tip = cursor
            self.floor = cursor.place
            self.caught_up = False
            self.proof = None

    def append(self, after: FeedPlace, entries: Sequence[FeedEntry]) -> None:
        """Adds events that were read after `after`. Skips those that it has already."""
        tip = self.tip
        if tip is None or after > tip.place or not entries or entries[-1].place <= tip.place:
            return
        new = list(entries[bisect_right(entries, tip.place, key=_place) :])
        self.tip = advanced(tip, new, self._transactions)
        self.entries += new
        self.size += sum(len(entry.entry.data) for entry in new)
        self._trim()
        self._batches = {}

    def redact(self, session_id: str, first_seq: int, last_seq: int) -> None:
        """Stored events of the session from `first_seq` to `last_seq` were rewritten: drops them from the ring, and
        marks earlier reads of them as stale."""
        self.redaction_count += 1
        if self._redactions is None:
            self._redactions = deque(maxlen=_REDACTIONS_KEPT)
        self._redactions.append((session_id, first_seq, last_seq))
        for index in range(len(self.entries) - 1, -1, -1):
            place = self.entries[index].place
            if place.session_id == session_id and first_seq <= place.seq <= last_seq:
                self._drop(index + 1)
                break

    def may_show_redacted(self, since: int, entries: Sequence[FeedEntry]) -> bool:
        """Whether events may contain content that was redacted after their read began, when `redaction_count` was
        `since`."""
        count = self.redaction_count - since
        if not count or not entries or self._redactions is None:
            return False
        known = self._redactions
        if count > len(known):
            return True
        newest = list(islice(known, len(known) - count, None))
        return any(
            session_id == entry.place.session_id and first <= entry.place.seq <= last
            for session_id, first, last in newest
            for entry in entries
        )

    def evict(self) -> None:
        """Empties the ring."""
        self._drop(len(self.entries))

    def forget_batches(self) -> None:
        """Drops the batches that were kept for other streams at the same cursor."""
        if self._batches:
            self._batches = {}

    def _trim(self) -> None:
        limits, excess, size = self._limits, 0, self.size
        count = len(self.entries)
        while count - excess > 1 and (count - excess > limits.ring_events or size > limits.ring_bytes):
            size -= len(self.entries[excess].entry.data)
            excess += 1
        self._drop(excess)

    def _drop(self, count: int) -> None:
        """Removes the oldest `count` events of the ring."""
        if count:
            dropped = self.entries[:count]
            self.floor = dropped[-1].place
            self.size -= sum(len(entry.entry.data) for entry in dropped)
            del self.entries[:count]
            self._batches = {}


def batch_of(entries: Sequence[FeedEntry], start: int) -> list[FeedEntry]:
    """The entries from index `start` on, as many as a batch may hold."""
    taken = list(islice(entries, start, start + BATCH_EVENTS))
    size = 0
    for count, entry in enumerate(taken):
        size += len(entry.entry.data)
        if count and size > BATCH_BYTES:
            return taken[:count]
    return taken


def _place(entry: FeedEntry) -> FeedPlace:
    return entry.place
