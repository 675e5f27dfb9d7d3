"""A tenant's feed in memory: order, anchors, bounds."""

from collections.abc import Sequence
from typing import Any

import pytest

from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.events.channel import Where
from sessiond_server.events.contract import FeedBatch, FeedCursor
from sessiond_server.events.feed import ANCHORS, BEGINNING, Feed, FeedBroken, advanced, check_order
from sessiond_server.events.late_commits import RunningTransactions
from sessiond_server.events.limits import HubLimits


def entry(xid: int, seq: int, session_id: str = "s", *, writer: int = 0) -> FeedEntry:
    data = LogEntry(seq, f"{session_id}{seq}", "", 6, b"0123456789")
    return FeedEntry(FeedPlace(xid, session_id, seq), data, "", "", {}, writer or xid)


def feed(cursor: FeedCursor = BEGINNING, transactions: RunningTransactions | None = None, **limits: Any) -> Feed:
    made = Feed("tenant", HubLimits(**limits), transactions or RunningTransactions())
    made.begin(cursor)
    return made


def places(found: object) -> list[tuple[int, int]]:
    assert isinstance(found, tuple)
    batch, end = found
    assert isinstance(batch, FeedBatch)
    assert end.place == batch.entries[-1].place
    return [(item.place.commit_xid, item.place.seq) for item in batch.entries]


def anchors(cursor: FeedCursor) -> list[tuple[int, str]]:
    return [(place.commit_xid, event_id) for place, event_id in cursor.anchors]


def late_commits(cursor: FeedCursor) -> list[str]:
    return [event_id for _, event_id in cursor.late_commits]


def advance(
    cursor: FeedCursor, entries: Sequence[FeedEntry], transactions: RunningTransactions | None = None
) -> FeedCursor:
    return advanced(cursor, entries, transactions or RunningTransactions())


def seen(*reads: set[int]) -> RunningTransactions:
    transactions = RunningTransactions()
    for running in reads:
        transactions.note_running(transactions.begin_read(), running)
    return transactions


def test_anchors_are_the_last_events_of_the_last_transactions() -> None:
    cursor = advance(BEGINNING, [entry(1, 1), entry(1, 2), entry(3, 3), entry(4, 4), entry(4, 5)])
    assert anchors(cursor) == [(1, "s2"), (3, "s3"), (4, "s5")]
    cursor = advance(cursor, [entry(4, 6), entry(9, 7)])
    assert anchors(cursor) == [(1, "s2"), (3, "s3"), (4, "s6"), (9, "s7")]


def test_number_of_anchors_is_bounded() -> None:
    cursor = BEGINNING
    for number in range(1, 20):
        cursor = advance(cursor, [entry(number, number)])
    assert [xid for xid, _ in anchors(cursor)] == list(range(20 - ANCHORS, 20))
    cursor = advance(cursor, [entry(xid, xid) for xid in range(20, 60)])
    assert [xid for xid, _ in anchors(cursor)] == list(range(60 - ANCHORS, 60))


def test_late_commit_is_named_however_many_transactions_overtook_it() -> None:
    overtakers = [entry(xid, xid) for xid in range(4, 30)]
    cursor = advance(BEGINNING, [entry(3, 1), entry(3, 2), *overtakers], seen({3}))
    assert late_commits(cursor) == ["s2"]
    assert "s2" not in [event_id for _, event_id in cursor.anchors]
    assert list(cursor.named) == [*cursor.anchors, *cursor.late_commits]
    cursor = advance(cursor, [entry(xid, xid) for xid in range(30, 60)], seen({3}))
    assert late_commits(cursor) == ["s2"]


def test_late_commit_is_recognised_by_the_transaction_that_wrote_it() -> None:
    assert late_commits(advance(BEGINNING, [entry(9, 1, writer=3), entry(9, 2)], seen({3}))) == ["s1"]
    assert late_commits(advance(BEGINNING, [entry(9, 1, writer=3), entry(9, 2)], seen({9}))) == ["s2"]


def test_event_that_is_anchor_and_late_commit_is_named_once() -> None:
    cursor = advance(BEGINNING, [entry(3, 1)], seen({3}))
    assert cursor.anchors == cursor.late_commits
    assert cursor.named == cursor.anchors


def test_late_commits_kept_are_those_that_ended_last() -> None:
    """Held back by another transaction, they may be delivered in any order."""
    transactions = seen({3, 4, 5, 6, 7, 8}, {3, 4, 5, 6, 8}, {4, 5, 6}, {5})
    cursor = advance(BEGINNING, [entry(xid, xid) for xid in (3, 4, 5)], transactions)
    assert late_commits(cursor) == ["s3", "s4", "s5"]
    cursor = advance(cursor, [entry(xid, xid) for xid in (6, 7, 8, 9)], transactions)
    assert late_commits(cursor) == ["s3", "s6", "s4", "s5"]


def test_late_commits_that_ended_together_are_kept_when_they_are_no_anchors() -> None:
    cursor = advance(BEGINNING, [entry(xid, xid) for xid in range(1, 13)], seen(set(range(1, 13))))
    assert sorted(xid for xid, _ in anchors(cursor)) == list(range(5, 13))
    assert sorted(place.commit_xid for place, _ in cursor.late_commits) == [1, 2, 3, 4]


