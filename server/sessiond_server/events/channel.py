"""The hub's state of one session's log: its newest events, how far they reach, and whether they are still valid.

Does no I/O and reads no clock. Events come from two sources, each of which may be late, duplicated or out of order:
commits of this process, and pages read from the store. Hints, and log ends read by a poll, only show that there may be
more to read. Every event is checked against the chain (`seq`, `event_id`, `previous_event_id`). An event that does not
fit means that the database has lost commits; it is never passed on.
"""

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice
from typing import Final

from sessiond.v1.event_pb2 import Event, EventType
from sessiond_server.domain.log import LogEntry
from sessiond_server.domain.rows import Key
from sessiond_server.errors import PositionCompacted, PositionLost
from sessiond_server.events.contract import Batch, Cursor
from sessiond_server.events.limits import BATCH_BYTES, BATCH_EVENTS, HubLimits
from sessiond_server.store.log_reads import LogHead, LogPage

CREATED: Final = EventType.EVENT_TYPE_SESSION_CREATED
DELETED: Final = EventType.EVENT_TYPE_SESSION_DELETED
REDACTED: Final = EventType.EVENT_TYPE_MESSAGE_REDACTED
MESSAGES_DELETED: Final = EventType.EVENT_TYPE_MESSAGES_DELETED
APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED

START: Final = Cursor(0, "")

_BATCHES_KEPT: Final = 4
"""Batches kept for other streams at the same cursor: streams that are woken together need the same batch."""
_REDACTIONS_KEPT: Final = 64


class Where(Enum):
    """Where a cursor is if the ring has no events after it."""

    TIP = 1
    """After the last event that the channel knows."""
    ELSEWHERE = 2
    """Before the ring, ahead of it, or in another history: the store must be read."""


class Fit(Enum):
    """How new events relate to those that the channel has."""

    JOINED = 1
    """They continue the channel's events, or it has them already."""
    GAP = 2
    """Events between them are missing."""
    MISMATCH = 3
    """They belong to another history."""


class LogBroken(Exception):
    """The store returned events that do not follow each other: a defect, or a damaged database."""

    def __init__(self, key: Key, seq: int) -> None:
        super().__init__(f"session {key[1]!r}: event {seq} does not follow the one before it")


def check(key: Key, cursor: Cursor, page: LogPage) -> None:
    """Checks that a page read after `cursor` continues there.

    Raises PositionLost if the cursor is not in the history that was read; PositionCompacted if events after it have
    been removed although the session was not deleted; LogBroken.
    """
    head, entries = page.head, page.entries
    if head.version < cursor.seq:
        raise PositionLost(key[1], cursor.seq)
    if page.before is not None and page.before.event_id != cursor.event_id:
        raise PositionLost(key[1], cursor.seq)
    if page.before is not None and page.before.type == DELETED and not head.deleted:
        # Another session has the id.
        raise PositionCompacted(key[1], page.before.seq + 1)
    if head.deleted:
        # The final event may follow any event: the one before it is gone and cannot be compared.
        return
    if not entries:
        if cursor.seq and page.before is None:
            raise PositionCompacted(key[1], head.version)
        return
    first = entries[0]
    cursor = beginning(cursor, entries)
    if first.seq != cursor.seq + 1:
        raise PositionCompacted(key[1], first.seq)
    if cursor.seq and page.before is None and first.previous_event_id != cursor.event_id:
        raise PositionCompacted(key[1], first.seq)
    check_run(key, cursor, entries)


def beginning(cursor: Cursor, entries: Sequence[LogEntry]) -> Cursor:
    """The cursor itself or, before the first event of a session that took the id of a deleted one, the cursor that the
    events follow."""
    if cursor == START and entries and entries[0].type == CREATED:
        return Cursor(entries[0].seq - 1, "")
    return cursor


