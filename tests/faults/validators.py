"""The promises to subscribers, each a function over what they recorded and what the database holds in the end.

Every one counts how often its promise was broken. Ordered, unique, reliable, resumable, bookmarked, and a snapshot
folds to the row (G7 to G10); besides, no history may diverge in silence (G8).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.fold import fold
from tests.faults.history import DELETION, REMOVED, Got, Marked, Opened, Segment
from tests.faults.ledger import Ack

WITNESSES_CARRIED = 5.0
"""Seconds before a feed began within which its position may name what it never delivered (see FeedCursor)."""


@dataclass(frozen=True, slots=True)
class Log:
    """One session's log as the database has it in the end."""

    event_ids: Sequence[bytes]
    """At index seq - 1, as in all of these. b"": removed with the session, so a subscriber may have it and need not."""
    commit_xids: Sequence[int]
    """0: unknown."""
    texts: Sequence[int]

    def has(self, event: Got | Opened) -> bool:
        return 0 < event.seq <= len(self.event_ids) and self.event_ids[event.seq - 1] in (b"", event.event_id)

    def removed(self, seq: int) -> bool:
        return 0 < seq <= len(self.event_ids) and not self.event_ids[seq - 1]


@dataclass(frozen=True, slots=True)
class Failover:
    """An asynchronous failover, or a restore: what stood behind these places was lost."""

    began: float
    ended: float
    survived: Mapping[str, int]
    """Version of each session that the new primary had."""

    def took(self, session_id: str, seq: int) -> bool:
        return seq > self.survived.get(session_id, 0)


@dataclass(frozen=True, slots=True)
class Truth:
    """What became of everything."""

    logs: Mapping[str, Log]
    failovers: Sequence[Failover] = ()

    def has(self, event: Got) -> bool:
        log = self.logs.get(event.session_id)
        return log is not None and log.has(event)

    def excuses(self, ack: Ack) -> bool:
        """Whether a failover that loses what was acknowledged took this: one that the call had begun before."""
        return any(ack.began < failover.ended and failover.took(ack.session_id, ack.seq) for failover in self.failovers)


@dataclass
class Findings:
    """Broken promises to subscribers. A sound run has zeros only."""

    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    diverged: int = 0
    """Events of another history than the one that the subscriber was in, without a word."""
    unfounded: int = 0
    """Positions called lost that were not."""
    restarted: int = 0
    """Positions answered by a snapshot or another place."""
    false_bookmarks: int = 0

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def sound(self) -> bool:
        return not any(vars(self).values())


def session_findings(history: Iterable[Segment], session_id: str, truth: Truth, acks: Sequence[Ack]) -> Findings:
    """All that one watcher of a session has to complain of. `acks`: of the session, without what failovers took."""
    found = Findings()
    for segment in history:
        start = segment.first
        found += Findings(
            lost=reliable(segment, truth, {session_id: start.seq} if start else {session_id: 0}),
            duplicated=unique(segment),
            reordered=ordered(segment),
            diverged=diverged(segment, truth),
            unfounded=unfounded(segment, session_id, truth),
            restarted=restarted(segment),
            false_bookmarks=len(bookmarked(segment, acks, session_id)),
        )
    return found


def feed_findings(history: Iterable[Segment], truth: Truth, acks: Sequence[Ack]) -> Findings:
    """All that one watcher of the feed has to complain of. `acks`: of all sessions, without what failovers took."""
    found = Findings()
    for segment in history:
        found += Findings(
            lost=reliable(segment, truth, feed_starts(segment, truth, acks)),
            duplicated=unique(segment),
            reordered=ordered(segment) + commit_ordered(segment, truth),
            diverged=diverged(segment, truth),
            unfounded=unfounded(segment, None, truth),
            restarted=restarted_feed(segment),
            false_bookmarks=len(bookmarked(segment, acks, None)),
        )
    return found


def ordered(segment: Segment) -> int:
    """Events that came after a later one of their session, and not for a second time."""
    found = 0
    newest: dict[str, int] = {}
    seen: set[bytes] = set()
    for event in segment.events:
        if event.seq < newest.get(event.session_id, 0) and event.event_id not in seen:
            found += 1
        newest[event.session_id] = max(event.seq, newest.get(event.session_id, 0))
        seen.add(event.event_id)
    return found


