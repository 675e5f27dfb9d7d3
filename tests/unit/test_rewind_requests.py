"""What RewindSession accepts, and what becomes of it; and what rewinds have hidden, as ranges."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.v1.run_pb2 import RunFence
from sessiond.v1.session_service_pb2 import RewindSessionRequest, RewindState
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.rewinds import ranges
from sessiond_server.errors import InvalidFields
from sessiond_server.rpc.sessions.branches import rewind_session

MOST = 2**53 - 1


def rewind(**fields: Any) -> RewindSessionRequest:
    return RewindSessionRequest(**{"session_id": "s", **fields})


@pytest.mark.parametrize(
    ("good", "bad", "field"),
    [
        ({"seq": 1}, {}, "seq"),
        ({"seq": 1}, {"seq": 0}, "seq"),
        ({"seq": MOST}, {"seq": MOST + 1}, "seq"),
        ({"seq": 1}, {"seq": -1}, "seq"),
        ({"message_id": "猫"}, {"message_id": ""}, "message_id"),
        ({"message_id": "m" * 255}, {"message_id": "m\0"}, "message_id"),
        ({"before_message_id": "🐈"}, {"before_message_id": ""}, "before_message_id"),
        ({"before_message_id": "m" * 255}, {"before_message_id": "m" * 256}, "before_message_id"),
        ({"seq": 1, "session_id": "a" * 255}, {"seq": 1, "session_id": ""}, "session_id"),
        ({"seq": 1, "state": 2}, {"seq": 1, "state": 3}, "state"),
        ({"seq": 1, "request_id": "r" * 128}, {"seq": 1, "request_id": "r" * 129}, "request_id"),
        ({"seq": 1, "expected_version": 0}, {"seq": 1, "expected_version": -1}, "expected_version"),
        (
            {"seq": 1, "run": RunFence(run_id="r", fence=1)},
            {"seq": 1, "run": RunFence(run_id="r", fence=0)},
            "run.fence",
        ),
    ],
)
def test_bounds_of_a_rewind(good: dict[str, Any], bad: dict[str, Any], field: str) -> None:
    rewind_session(rewind(**good))
    with pytest.raises(InvalidFields) as failure:
        rewind_session(rewind(**bad))
    assert [violation.field for violation in failure.value.violations] == [field]


def test_action_of_a_rewind() -> None:
    assert rewind_session(rewind(seq=3)).place == ForkPlace(3)
    assert rewind_session(rewind(message_id="m")).place == ForkPlace(0, "m")
    assert rewind_session(rewind(before_message_id="m")).place == ForkPlace(0, "m", before=True)
    kept = [rewind_session(rewind(seq=3, state=state)).restore for state in RewindState.values()]
    assert kept == [True, True, False]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=8))
def test_ranges_hide_what_was_not_visible_at_the_place(rewinds: list[tuple[int, int]]) -> None:
    """Against sets of all visible places, after rewinds to any place, with some events before each."""
    version, hidden, history = 1, ranges.NOTHING, {1: (ranges.NOTHING, {1})}
    visible = {1}
    for place, events in rewinds:
        for _ in range(events):
            version += 1
            visible = visible | {version}
            history[version] = hidden, visible
        to = 1 + place % version
        hidden, visible = history[to]
        version += 1
        hidden = ranges.after_rewind(hidden, to, version)
        history[version] = hidden, visible
        shown = {seq for first, last in ranges.visible(1, version, hidden) for seq in range(first, last + 1)}
        assert shown == visible
        assert [seq for seq in range(1, version + 1) if not ranges.hides(hidden, seq)] == sorted(visible)
        assert ranges.seen(range(1, version + 1), hidden) == sorted(visible)
        assert all(before[1] + 1 < after[0] for before, after in pairwise(hidden))
        cut = [seq for first, last in ranges.visible(2, version - 1, hidden) for seq in range(first, last + 1)]
        assert cut == sorted(visible & set(range(2, version)))