def check_run(key: Key, before: Cursor, entries: Sequence[LogEntry]) -> None:
    """Raises LogBroken unless the entries follow `before` and each other."""
    seq, event_id = before.seq, before.event_id
    for entry in entries:
        # Events that are older than the field have an empty previous_event_id.
        if entry.seq != seq + 1 or entry.previous_event_id not in (event_id, ""):
            raise LogBroken(key, entry.seq)
        seq, event_id = entry.seq, entry.event_id


def rewritten_by(entry: LogEntry) -> tuple[int, int] | None:
    """The lowest and the highest `seq` of the events whose content this event's write has removed: a redaction's or a
    deletion's of messages. None: it has removed none."""
    if entry.type not in (REDACTED, MESSAGES_DELETED):
        return None
    event = Event.FromString(entry.data)
    seqs = [event.message.seq] if entry.type == REDACTED else event.deleted_messages.seqs
    if not seqs:
        return None
    # With a name, any event after the message may have repeated it.
    return seqs[0], entry.seq - 1 if event.HasField("session_name") else seqs[-1]


def cursor_after(entry: LogEntry) -> Cursor:
    return Cursor(entry.seq, entry.event_id)


class Channel:
    """The log of one watched session. The ring holds the events in (floor, tip], bounded by HubLimits.ring_events and
    ring_bytes; the oldest are dropped first.

    `tip` only moves forward. If its history turns out to be lost, the channel is replaced by an empty one, at which
    every stream must prove its cursor again.
    """

    __slots__ = (
        "_batches",
        "_deleted",
        "_limits",
        "_redactions",
        "entries",
        "floor",
        "head_seq",
        "hinted_seq",
        "incarnation",
        "key",
        "on_redacted",
        "proof",
        "redaction_count",
        "size",
        "suspect",
        "tip",
    )

    def __init__(self, key: Key, limits: HubLimits, incarnation: str) -> None:
        self.key: Final = key
        self.floor = START
        self.tip: Cursor | None = None
        """Cursor after the newest known event; None: nothing is known yet."""
        self.entries: list[LogEntry] = []
        self.size = 0
        """Bytes of the ring."""
        self.head_seq = 0
        """`seq` of the last event, as far as the store has shown."""
        self.hinted_seq = 0
        """The highest seq of any hint. If it is beyond the tip, there may be events to read."""
        self.suspect = True
        """Whether a read must prove the tip: the database has restarted, or something did not fit."""
        self.incarnation = incarnation
        """Incarnation of the database that last proved the tip."""
        self.proof: tuple[Cursor, int] | None = None
        """(cursor, time): at that time, by the store's clock, the log ended at the cursor."""
        self.redaction_count = 0
        """Number of redactions, and deletions of messages, that the channel has been notified of."""
        self.on_redacted: Callable[[Key, int, int], None] | None = None
        """Called with the range of `seq` of every redaction and deletion that was read."""
        self._limits = limits
        self._deleted: LogEntry | None = None
        self._batches: dict[int, tuple[Batch, Cursor]] = {}
        """(batch, cursor after it), by the batch's start index in the ring."""
        self._redactions: deque[tuple[int, int]] | None = None
        """The ranges of `seq` that held their events, the newest at the end."""

    @property
    def tenant_id(self) -> str:
        """Whose session it is."""
        return self.key[0]

    def take_over(self, dead: "Channel") -> None:
        """Takes the redactions over from the replaced channel `dead`, so that they hold for reads in flight."""
        self.redaction_count, self._redactions = dead.redaction_count, dead._redactions
        self.on_redacted = dead.on_redacted

    @property
    def final(self) -> LogEntry | None:
        """The final event of a deleted session, which is then the only event; else None."""
        return self._deleted

    @property
    def behind(self) -> bool:
        """Whether there may be events that the channel does not have."""
        return self.tip is not None and self.hinted_seq > self.tip.seq

    def after(self, cursor: Cursor) -> tuple[Batch, Cursor] | Where:
        """Returns the events after the cursor, as many as a batch may hold, and the cursor after them. Callers with the
        same cursor get the same batch until the ring changes."""
        tip = self.tip
        if tip is None or cursor.seq > tip.seq:
            return Where.ELSEWHERE
        if cursor.seq == tip.seq:
            return Where.TIP if cursor.event_id == tip.event_id else Where.ELSEWHERE
        if self._deleted is not None:
            start = 0
        elif self._holds(cursor):
            start = cursor.seq - self.floor.seq
        else:
            return Where.ELSEWHERE
        known = self._batches.get(start)
        if known is not None:
            return known
        entries = batch_of(self.entries, start)
        made = (Batch(entries, max(self.head_seq, tip.seq)), cursor_after(entries[-1]))
        if len(self._batches) >= _BATCHES_KEPT:
            del self._batches[next(iter(self._batches))]
        self._batches[start] = made
        return made

    def follows(self, first_seq: int, last_seq: int) -> bool:
        """Whether committed events first_seq..last_seq of this process contain new ones, leave no gap, and include none
        that was redacted before it was announced."""
        tip = self.tip
        if tip is not None and not first_seq <= tip.seq + 1 <= last_seq:
            return False
        return self._redactions is None or not any(
            first <= last_seq and first_seq <= last for first, last in self._redactions
        )

    def note_hint(self, seq: int) -> None:
        """Records a hint that the log has reached `seq`. It proves nothing, but is a reason to read."""
        if seq > self.hinted_seq:
            self.hinted_seq = seq

    def append(self, before: Cursor, entries: Sequence[LogEntry]) -> Fit:
        """Adds events that follow `before` and each other, read from the store or committed by this process.

        Returns JOINED also if none is new. On GAP and MISMATCH nothing changes.
        """
        tip = self.tip
        last = entries[-1] if entries else None
        if last is not None and last.type == DELETED:
            return self._end(last)
        if tip is None:
            self.floor = self.tip = tip = before
            self.head_seq = max(self.head_seq, before.seq)
        if before.seq > tip.seq:
            return Fit.GAP
        if last is None or last.seq <= tip.seq:
            return Fit.MISMATCH if self._contradicts(before if last is None else cursor_after(last)) else Fit.JOINED
        joint = tip.seq - before.seq
        if (entries[joint - 1].event_id if joint else before.event_id) != tip.event_id:
            return Fit.MISMATCH
        for entry in islice(entries, joint, None):
            self.entries.append(entry)
            self.size += len(entry.data)
        self.tip = cursor_after(last)
        self._grown()
        return Fit.JOINED

    def restart_at(self, before: Cursor, entries: Sequence[LogEntry]) -> None:
        """Continues further ahead, at a place that a read has proved. Streams that need the skipped events read them
        from the store."""
        self.evict()
        self.tip = None
        self.append(before, entries)

    def read(self, asked: int, page: LogPage) -> None:
        """Updates head and hints after a page was read. `asked` was `hinted_seq` when the read began."""
        self.head_seq = max(self.head_seq, page.head.version)
        reached = page.entries[-1].seq if page.entries else page.head.version
        if reached < page.head.version:
            self.note_hint(page.head.version)
        elif self.hinted_seq == asked and self.tip is not None:
            # The hint was wrong, or belongs to another history.
            self.hinted_seq = self.tip.seq

    def note_head(self, tip: Cursor, head: LogHead | None, incarnation: str, time_us: int) -> None:
        """Notes the end of the log, read after `tip` was the tip. Sets `proof`, or `suspect` if the end does not
        fit."""
        if self.incarnation != incarnation or head is None or head.version < tip.seq:
            self.suspect = True
            self.proof = None
            return
        self.head_seq = max(self.head_seq, head.version)
        if head.version > tip.seq:
            self.note_hint(head.version)
        elif not self.suspect:
            self.proof = (tip, time_us)

    def proved(self, incarnation: str) -> None:
        """Notes that a read has found the tip in that incarnation of the database."""
        self.suspect = False
        self.incarnation = incarnation

    def redact(self, first_seq: int, last_seq: int) -> None:
        """Stored events from `first_seq` to `last_seq` were rewritten, these two among them: drops them from the ring,
        and marks earlier reads of them as stale."""
        self.redaction_count += 1
        if self._redactions is None:
            self._redactions = deque(maxlen=_REDACTIONS_KEPT)
        self._redactions.append((first_seq, last_seq))
        self._drop_through(first_seq, last_seq)

    def note_redactions(self, entries: Sequence[LogEntry]) -> None:
        """Applies the redactions and deletions among events that were read, before they are added. The read itself
        shows what remains of the messages already; events in the ring may show the originals."""
        for entry in entries:
            if (places := rewritten_by(entry)) is not None:
                self.redact(*places)
                if self.on_redacted is not None:
                    self.on_redacted(self.key, *places)

    def may_show_redacted(self, since: int, page: LogPage) -> bool:
        """Whether a page may contain content that was redacted after its read began, when `redaction_count` was
        `since`."""
        count = self.redaction_count - since
        if not count or not page.entries or self._redactions is None:
            return False
        known, first, last = self._redactions, page.entries[0].seq, page.entries[-1].seq
        if count > len(known):
            return True
        return any(low <= last and first <= high for low, high in islice(known, len(known) - count, None))

    def evict(self) -> None:
        """Empties the ring. The final event of a deleted session stays."""
        if self._deleted is None:
            self._drop(len(self.entries))

    def forget_batches(self) -> None:
        """Drops the batches that were kept for other streams at the same cursor."""
        if self._batches:
            self._batches = {}

    def _holds(self, cursor: Cursor) -> bool:
        place = cursor.seq - self.floor.seq
        if place < 0:
            return False
        at = self.entries[place - 1].event_id if place else self.floor.event_id
        return at == cursor.event_id

    def _contradicts(self, cursor: Cursor) -> bool:
        """Whether the ring has another event at a place that it covers."""
        assert self.tip is not None
        if cursor.seq == self.tip.seq:
            return cursor.event_id != self.tip.event_id
        return cursor.seq >= self.floor.seq and self._deleted is None and not self._holds(cursor)

    def _end(self, final: LogEntry) -> Fit:
        tip = self.tip
        if tip is not None and final.seq <= tip.seq:
            return Fit.JOINED if cursor_after(final) == tip else Fit.MISMATCH
        if tip is not None and final.seq == tip.seq + 1 and final.previous_event_id not in (tip.event_id, ""):
            return Fit.MISMATCH
        self._drop(len(self.entries))
        self.floor = Cursor(final.seq - 1, final.previous_event_id)
        self.entries = [final]
        self.size = len(final.data)
        self.tip = cursor_after(final)
        self._deleted = final
        self._grown()
        return Fit.JOINED

    def _drop_through(self, first_seq: int, last_seq: int) -> None:
        if self._deleted is None and last_seq > self.floor.seq and first_seq <= self.floor.seq + len(self.entries):
            self._drop(min(last_seq - self.floor.seq, len(self.entries)))

    def _grown(self) -> None:
        assert self.tip is not None
        self.head_seq = max(self.head_seq, self.tip.seq)
        self.note_hint(self.tip.seq)
        limits, excess, size = self._limits, 0, self.size
        count = len(self.entries)
        while count - excess > 1 and (count - excess > limits.ring_events or size > limits.ring_bytes):
            size -= len(self.entries[excess].data)
            excess += 1
        self._drop(excess)
        self.forget_batches()

    def _drop(self, count: int) -> None:
        """Removes the oldest `count` events of the ring."""
        if count:
            dropped = self.entries[:count]
            self.floor = cursor_after(dropped[-1])
            self.size -= sum(len(entry.data) for entry in dropped)
            del self.entries[:count]
            self.forget_batches()


def batch_of(entries: Sequence[LogEntry], start: int) -> list[LogEntry]:
    """The entries from index `start` on, as many as a batch may hold."""
    taken = list(islice(entries, start, start + BATCH_EVENTS))
    size = 0
    for count, entry in enumerate(taken):
        size += len(entry.data)
        if count and size > BATCH_BYTES:
            return taken[:count]
    return taken
