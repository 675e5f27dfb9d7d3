"""A channel: which events it keeps, delivers and evicts."""

from typing import Any

import pytest

from sessiond.v1.event_pb2 import DeletedMessages, Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain.log import LogEntry
from sessiond_server.errors import PositionCompacted, PositionLost
from sessiond_server.events.channel import START, Channel, Fit, LogBroken, Where, check, cursor_after
from sessiond_server.events.contract import Batch, Cursor
from sessiond_server.events.limits import BATCH_BYTES, BATCH_EVENTS, HubLimits
from sessiond_server.store.log_reads import LogHead, LogPage

KEY = ("tenant", "s")
TOUCHED = EventType.EVENT_TYPE_SESSION_TOUCHED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
REDACTED = EventType.EVENT_TYPE_MESSAGE_REDACTED
MESSAGES_DELETED = EventType.EVENT_TYPE_MESSAGES_DELETED


def event(seq: int, history: str = "a", type: int = TOUCHED, data: bytes = b"0123456789") -> LogEntry:
    return LogEntry(seq, f"{history}{seq}", f"{history}{seq - 1}" if seq > 1 else "", type, data)


def events(first: int, last: int, history: str = "a") -> list[LogEntry]:
    return [event(seq, history) for seq in range(first, last + 1)]


def at(seq: int, history: str = "a") -> Cursor:
    return Cursor(seq, f"{history}{seq}") if seq else START


def redaction(seq: int, of: int) -> LogEntry:
    return event(seq, type=REDACTED, data=Event(message=Message(seq=of)).SerializeToString())


def channel(tip: int = 0, **limits: Any) -> Channel:
    made = Channel(KEY, HubLimits(**limits), "1")
    made.append(at(tip), [])
    made.proved("1")
    return made


def page(version: int, after: int, last: int | None = None, *, history: str = "a", deleted: bool = False) -> LogPage:
    last = version if last is None else last
    before = event(after, history) if 0 < after <= version else None
    return LogPage(LogHead(version, deleted), "user", before, events(after + 1, last, history))


def seqs(found: object) -> list[int]:
    assert isinstance(found, tuple)
    batch, end = found
    assert isinstance(batch, Batch)
    assert end == cursor_after(batch.entries[-1])
    return [entry.seq for entry in batch.entries]


def test_announced_events_are_delivered_to_every_stream_behind_them() -> None:
    one = channel(2)
    assert one.after(at(2)) is Where.TIP
    assert one.append(at(2), events(3, 4)) is Fit.JOINED
    assert seqs(one.after(at(2))) == [3, 4]
    assert seqs(one.after(at(3))) == [4]
    assert one.after(at(4)) is Where.TIP
    assert one.after(at(1)) is Where.ELSEWHERE
    assert one.after(at(5)) is Where.ELSEWHERE


def test_streams_at_the_same_seq_share_one_batch() -> None:
    one = channel(0)
    one.append(START, events(1, 3))
    first, second = one.after(START), one.after(START)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] is second[0]
    assert first[1] is second[1]


def test_batch_is_rebuilt_when_more_events_have_arrived() -> None:
    one = channel(0)
    one.append(START, events(1, 1))
    assert seqs(one.after(START)) == [1]
    one.append(at(1), events(2, 2))
    assert seqs(one.after(START)) == [1, 2]


@pytest.mark.parametrize("cursor", [at(2, "b"), at(3, "b"), at(4, "b")])
def test_cursor_of_another_history_is_not_served_from_the_ring(cursor: Cursor) -> None:
    one = channel(2)
    one.append(at(2), events(3, 4))
    assert one.after(cursor) is Where.ELSEWHERE


def test_overlapping_and_duplicate_events_are_kept_once() -> None:
    one = channel(0)
    one.append(START, events(1, 3))
    assert one.append(START, events(1, 5)) is Fit.JOINED
    assert one.append(at(3), events(4, 5)) is Fit.JOINED
    assert one.append(at(1), events(2, 2)) is Fit.JOINED
    assert seqs(one.after(START)) == [1, 2, 3, 4, 5]


def test_events_after_a_gap_are_not_kept() -> None:
    one = channel(2)
    assert not one.follows(4, 5)
    assert one.follows(3, 5)
    assert one.append(at(3), events(4, 5)) is Fit.GAP
    assert one.tip == at(2)


@pytest.mark.parametrize(
    ("before", "entries"),
    [
        (at(4, "b"), [event(5, "b")]),
        (at(3, "b"), [event(4, "b"), event(5, "b")]),
        (at(1, "b"), [event(2, "b"), event(3, "b")]),
        (at(4, "b"), []),
        (at(3, "b"), []),
        (at(3, "b"), [event(4, "b", DELETED)]),
        (at(4, "b"), [event(5, "b", DELETED)]),
    ],
)
def test_events_of_another_history_are_a_mismatch_and_are_not_kept(before: Cursor, entries: list[LogEntry]) -> None:
    one = channel(0)
    one.append(START, events(1, 4))
    assert one.append(before, entries) is Fit.MISMATCH
    assert one.tip == at(4)
    assert seqs(one.after(START)) == [1, 2, 3, 4]


