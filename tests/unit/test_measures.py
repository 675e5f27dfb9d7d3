"""What parts of the service count for metrics."""

import pytest

from sessiond_server.measures import BOUNDS, Durations, Rounds
from sessiond_server.metrics import sources


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


def test_rounds_of_a_database_that_fails_are_not_hidden_by_another() -> None:
    now = 0.0
    failing, sound = (Rounds("sweeper", "sessions", clock=lambda: now) for _ in range(2))
    now = 400.0
    failing.fail()
    sound.end(sound.begin(), 3)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in sources._rounds([[failing, sound]])
        for sample in family.samples
    }
    assert found == {
        ("sessiond_sweeps_total", "sweeper", "done"): 1,
        ("sessiond_sweeps_total", "sweeper", "failed"): 1,
        ("sessiond_sweep_seconds_total", "sweeper"): 0,
        ("sessiond_sweep_age_seconds", "sweeper"): 400,
        ("sessiond_swept_total", "sessions"): 3,
    }