def test_late_commits_of_a_resumed_position_give_way_to_newer_ones() -> None:
    elsewhere = FeedCursor(
        FeedPlace(4, "s", 4), (), tuple((FeedPlace(xid, "s", xid), f"s{xid}") for xid in range(1, 5))
    )
    cursor = advance(elsewhere, [entry(6, 6)], seen({6}))
    assert late_commits(cursor) == ["s2", "s3", "s4", "s6"]
    assert late_commits(advance(elsewhere, [entry(6, 6)])) == ["s1", "s2", "s3", "s4"]


def test_slow_read_does_not_overwrite_a_newer_sighting() -> None:
    transactions = RunningTransactions()
    early, late = transactions.begin_read(), transactions.begin_read()
    transactions.note_running(late, {3})
    transactions.note_running(early, {3, 4})
    assert (transactions.last_seen(3), transactions.last_seen(4), transactions.last_seen(5)) == (late, early, 0)


def test_number_of_sightings_is_bounded() -> None:
    transactions = seen({1, 2}, {1}, set(range(3, 32_770)))
    assert (transactions.last_seen(2), transactions.last_seen(1)) == (0, 2)
    transactions.note_running(transactions.begin_read(), {50_000})
    assert transactions.last_seen(1) == 0


def test_positions_in_the_ring_and_at_the_tip_name_late_commits() -> None:
    transactions = seen({3})
    one = feed(transactions=transactions)
    page = [entry(2, 1), entry(3, 2), *(entry(xid, xid) for xid in range(4, 20))]
    one.append(BEGINNING.place, page)
    found = one.after(BEGINNING)
    assert isinstance(found, tuple)
    assert one.tip is not None
    assert late_commits(found[1]) == late_commits(one.tip) == ["s2"]
    assert late_commits(advance(BEGINNING, page[:1], transactions)) == []


def test_page_is_delivered_to_every_stream_behind_it() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 2), entry(2, 3)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (2, 3)]
    middle = advance(BEGINNING, [entry(1, 1)])
    assert places(one.after(middle)) == [(2, 2), (2, 3)]
    assert one.after(advance(middle, [entry(2, 2), entry(2, 3)])) is Where.TIP
    first, second = one.after(middle), one.after(middle)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert first[0] is second[0]


def test_overlapping_page_is_merged_and_page_after_a_gap_is_ignored() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 2)])
    one.append(entry(1, 1).place, [entry(2, 2), entry(3, 3)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (3, 3)]
    one.append(entry(7, 7).place, [entry(8, 8)])
    assert places(one.after(BEGINNING)) == [(1, 1), (2, 2), (3, 3)]


def test_begin_moves_the_tip_forward_only() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1)])
    ahead = advance(BEGINNING, [entry(5, 5)])
    one.begin(ahead)
    assert one.after(ahead) is Where.TIP
    assert one.after(BEGINNING) is Where.ELSEWHERE
    one.begin(BEGINNING)
    assert one.tip == ahead


def test_ring_is_bounded_by_count_and_bytes() -> None:
    one = feed(ring_events=2)
    one.append(BEGINNING.place, [entry(number, number) for number in range(1, 6)])
    assert one.after(BEGINNING) is Where.ELSEWHERE
    assert places(one.after(advance(BEGINNING, [entry(3, 3)]))) == [(4, 4), (5, 5)]
    assert one.size == 20
    two = feed(ring_bytes=15)
    two.append(BEGINNING.place, [entry(number, number) for number in range(1, 6)])
    assert two.size == 10


def test_redaction_empties_the_ring_up_to_the_redacted_event() -> None:
    one = feed()
    one.append(BEGINNING.place, [entry(1, 1), entry(2, 1, "t"), entry(3, 2)])
    one.redact("t", 1, 1)
    assert one.after(BEGINNING) is Where.ELSEWHERE
    assert places(one.after(advance(BEGINNING, [entry(2, 1, "t")]))) == [(3, 2)]


def test_page_read_before_a_redaction_may_show_the_redacted_event() -> None:
    one = feed()
    since = one.redaction_count
    one.redact("s", 2, 2)
    assert one.may_show_redacted(since, [entry(1, 1), entry(2, 2)])
    assert not one.may_show_redacted(since, [entry(1, 1), entry(2, 2, "t")])
    assert not one.may_show_redacted(one.redaction_count, [entry(2, 2)])
    for seq in range(1000, 1300):
        one.redact("s", seq, seq)
    assert one.may_show_redacted(since, [entry(1, 1)]), "more than it remembers"


def test_page_out_of_order_raises() -> None:
    check_order("tenant", BEGINNING.place, [entry(1, 1), entry(1, 2), entry(2, 1, "a")])
    for wrong in ([entry(1, 2), entry(1, 1)], [entry(2, 2), entry(2, 2)]):
        with pytest.raises(FeedBroken):
            check_order("tenant", BEGINNING.place, wrong)
    with pytest.raises(FeedBroken):
        check_order("tenant", entry(5, 5).place, [entry(5, 5)])