def test_the_ring_is_bounded_by_count() -> None:
    one = channel(0, ring_events=3)
    one.append(START, events(1, 10))
    assert one.after(at(6)) is Where.ELSEWHERE
    assert seqs(one.after(at(7))) == [8, 9, 10]
    assert one.size == 30


def test_the_ring_is_bounded_by_bytes_and_keeps_the_newest() -> None:
    one = channel(0, ring_bytes=25)
    one.append(START, events(1, 3))
    assert seqs(one.after(at(1))) == [2, 3]
    one.append(at(3), [event(4, data=b"x" * 100)])
    assert seqs(one.after(at(3))) == [4]
    assert one.after(at(2)) is Where.ELSEWHERE
    one.evict()
    assert one.size == 0
    assert one.after(at(4)) is Where.TIP


def test_a_batch_is_bounded_by_count_and_bytes() -> None:
    one = channel(0, ring_events=10**4, ring_bytes=10**8)
    one.append(START, events(1, BATCH_EVENTS + 5))
    assert len(seqs(one.after(START))) == BATCH_EVENTS
    two = channel(0, ring_bytes=10**8)
    half = b"x" * (BATCH_BYTES // 2)
    two.append(START, [event(seq, data=half) for seq in (1, 2, 3)])
    assert seqs(two.after(START)) == [1, 2]
    three = channel(0, ring_bytes=10**8)
    three.append(START, [event(1, data=b"x" * (BATCH_BYTES + 1)), event(2)])
    assert seqs(three.after(START)) == [1]


def test_deletion_may_follow_any_event() -> None:
    one = channel(2)
    one.append(at(2), events(3, 5))
    assert one.append(at(8), [event(9, type=DELETED)]) is Fit.JOINED
    assert seqs(one.after(START)) == [9]
    assert seqs(one.after(at(4))) == [9]
    assert one.final == event(9, type=DELETED)
    one.evict()
    assert seqs(one.after(at(4))) == [9]


def test_redaction_that_is_read_empties_the_ring_up_to_the_redacted_event() -> None:
    one = channel(0)
    one.append(START, events(1, 5))
    one.note_redactions([redaction(6, of=3)])
    one.append(at(5), [redaction(6, of=3)])
    assert one.after(at(2)) is Where.ELSEWHERE
    assert seqs(one.after(at(3))) == [4, 5, 6]
    assert one.redaction_count == 1


def test_page_that_contains_its_redaction_is_kept() -> None:
    one = channel(0)
    told: list[tuple[int, int]] = []
    one.on_redacted = lambda key, first, last: told.append((first, last))
    read = [*events(1, 3), redaction(4, of=2)]
    one.note_redactions(read)
    one.append(START, read)
    assert seqs(one.after(START)) == [1, 2, 3, 4]
    assert told == [(2, 2)]


def test_page_read_before_a_redaction_may_show_the_redacted_event() -> None:
    one = channel(10)
    since = one.redaction_count
    assert not one.may_show_redacted(since, page(10, 3))
    one.redact(7, 7)
    assert one.may_show_redacted(since, page(10, 3))
    assert not one.may_show_redacted(since, page(10, 7)), "without the redacted event"
    assert not one.may_show_redacted(one.redaction_count, page(10, 3)), "begun after it was known"
    for seq in range(1000, 1100):
        one.redact(seq, seq)
    assert one.may_show_redacted(since, page(10, 3)), "more than it remembers"


def test_deletion_that_is_read_empties_the_ring_up_to_the_last_deleted_message() -> None:
    one = channel(0)
    one.append(START, events(1, 5))
    deleted = DeletedMessages(seqs=[2, 4])
    gone = event(6, type=MESSAGES_DELETED, data=Event(deleted_messages=deleted).SerializeToString())
    one.note_redactions([gone])
    one.append(at(5), [gone])
    assert one.after(at(3)) is Where.ELSEWHERE
    assert seqs(one.after(at(4))) == [5, 6]
    assert one.redaction_count == 1
    assert not one.follows(3, 3)
    nothing = event(7, type=MESSAGES_DELETED, data=Event(deleted_messages=DeletedMessages()).SerializeToString())
    one.note_redactions([nothing])
    assert one.redaction_count == 1


def test_deletion_of_what_named_the_session_empties_the_ring() -> None:
    """Any event after the message may have repeated the name."""
    one = channel(0)
    one.append(START, events(1, 5))
    deleted = Event(deleted_messages=DeletedMessages(seqs=[2]), session_name="")
    gone = event(6, type=MESSAGES_DELETED, data=deleted.SerializeToString())
    one.note_redactions([gone])
    one.append(at(5), [gone])
    assert one.after(at(4)) is Where.ELSEWHERE
    assert seqs(one.after(at(5))) == [6]


def test_rewritten_range_beyond_the_ring_leaves_it_alone() -> None:
    one = channel(0)
    one.append(START, events(1, 5))
    one.redact(6, 9)
    assert seqs(one.after(START)) == [1, 2, 3, 4, 5]
    one.redact(4, 9)
    assert one.after(at(4)) is Where.ELSEWHERE


def test_announcement_of_a_redacted_event_is_ignored() -> None:
    one = channel(2)
    one.redact(4, 4)
    assert not one.follows(3, 4)
    assert one.follows(3, 3)


def test_hint_causes_a_read_and_nothing_else() -> None:
    one = channel(2)
    assert not one.behind
    one.note_hint(5)
    assert one.behind
    assert one.after(at(2)) is Where.TIP
    assert one.head_seq == 2
    one.read(one.hinted_seq, page(2, 2))
    assert not one.behind, "a read has shown that there is no more"


def test_hint_during_a_read_causes_another_read() -> None:
    one = channel(2)
    one.note_hint(3)
    asked = one.hinted_seq
    one.note_hint(4)
    one.append(at(2), events(3, 3))
    one.read(asked, page(3, 2))
    assert one.behind


def test_page_that_ends_early_causes_another_read() -> None:
    one = channel(0)
    one.append(START, events(1, 3))
    one.read(0, page(9, 0, 3))
    assert one.behind
    assert one.head_seq == 9


def test_head_equal_to_the_tip_is_a_proof() -> None:
    one = channel(2)
    one.note_head(at(2), LogHead(2, False), "1", 77)
    assert one.proof == (at(2), 77)


@pytest.mark.parametrize(
    ("head", "incarnation"), [(None, "1"), (LogHead(1, False), "1"), (LogHead(2, False), "2"), (LogHead(3, False), "2")]
)
def test_head_that_differs_from_the_tip_marks_the_channel_suspect(head: LogHead | None, incarnation: str) -> None:
    one = channel(2)
    one.note_head(at(2), LogHead(2, False), "1", 70)
    one.note_head(at(2), head, incarnation, 77)
    assert one.suspect
    assert one.proof is None
    one.note_head(at(2), LogHead(2, False), "1", 78)
    assert one.proof is None, "until a read has proved the tip"
    one.proved("1")
    one.note_head(at(2), LogHead(2, False), "1", 79)
    assert one.proof == (at(2), 79)


def test_head_older_than_the_tip_does_not_mark_the_channel_suspect() -> None:
    one = channel(2)
    one.append(at(2), events(3, 5))
    one.note_head(at(2), LogHead(3, False), "1", 77)
    assert not one.suspect
    assert one.proof is None


def test_events_skipped_by_a_jump_are_read_from_the_store() -> None:
    one = channel(2)
    one.append(at(2), events(3, 4))
    one.restart_at(at(9), events(10, 11))
    assert one.after(at(4)) is Where.ELSEWHERE
    assert seqs(one.after(at(9))) == [10, 11]


@pytest.mark.parametrize(
    ("cursor", "read", "error"),
    [
        (at(5), page(4, 5), PositionLost),
        (at(3, "b"), page(6, 3), PositionLost),
        (at(3), LogPage(LogHead(6, False), "", None, events(5, 6)), PositionCompacted),
        (at(3), LogPage(LogHead(6, False), "", None, []), PositionCompacted),
        (at(3), LogPage(LogHead(6, False), "", None, events(4, 6, "b")), PositionCompacted),
        (START, LogPage(LogHead(6, False), "", None, events(3, 6)), PositionCompacted),
        (at(3), LogPage(LogHead(3, True), "", event(3, "b", DELETED), []), PositionLost),
        (at(9), LogPage(LogHead(3, True), "", None, []), PositionLost),
        (at(3), LogPage(LogHead(6, False), "", event(3), [event(4), event(6)]), LogBroken),
        (at(3), LogPage(LogHead(6, False), "", event(3), [event(4), event(5, "b")]), LogBroken),
    ],
)
def test_page_that_does_not_continue_the_cursor_is_a_typed_error(
    cursor: Cursor, read: LogPage, error: type[Exception]
) -> None:
    with pytest.raises(error):
        check(KEY, cursor, read)


@pytest.mark.parametrize(
    ("cursor", "read"),
    [
        (at(3), page(6, 3)),
        (at(6), page(6, 6)),
        (START, page(6, 0)),
        (at(3), LogPage(LogHead(6, False), "", None, events(4, 6))),
        (at(3), LogPage(LogHead(6, True), "", None, [event(6, type=DELETED)])),
        (at(6), LogPage(LogHead(6, True), "", event(6, type=DELETED), [])),
    ],
)
def test_page_that_continues_the_cursor_is_accepted(cursor: Cursor, read: LogPage) -> None:
    check(KEY, cursor, read)
