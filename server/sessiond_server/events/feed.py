"""What the hub knows of one tenant's feed: its newest events, in the order of their places.

Does no I/O and knows no clock. Everything comes from pages that the store has read, in which nothing is missing and
before which nothing will ever stand: a feed needs no more than to go on where it is. What a failover takes away is
found by the anchors of a cursor.
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
"""Transactions that a cursor names: more than commonly commit side by side. See late_commits.py for slow ones."""

_BATCHES_KEPT: Final = 4
_REDACTIONS_KEPT: Final = 256


class FeedBroken(Exception):
    """The store has answered with events out of order: a defect."""

    def __init__(self, tenant_id: str, place: FeedPlace) -> None:
        super().__init__(f"tenant {tenant_id!r}: {place} does not follow the one before it")


def check_order(tenant_id: str, after: FeedPlace, entries: Sequence[FeedEntry]) -> None:
    """Raises FeedBroken unless the places ascend from `after`."""
    for entry in entries:
        if entry.place <= after:
            raise FeedBroken(tenant_id, entry.place)
        after = entry.place


def advanced(cursor: FeedCursor, entries: Sequence[FeedEntry], transactions: RunningTransactions) -> FeedCursor:
    """The cursor behind these events, which follow it."""
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
    """One tenant's feed in one process. The ring holds the events in (floor, tip], bounded by HubLimits.ring_events and
    ring_bytes; the oldest go first. `tip` only moves forward.
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
        """Something has happened since the last read began, or so it is said."""
        self.caught_up = False
        """The last read behind the tip brought all there was."""
        self.incarnation = ""
        """Of the database by which the tip's anchors were last proved."""
        self.proofs = 0
        """How often that has changed. A page that comes late may make it the old one again: only this tells."""
        self.proof: tuple[FeedPlace, int] | None = None
        """(place, time): at that time, by the store's clock, nothing that may be delivered lay behind the place."""
        self.redaction_count = 0
        """Redactions ever heard of."""
        self._limits = limits
        self._transactions = transactions
        self._batches: dict[int, tuple[FeedBatch, FeedCursor]] = {}
        self._redactions: deque[tuple[str, int]] | None = None

    @property
    def behind(self) -> bool:
        """Whether there may be more than the feed has."""
        return self.hint_pending or not self.caught_up

    def take_over(self, dead: "Feed") -> None:
        """Takes the place of a feed whose history no longer exists."""
        self.redaction_count, self._redactions = dead.redaction_count, dead._redactions

    def proved(self, incarnation: str) -> None:
        """The tip's anchors are in the database of that incarnation. Other cursors are to be proved one by one: the
        tip may be a newcomer's."""
        self.incarnation = incarnation
        self.proofs += 1

    def after(self, cursor: FeedCursor) -> tuple[FeedBatch, FeedCursor] | Where:
        """What follows the cursor, with the cursor behind it, as much as a batch may hold. The same for all who ask
        from the same place until the ring changes."""
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
        """A stream begins at a cursor that a read has proved. From one ahead the feed goes on there; what lies between
        is read by those who want it."""
        if self.tip is None or cursor.place > self.tip.place:
            self.evict()
            self.tip = cursor
            self.floor = cursor.place
            self.caught_up = False
            self.proof = None

    def append(self, after: FeedPlace, entries: Sequence[FeedEntry]) -> None:
        """Takes in what was read behind `after`. Events that are there already are passed over."""
        tip = self.tip
        if tip is None or after > tip.place or not entries or entries[-1].place <= tip.place:
            return
        new = list(entries[bisect_right(entries, tip.place, key=_place) :])
        self.tip = advanced(tip, new, self._transactions)
        self.entries += new
        self.size += sum(len(entry.entry.data) for entry in new)
        self._trim()
        self._batches = {}

    def redact(self, session_id: str, seq: int) -> None:
        """The stored event has been rewritten: what was read of it earlier is not passed on any more."""
        self.redaction_count += 1
        if self._redactions is None:
            self._redactions = deque(maxlen=_REDACTIONS_KEPT)
        self._redactions.append((session_id, seq))
        for index, entry in enumerate(self.entries):
            if entry.place.seq == seq and entry.place.session_id == session_id:
                self._drop(index + 1)
                break

    def may_show_redacted(self, since: int, entries: Sequence[FeedEntry]) -> bool:
        """Whether events, whose reading began when `redaction_count` was `since`, may show what was redacted since."""
        count = self.redaction_count - since
        if not count or not entries or self._redactions is None:
            return False
        known = self._redactions
        if count > len(known):
            return True
        redacted = set(islice(known, len(known) - count, None))
        return any((entry.place.session_id, entry.place.seq) in redacted for entry in entries)

    def evict(self) -> None:
        """Empties the ring."""
        self._drop(len(self.entries))

    def forget_batches(self) -> None:
        """Lets go of what was made for streams that came to the same place together."""
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
        """Removes the oldest of the ring."""
        if count:
            dropped = self.entries[:count]
            self.floor = dropped[-1].place
            self.size -= sum(len(entry.entry.data) for entry in dropped)
            del self.entries[:count]
            self._batches = {}


def batch_of(entries: Sequence[FeedEntry], start: int) -> list[FeedEntry]:
    """The entries from `start` on, as many as a batch may hold."""
    taken = list(islice(entries, start, start + BATCH_EVENTS))
    size = 0
    for count, entry in enumerate(taken):
        size += len(entry.entry.data)
        if count and size > BATCH_BYTES:
            return taken[:count]
    return taken


def _place(entry: FeedEntry) -> FeedPlace:
    return entry.place