def commit_ordered(segment: Segment, truth: Truth) -> int:
    """Events of a feed that came after one that was committed later. What was lost since has no place to compare."""
    found = 0
    newest: tuple[int, str, int] = (0, "", 0)
    seen: set[bytes] = set()
    for event in segment.events:
        commit_xid = truth.logs[event.session_id].commit_xids[event.seq - 1] if truth.has(event) else 0
        if not commit_xid or event.event_id in seen:
            continue
        seen.add(event.event_id)
        place = (commit_xid, event.session_id, event.seq)
        # Within a session `ordered` counts it.
        found += place < newest and newest[1] != event.session_id
        newest = max(newest, place)
    return found


def unique(segment: Segment) -> int:
    """Events that came again."""
    ids = [event.event_id for event in segment.events]
    return len(ids) - len(set(ids))


def reliable(segment: Segment, truth: Truth, starts: Mapping[str, int]) -> int:
    """How many events never came."""
    return len(missing(segment, truth, starts))


def missing(segment: Segment, truth: Truth, starts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    """(session, seq) of events that never came: behind the start (by session: the seq before the first to come), up to
    the end of the log or, when the subscriber was told that its history is gone, up to the last that came."""
    seqs: dict[str, set[int]] = {}
    deleted: set[str] = set()
    for event in segment.events:
        seqs.setdefault(event.session_id, set()).add(event.seq)
        if event.text == DELETION:
            deleted.add(event.session_id)
    found: list[tuple[str, int]] = []
    for session_id, start in {**{s: min(came) - 1 for s, came in seqs.items()}, **starts}.items():
        came, log = seqs.get(session_id, set()), truth.logs.get(session_id)
        end = max(came, default=0) if segment.lost is not None else len(log.event_ids) if log is not None else 0
        if segment.lost is not None and session_id in deleted:
            continue  # in a history that is gone: what the deletion had removed is unknown
        never = sorted(set(range(start + 1, end + 1)) - came)
        found += [(session_id, seq) for seq in never if log is None or not log.removed(seq)]
    return found


def feed_starts(segment: Segment, truth: Truth, acks: Sequence[Ack]) -> dict[str, int]:
    """By session, the seq before the first event that a feed must deliver, as far as is known."""
    start = segment.first
    if start is None:
        return {}
    if start.seq == -2:
        return dict.fromkeys(truth.logs, 0)
    # From now on: what was first tried to be written after the stream had answered; what was tried again since may have
    # been committed before. What it delivers before that is given.
    starts: dict[str, int] = {}
    for event in segment.events:
        starts[event.session_id] = min(event.seq - 1, starts.get(event.session_id, event.seq - 1))
    if segment.lost is None:
        for ack in acks:
            if ack.tried > start.at:
                starts[ack.session_id] = min(ack.seq - 1, starts.get(ack.session_id, ack.seq - 1))
    return starts


def diverged(segment: Segment, truth: Truth) -> int:
    """Events of another history than the subscriber was in: not the log's in the end, although no answer said that they
    were lost; or not chained to the one before; or changed in content."""
    found = 0
    last: dict[str, Got] = {}
    for event in segment.events:
        before = last.get(event.session_id)
        chained = before is None or before.seq != event.seq - 1 or before.event_id == event.previous_event_id
        # A session that takes the id of a deleted one begins anew behind the deletion.
        chained = chained or (before is not None and before.text == DELETION and not event.previous_event_id)
        if truth.has(event):
            log = truth.logs[event.session_id]
            # A message may be deleted after it came, and does not come back.
            right = log.removed(event.seq) or log.texts[event.seq - 1] in (event.text, REMOVED)
            # It came without the message, whose deletion was lost later: that event follows it in the log.
            right = right or (event.text == REMOVED and any(event.at < failover.ended for failover in truth.failovers))
            # Once a subscriber has been given what was lost, nothing that is left may follow it.
            right = right and (before is None or truth.has(before))
        else:
            right = segment.lost is not None and any(f.took(event.session_id, event.seq) for f in truth.failovers)
        found += not (chained and right)
        last[event.session_id] = event
    if segment.lost is None and segment.first is not None and segment.first.seq > 0:
        session_id = next((event.session_id for event in segment.events), None)
        if session_id is not None and session_id in truth.logs:
            found += not truth.logs[session_id].has(segment.first)
    return found


def unfounded(segment: Segment, session_id: str | None, truth: Truth) -> int:
    """1 when the subscriber was told that its history is gone and it was not."""
    if segment.lost is None:
        return 0
    if session_id is None:
        if any(not truth.has(event) for event in segment.events):
            return 0
        # A feed's position names events before its own beginning.
        began = segment.first.at if segment.first else segment.lost.at
        return int(not any(f.ended > began - WITNESSES_CARRIED and f.began < segment.lost.at for f in truth.failovers))
    place: Got | Opened | None = segment.first
    for event in segment.events:
        place = event
    log = truth.logs.get(session_id)
    if place is None or log is None:
        return 0
    if log.removed(place.seq):
        # What stood there is not known any more.
        return int(not any(failover.took(session_id, place.seq) for failover in truth.failovers))
    return int(place.seq == 0 or log.has(place))


def restarted(segment: Segment) -> int:
    """Streams that began elsewhere than where the subscriber was."""
    found = 0
    seq, event_id, known = 0, b"", False
    for record in segment.records:
        if isinstance(record, Opened):
            found += known and (bool(record.snapshot) or (record.seq, record.event_id or event_id) != (seq, event_id))
            seq, event_id, known = record.seq, record.event_id or event_id, True
        elif isinstance(record, Got):
            seq, event_id = record.seq, record.event_id
    return found


def restarted_feed(segment: Segment) -> int:
    """As `restarted`: streams but the first that did not resume."""
    starts = [record.seq for record in segment.records if isinstance(record, Opened)]
    return sum(seq != -1 for seq in starts[1:])


def bookmarked(segment: Segment, acks: Sequence[Ack], session_id: str | None) -> list[str]:
    """Bookmarks that came though something was missing: at another place than the subscriber's, or read after a write
    had been acknowledged that the subscriber did not have. A sentence for each. `acks` in the order of their times."""
    found: list[str] = []
    due = 0
    start = segment.first
    opened = start.at if start is not None else 0.0
    at: dict[str, int] = {}
    if session_id is not None and start is not None:
        at[session_id] = start.seq
    owed: dict[str, int] = {}
    for record in segment.records:
        if isinstance(record, Got):
            at[record.session_id] = max(record.seq, at.get(record.session_id, 0))
        elif isinstance(record, Marked):
            while due < len(acks) and acks[due].at < record.read_time:
                ack = acks[due]
                if session_id is not None or ack.tried > opened or (start is not None and start.seq == -2):
                    owed[ack.session_id] = max(ack.seq, owed.get(ack.session_id, 0))
                due += 1
            missing = [(session, seq) for session, seq in owed.items() if at.get(session, 0) < seq]
            elsewhere = session_id is not None and at.get(session_id, 0) != record.seq
            if missing or elsewhere:
                owing = [
                    (ack.began, ack.at, ack.session_id, ack.seq) for ack in acks if (ack.session_id, ack.seq) in missing
                ]
                found.append(
                    f"bookmark at {record.seq} that came {record.at}, read {record.read_time}, "
                    f"of a stream from {opened}, which was at {at.get(session_id or '', 'a feed')}; "
                    f"missing (began, answered, session, seq): {owing[:3]}"
                )
    return found


@dataclass
class Folding:
    """Compares a session folded from its events with every snapshot that a subscriber received, and with the row in the
    end (G9)."""

    snapshots: Mapping[int, Sequence[Session]]
    """By version."""
    state: Session = field(default_factory=Session)
    wrong: int = 0

    def add(self, event: Event) -> None:
        """The next event of the log."""
        try:
            self.state = fold(self.state, event)
        except ValueError:
            self.wrong += 1
            return
        for snapshot in self.snapshots.get(event.seq, ()):
            # One of another history has another last event.
            if snapshot.last_event_id == self.state.last_event_id:
                self.wrong += snapshot != self.state

    def end(self, row: Session) -> int:
        """How many snapshots, and the row, were not what the events before them fold to."""
        return self.wrong + (row != self.state)
