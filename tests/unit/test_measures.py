"""What parts of the service count for metrics."""

import pytest

from sessiond_server.measures import BOUNDS, Durations, Rounds


@pytest.mark.parametrize(("place", "bound"), list(enumerate(BOUNDS)))
def test_bounds_of_a_histogram_are_inclusive(place: int, bound: float) -> None:
    times = Durations()
    times.note(bound)
    times.note(bound * 1.001)
    assert [number for number, count in enumerate(times.counts) if count] == [place, place + 1]
    assert times.seconds == pytest.approx(2.001 * bound)


def test_rounds_count_what_went_through_and_what_failed() -> None:
    now = 100.0
    rounds = Rounds("sweeper", "sessions", "records", clock=lambda: now)
    now = 103.0
    assert rounds.age() == 3.0
    began = rounds.begin()
    now = 105.0
    rounds.end(began, 7, 9)
    now = 106.0
    rounds.fail()
    assert (rounds.done, rounds.failed, rounds.seconds, rounds.age()) == (1, 1, 2.0, 1.0)
    assert rounds.achieved == {"sessions": 7, "records": 9}
