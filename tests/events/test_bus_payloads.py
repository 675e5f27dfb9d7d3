"""What travels on a bus, and what waits to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint
from sessiond_server.events.outbox import DELTA_OVERHEAD, DeltaQueue, Hints
from sessiond_server.events.payloads import EVERYTHING, deltas_in, deltas_record, hint_line, hints_in
from tests.support.odd_ids import ODD_IDS

tenants = st.text("azAZ09._:~-", min_size=1, max_size=8)
ids = st.one_of(tenants, st.sampled_from(ODD_IDS), st.text("a %20", min_size=1, max_size=8))
keys = st.tuples(tenants, ids)
hints = st.lists(st.builds(Hint, keys, st.integers(1, 2**62)), min_size=1, max_size=30)
pieces = st.lists(st.builds(Deltas, keys, st.lists(st.binary(max_size=20), min_size=1, max_size=4)), max_size=10)
ONE: Key = ("acme", "one")
TWO: Key = ("acme", "two")


@given(hints)
def test_hints_round_trip(given_hints: list[Hint]) -> None:
    assert hints_in(b"\n".join([hint_line(hint.key, hint.seq) for hint in given_hints])) == given_hints


@given(pieces)
def test_deltas_round_trip(given_deltas: list[Deltas]) -> None:
    assert list(deltas_in(b"".join([deltas_record(deltas) for deltas in given_deltas]))) == given_deltas


@given(st.binary(max_size=60))
def test_any_payload_is_read_without_an_error(payload: bytes) -> None:
    hints_in(payload)
    list(deltas_in(payload))


@pytest.mark.parametrize("payload", [EVERYTHING, b"", b"acme one", b"acme one x", b"acme one 1\n"])
def test_undecodable_payload_means_that_every_session_may_have_changed(payload: bytes) -> None:
    assert hints_in(payload) is None


@given(hints, st.integers(1, 100))
def test_payloads_have_the_highest_seq_of_each_session_once_and_keep_to_their_size(
    given_hints: list[Hint], size: int
) -> None:
    waiting = Hints()
    waiting.add(given_hints)
    payloads = []
    while waiting:
        payloads.append(waiting.take(size))
    assert all(len(payload) <= size or b"\n" not in payload for payload in payloads)
    taken = [hint for payload in payloads for hint in hints_in(payload) or ()]
    highest: dict[Key, int] = {}
    for hint in given_hints:
        highest[hint.key] = max(hint.seq, highest.get(hint.key, 0))
    assert [(hint.key, hint.seq) for hint in taken] == list(highest.items())


def test_too_many_sessions_become_one_hint_for_all() -> None:
    waiting = Hints(most=2)
    waiting.add([Hint(ONE, 1), Hint(TWO, 1)])
    assert len(waiting) == 2
    waiting.add([Hint(("acme", "three"), 1)])
    waiting.add([Hint(ONE, 2)])
    assert waiting.take(1000) == EVERYTHING
    assert not waiting
    waiting.add([Hint(ONE, 3)])
    assert waiting.take(1000) == b"acme one 3"


def test_dropped_hints_are_counted() -> None:
    waiting = Hints(most=2)
    waiting.add([Hint(ONE, 1), Hint(TWO, 1)])
    assert waiting.clear() == 2
    assert not waiting
    assert waiting.clear() == 0


def test_oldest_deltas_are_dropped_first() -> None:
    queue = DeltaQueue(most_bytes=3 * DELTA_OVERHEAD + 11)
    queue.add(Deltas(ONE, [b"aaaa", b"bbbb"]))
    assert queue.dropped == 0
    queue.add(Deltas(TWO, [b"cccc"]))
    assert queue.dropped == 1
    assert queue.size == 2 * DELTA_OVERHEAD + 8
    assert list(deltas_in(queue.take(1000))) == [Deltas(ONE, [b"bbbb"]), Deltas(TWO, [b"cccc"])]
    assert not queue
    assert queue.size == 0


@given(pieces, st.integers(1, 50))
def test_deltas_leave_in_order_for_each_session(given_deltas: list[Deltas], size: int) -> None:
    queue = DeltaQueue()
    expected: dict[Key, list[bytes]] = {}
    for deltas in given_deltas:
        queue.add(deltas)
        expected.setdefault(deltas.key, []).extend(deltas.data)
    got: dict[Key, list[bytes]] = {}
    while queue:
        records = list(deltas_in(queue.take(size)))
        data = [piece for deltas in records for piece in deltas.data]
        assert data
        assert sum(map(len, data)) <= size or sum(map(bool, data)) == 1
        for deltas in records:
            got.setdefault(deltas.key, []).extend(deltas.data)
    assert got == expected
    assert queue.size == 0
    assert queue.dropped == 0
