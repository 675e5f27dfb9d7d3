"""A tenant's feed in memory: order, witnesses, bounds."""

from typing import Any

import pytest

from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.events.channel import Where
from sessiond_server.events.contract import FeedBatch, FeedCursor
from sessiond_server.events.feed import BEGINNING, WITNESSES, Feed, FeedBroken, advanced, check_order
from sessiond_server.events.limits import Limits


def entry(xid: int, seq: int, session_id: str = "s") -> FeedEntry:
    data = LogEntry(seq, f"{session_id}{seq}", "", 6, b"0123456789")
    return FeedEntry(FeedPlace(xid, session_id, seq), data, "", "", {})


def feed(cursor: FeedCursor = BEGINNING, **limits: Any) -> Feed:
    made = Feed("tenant", Limits(**limits))
    made.begin(cursor)
    return made


def places(found: object) -> list[tuple[int, int]]:
    assert isinstance(found, tuple)
    batch, end = found
    assert isinstance(batch, FeedBatch)
    assert end.place == batch.entries[-1].place
    return [(item.place.commit_xid, item.place.seq) for item in batch.entries]


def witnesses(cursor: FeedCursor) -> list[tuple[int, str]]:
    return [(place.commit_xid, event_id) for place, event_id in cursor.witnesses]


def test_witnesses_are_the_last_events_of_the_last_transactions() -> None:
    cursor = advanced(BEGINNING, [entry(1, 1), entry(1, 2), entry(3, 3), entry(4, 4), entry(4, 5)])
    assert witnesses(cursor) == [(1, "s2"), (3, "s3"), (4, "s5")]
    cursor = advanced(cursor, [entry(4, 6), entry(9, 7)])
    assert witnesses(cursor) == [(1, "s2"), (3, "s3"), (4, "s6"), (9, "s7")]


def test_there_are_only_so_many_witnesses() -> None:
    cursor = BEGINNING
    for number in range(1, 20):
        cursor = advanced(cursor, [entry(number, number)])
    assert [xid for xid, _ in witnesses(cursor)] == list(range(20 - WITNESSES, 20))
    cursor = advanced(cursor, [entry(xid, xid) for xid in range(20, 60)])
    assert [xid for xid, _ in witnesses(cursor)] == list(range(60 - WITNESSES, 60))


def test_a_page_is_given_to_whoever_is_behind_it() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 2), entry(2, 3)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (2, 3)]
    middle = advanced(BEGINNING, [entry(1, 1)])
    assert places(one.after(middle)) == [(2, 2), (2, 3)]
    assert one.after(advanced(middle, [entry(2, 2), entry(2, 3)])) is Where.TIP
    first, second = one.after(middle), one.after(middle)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] is second[0]


def test_what_overlaps_is_taken_once_and_what_leaves_a_gap_is_not() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 2)])
    one.append(entry(1, 1).place, [entry(2, 2), entry(3, 3)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (3, 3)]
    one.append(entry(7, 7).place, [entry(8, 8)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (3, 3)]


def test_it_goes_on_from_the_newest_stream() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1)])
    ahead = advanced(BEGINNING, [entry(5, 5)])
    one.begin(ahead)
    assert one.after(ahead) is Where.TIP
    assert one.after(BEGINNING) is Where.ELSEWHERE
    one.begin(BEGINNING)
    assert one.tip == ahead


def test_the_ring_is_bounded() -> None:
    one = feed(ring_events=2)
    one.append(BEGINNING.place, [entry(number, number) for number in range(1, 6)])
    assert one.after(BEGINNING) is Where.ELSEWHERE
    assert places(one.after(advanced(BEGINNING, [entry(3, 3)]))) == [(4, 4), (5, 5)]
    assert one.size == 20
    two = feed(ring_bytes=15)
    two.append(BEGINNING.place, [entry(number, number) for number in range(1, 6)])
    assert two.size == 10


def test_a_redaction_empties_the_ring_up_to_what_it_redacted() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 1, "t"), entry(3, 2)])
    one.redact("t", 1)
    assert one.after(BEGINNING) is Where.ELSEWHERE
    assert places(one.after(advanced(BEGINNING, [entry(2, 1, "t")]))) == [(3, 2)]


def test_pages_from_before_a_redaction_are_spoiled() -> None:
    one = feed()
    since = one.redaction_count
    one.redact("s", 2)
    assert one.spoiled(since, [entry(1, 1), entry(2, 2)])
    assert not one.spoiled(since, [entry(1, 1), entry(2, 2, "t")])
    assert not one.spoiled(one.redaction_count, [entry(2, 2)])
    for seq in range(1000, 1300):
        one.redact("s", seq)
    assert one.spoiled(since, [entry(1, 1)]), "more than it remembers"


def test_pages_out_of_order_are_a_defect() -> None:
    check_order("tenant", BEGINNING.place, [entry(1, 1), entry(1, 2), entry(2, 1, "a")])
    for wrong in ([entry(1, 2), entry(1, 1)], [entry(2, 2), entry(2, 2)]):
        with pytest.raises(FeedBroken):
            check_order("tenant", BEGINNING.place, wrong)
    with pytest.raises(FeedBroken):
        check_order("tenant", entry(5, 5).place, [entry(5, 5)])
