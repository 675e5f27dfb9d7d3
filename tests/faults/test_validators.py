"""The validators themselves, on histories made by hand: what is sound passes, and each broken promise is seen by the
one that is named after it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import Session
from tests.faults import history, validators
from tests.faults.history import (
    DELETION,
    Closed,
    Got,
    Lost,
    Marked,
    Opened,
    Record,
    Recorder,
    Segment,
    got,
    read,
    segments,
)
from tests.faults.ledger import Ack
from tests.faults.validators import Failover, Findings, Folding, Log, Truth

A = "a"
B = "b"
SOUND = Findings()


def name(session_id: str, seq: int, history: str = "") -> bytes:
    return f"{session_id}{seq}{history}".encode().ljust(16, b".") if seq else b""


def event(session_id: str, seq: int, history: str = "", *, after: str | None = None) -> Got:
    """Of the history "" or another one that branched off; `after`: the history of the event before it."""
    before = history if after is None else after
    return Got(float(seq), session_id, seq, name(session_id, seq, history), name(session_id, seq - 1, before), seq)


def events(session_id: str, first: int, last: int, history: str = "") -> list[Record]:
    return [event(session_id, seq, history) for seq in range(first, last + 1)]


def opened(seq: int = 0, history: str = "", *, snapshot: bool = True) -> Opened:
    return Opened(0.0, 0, seq, name(A, seq, history), b"session" if snapshot else b"")


def log(session_id: str, version: int, xids: Sequence[int] | None = None) -> Log:
    seqs = range(1, version + 1)
    return Log([name(session_id, seq) for seq in seqs], xids or list(seqs), list(seqs))


LOSSY = Failover(began=6.0, ended=7.0, survived={A: 3, B: 3})
TRUTH = Truth({A: log(A, 5)})
AFTER_LOSS = Truth({A: log(A, 5)}, [LOSSY])
BOTH = Truth({A: log(A, 3, [10, 12, 14]), B: log(B, 3, [11, 13, 15])})


def judged(records: Sequence[Record], truth: Truth = TRUTH, acks: Sequence[Ack] = ()) -> Findings:
    return validators.session_findings(segments(records), A, truth, acks)


def judged_feed(records: Sequence[Record], truth: Truth = BOTH, acks: Sequence[Ack] = ()) -> Findings:
    return validators.feed_findings(segments(records), truth, acks)


LOST = Lost(8.0, "POSITION_LOST")
CLOSED = Closed(2.5, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("records", "truth", "expected"),
    [
        ([opened(), *events(A, 1, 5)], TRUTH, SOUND),
        ([opened(2), *events(A, 3, 5)], TRUTH, SOUND),
        ([opened(5)], TRUTH, SOUND),
        ([opened(), *events(A, 1, 2), CLOSED, opened(2, snapshot=False), *events(A, 3, 5)], TRUTH, SOUND),
        ([opened(), *events(A, 1, 2), *events(A, 4, 5)], TRUTH, Findings(lost=1)),
        ([opened(), *events(A, 1, 3)], TRUTH, Findings(lost=2)),
        ([opened(2), *events(A, 4, 5)], TRUTH, Findings(lost=1)),
        ([opened()], TRUTH, Findings(lost=5)),
        ([opened(), *events(A, 1, 5), event(A, 5)], TRUTH, Findings(duplicated=1)),
        ([opened(), *events(A, 1, 3), *events(A, 2, 5)], TRUTH, Findings(duplicated=2)),
        ([opened(), event(A, 1), event(A, 3), event(A, 2), *events(A, 4, 5)], TRUTH, Findings(reordered=1)),
        ([opened(), *events(A, 1, 4), event(A, 5, "x", after="")], TRUTH, Findings(diverged=1)),
        ([opened(), *events(A, 1, 4), event(A, 5)._replace(text=99)], TRUTH, Findings(diverged=1)),
        ([opened(), *events(A, 1, 4), event(A, 5, after="x")], TRUTH, Findings(diverged=1)),
        ([opened(4, "x"), event(A, 5)], TRUTH, Findings(diverged=1)),
        ([opened(), *events(A, 1, 2), CLOSED, opened(2), *events(A, 3, 5)], TRUTH, Findings(restarted=1)),
        (
            [opened(), *events(A, 1, 2), CLOSED, opened(1, snapshot=False), *events(A, 3, 5)],
            TRUTH,
            Findings(restarted=1),
        ),
    ],
)
def test_one_session(records: Sequence[Record], truth: Truth, expected: Findings) -> None:
    assert judged(records, truth) == expected


TAIL = [event(A, 4, "x", after=""), event(A, 5, "x")]
"""What the old primary had, and the new one has not."""
ANEW = [opened(3), *events(A, 4, 5)]
DELETED_THEN = event(A, 3)._replace(text=history.REMOVED)


@pytest.mark.parametrize(
    ("records", "truth", "expected"),
    [
        ([opened(), *events(A, 1, 3), *TAIL, LOST, *ANEW], AFTER_LOSS, SOUND),
        ([opened(), *events(A, 1, 3), CLOSED, opened(3, snapshot=False), *events(A, 4, 5)], AFTER_LOSS, SOUND),
        ([opened(4, "x"), LOST, *ANEW], AFTER_LOSS, SOUND),
        # It had been deleted; the deletion is lost.
        ([opened(), *events(A, 1, 2), TAIL[1]._replace(text=DELETION), LOST, *ANEW], AFTER_LOSS, SOUND),
        # A message had been deleted when it came; the deletion is lost.
        ([opened(), *events(A, 1, 2), DELETED_THEN, *TAIL, LOST, *ANEW], AFTER_LOSS, SOUND),
        ([opened(), *events(A, 1, 2), DELETED_THEN, *events(A, 4, 5)], TRUTH, Findings(diverged=1)),
        # The service reported no loss.
        ([opened(), *events(A, 1, 3), *TAIL], AFTER_LOSS, Findings(diverged=2)),
        ([opened(), *events(A, 1, 3), TAIL[0], event(A, 5)], AFTER_LOSS, Findings(diverged=2)),
        # Not even a failover explains it.
        ([opened(), *events(A, 1, 3), *TAIL, LOST, *ANEW], TRUTH, Findings(diverged=2)),
        ([opened(), *events(A, 1, 2), event(A, 3, "x", after=""), LOST, *ANEW], AFTER_LOSS, Findings(diverged=1)),
        # It was not.
        ([opened(), *events(A, 1, 3), LOST, *ANEW], AFTER_LOSS, Findings(unfounded=1)),
        ([opened(3), LOST, *ANEW], AFTER_LOSS, Findings(unfounded=1)),
        # A hole before the loss is a hole.
        ([opened(), *events(A, 1, 2), *TAIL, LOST, *ANEW], AFTER_LOSS, Findings(lost=1)),
    ],
)
def test_one_session_whose_failover_lost_something(records: Sequence[Record], truth: Truth, expected: Findings) -> None:
    assert judged(records, truth) == expected


REMOVED = Truth({A: Log([b""] * 3 + [name(A, 4)], [0, 0, 0, 10], [0, 0, 0, 4])})
"""Deleted with the event at 4."""


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([opened(), *events(A, 1, 4)], SOUND),
        ([opened(), event(A, 1), event(A, 4)], SOUND),
        ([opened(2), event(A, 4)], SOUND),
        ([opened(), event(A, 1), event(A, 4), LOST], Findings(unfounded=1)),
        ([opened(), *events(A, 1, 3)], Findings(lost=1)),
        ([opened(), event(A, 1), event(A, 4), event(A, 3)], Findings(reordered=1)),
        ([opened(), *events(A, 1, 3), event(A, 4, "x", after="")], Findings(diverged=1)),
    ],
)
def test_a_session_that_was_deleted(records: Sequence[Record], expected: Findings) -> None:
    assert judged(records, REMOVED) == expected


def acks(*of: tuple[float, str, int]) -> list[Ack]:
    return [Ack(at, session_id, seq, at - 0.1, at - 0.1, "") for at, session_id, seq in of]


@pytest.mark.parametrize(
    ("records", "acknowledged", "expected"),
    [
        ([opened(), *events(A, 1, 5), Marked(9.0, 5, 8.0)], acks((7.0, A, 5)), SOUND),
        # Acknowledged after the read: it proves nothing about that.
        ([opened(), *events(A, 1, 4), Marked(9.0, 4, 8.0), event(A, 5)], acks((8.5, A, 5)), SOUND),
        (
            [opened(), *events(A, 1, 4), Marked(9.0, 4, 8.0), event(A, 5)],
            acks((7.5, A, 5)),
            Findings(false_bookmarks=1),
        ),
        ([opened(), *events(A, 1, 4), Marked(9.0, 5, 8.0), event(A, 5)], (), Findings(false_bookmarks=1)),
        ([opened(), *events(A, 1, 5), Marked(9.0, 4, 8.0)], (), Findings(false_bookmarks=1)),
        ([opened(5), Marked(9.0, 5, 8.0)], acks((7.0, A, 5)), SOUND),
    ],
)
def test_bookmarks(records: Sequence[Record], acknowledged: Sequence[Ack], expected: Findings) -> None:
    assert judged(records, TRUTH, acknowledged) == expected


FEED = [event(A, 1), event(B, 1), event(A, 2), event(B, 2), event(A, 3), event(B, 3)]
NOW = Opened(0.0, 0, 0, b"", b"")
BEGINNING = Opened(0.0, 0, -2, b"", b"")


@pytest.mark.parametrize(
    ("records", "acknowledged", "expected"),
    [
        ([NOW, *FEED], (), SOUND),
        ([BEGINNING, *FEED], (), SOUND),
        ([NOW, *FEED[2:]], (), SOUND),
        ([NOW], (), SOUND),
        ([BEGINNING, *FEED[2:]], (), Findings(lost=2)),
        ([NOW, *FEED[:4]], (), Findings(lost=2)),
        ([NOW, *FEED[:2], *FEED[3:]], (), Findings(lost=1)),
        # Written after the feed began, so it must have come.
        ([NOW, *FEED[3:]], acks((2.0, A, 2)), Findings(lost=1)),
        ([NOW], acks((2.0, B, 3)), Findings(lost=1)),
        # Tried before the feed began and again afterwards: it may have been committed before.
        ([NOW, *FEED[3:]], [Ack(2.0, A, 2, 1.9, -0.1, "")], SOUND),
        ([NOW, *FEED, FEED[5]], (), Findings(duplicated=1)),
        ([NOW, *FEED[:3], CLOSED, NOW._replace(seq=-1), *FEED[3:]], (), SOUND),
        ([NOW, *FEED[:3], CLOSED, NOW, *FEED[3:]], (), Findings(restarted=1)),
        ([NOW, FEED[0], FEED[2], FEED[1], *FEED[3:]], (), Findings(reordered=1)),
        ([NOW, FEED[0], FEED[1], FEED[4], FEED[3], FEED[2], FEED[5]], (), Findings(reordered=2)),
        ([NOW, *FEED[:5], event(B, 3, "x", after="")], (), Findings(diverged=1)),
        ([NOW, *FEED, Marked(9.0, 0, 8.0)], acks((7.0, A, 3)), SOUND),
        ([NOW, *FEED[:4], Marked(9.0, 0, 8.0), *FEED[4:]], acks((7.0, A, 3)), Findings(false_bookmarks=1)),
        ([NOW, *FEED[:4], Marked(9.0, 0, 8.0), *FEED[4:]], acks((8.5, A, 3)), SOUND),
        ([NOW, *FEED[:4], Marked(9.0, 0, 8.0), *FEED[4:]], [Ack(7.0, A, 3, 6.9, -0.1, "")], SOUND),
    ],
)
def test_the_feed(records: Sequence[Record], acknowledged: Sequence[Ack], expected: Findings) -> None:
    assert judged_feed(records, BOTH, acknowledged) == expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([NOW, *FEED, event(A, 4, "x", after=""), LOST, NOW], SOUND),
        ([NOW, *FEED, event(A, 4, "x", after="")], Findings(diverged=1)),
        ([NOW._replace(at=4.0), LOST, NOW], SOUND),
        ([NOW._replace(at=30.0), LOST._replace(at=31.0), NOW], Findings(unfounded=1)),
    ],
)
def test_a_feed_whose_failover_lost_something(records: Sequence[Record], expected: Findings) -> None:
    assert judged_feed(records, replace(BOTH, failovers=[LOSSY])) == expected


def test_only_a_failover_that_loses_excuses_and_only_calls_that_had_begun() -> None:
    lost, survived, later = Ack(5.0, A, 4, 4.9, 4.9, ""), Ack(5.0, A, 3, 4.9, 4.9, ""), Ack(9.0, A, 4, 8.0, 8.0, "")
    assert AFTER_LOSS.excuses(lost)
    assert not TRUTH.excuses(lost)
    assert not AFTER_LOSS.excuses(survived)
    assert not AFTER_LOSS.excuses(later)


def chain() -> list[Event]:
    message = Message(role=Role.ROLE_USER, parts=[Part(text="hello")])
    created = Session(session_id=A, version=1, last_event_id="1", request_count=1)
    return [
        Event(seq=1, event_id="1", type=EventType.EVENT_TYPE_SESSION_CREATED, session=created),
        Event(seq=2, event_id="2", previous_event_id="1", type=EventType.EVENT_TYPE_MESSAGE_APPENDED, message=message),
        Event(seq=3, event_id="3", previous_event_id="2", type=EventType.EVENT_TYPE_MESSAGE_APPENDED, message=message),
    ]


def states() -> list[Session]:
    folding, found = Folding({}), []
    for one in chain():
        folding.add(one)
        found.append(folding.state)
    return found


def changed(session: Session, change: Callable[[Session], None]) -> Session:
    other = Session()
    other.CopyFrom(session)
    change(other)
    return other


def test_snapshots_and_events_fold_to_the_row() -> None:
    one, two, three = states()
    wrong = changed(two, lambda session: session.__setattr__("message_count", 7))
    elsewhere = changed(wrong, lambda session: session.__setattr__("last_event_id", "x"))
    for snapshots, row, found in (
        ({1: [one], 2: [two, two]}, three, 0),
        ({2: [two, wrong]}, three, 1),
        ({2: [elsewhere]}, three, 0),
        ({}, two, 1),
    ):
        folding = Folding(snapshots)
        for event in chain():
            folding.add(event)
        assert folding.end(row) == found


def test_a_hole_does_not_fold() -> None:
    folding = Folding({})
    for event in (chain()[0], chain()[2]):
        folding.add(event)
    assert folding.end(states()[0]) == 1


def test_what_is_recorded_is_read(tmp_path: Path) -> None:
    event = Event(
        seq=2, session_id=A, event_id="00000000-0000-0000-0000-000000000002", previous_event_id="",
        message=Message(parts=[Part(text="hello")]),
    )  # fmt: skip
    records: list[Record] = [opened(1), got(1.5, event), *events(B, 1, 2), Marked(2.0, 3, 1.0), CLOSED, LOST, opened()]
    with Recorder(tmp_path / "history") as recorder:
        for record in records:
            recorder.write(record)
    assert list(read(tmp_path / "history")) == records
    content = (tmp_path / "history").read_bytes()
    (tmp_path / "history").write_bytes(content[:-3])
    assert list(read(tmp_path / "history")) == records[:-1]
    assert [one.lost for one in segments(records)] == [LOST, None]
    assert isinstance(next(segments(records)), Segment)
