"""What a campaign of silence does and counts."""

import random

from tests.faults.schedule import Mix, schedule
from tests.faults.silence import LINKS, LONGEST, SHORTEST, SILENCES, WAYS, Span, Wait, lasting, longest_outage, possible


def test_every_link_is_silenced_both_ways_and_one_way() -> None:
    for link in LINKS:
        ways = {how.partition(" ")[2] for how, what in SILENCES if what == link}
        assert "both" in ways
        assert ways & {"onward", "back"}
        assert ways <= {*WAYS, ""}


def test_silences_last_as_long_as_they_may() -> None:
    chance = random.Random(1)
    taken = [lasting(chance, LONGEST) for _ in range(3000)]
    assert min(taken) >= SHORTEST
    assert 0.9 * LONGEST < max(taken) <= LONGEST
    assert sum(taken) / len(taken) < 25, "thirty take no more than twenty minutes"


def test_schedule_has_all_that_was_asked_for() -> None:
    faults = schedule(Mix.of("silences", 2 * len(SILENCES)), 1, 10.0)
    assert sorted((fault.how, fault.target) for fault in faults) == sorted([*SILENCES, *SILENCES])
    assert all(SHORTEST <= fault.seconds <= 10.0 for fault in faults)


def test_what_meets_a_span_is_possible_behind_it() -> None:
    assert possible(10.0, []) == 10.0
    assert possible(10.0, [(0.0, 9.0), (12.0, 20.0), (19.0, 40.0), (60.0, 70.0)]) == 40.0


def test_outage_is_what_a_writer_waited_without_need() -> None:
    wait = Wait("s", 10.0, 20.0)
    assert longest_outage([], []) == 0.0
    assert longest_outage([wait], []) == 10.0
    assert longest_outage([wait], [Span(0.0, 5.0), Span(25.0, 30.0)]) == 10.0
    assert longest_outage([wait], [Span(8.0, 16.0)]) == 4.0
    assert longest_outage([wait], [Span(13.0, 18.0)]) == 3.0
    assert longest_outage([wait], [Span(13.0, 18.0, "another")]) == 10.0
    assert longest_outage([wait], [Span(13.0, 18.0, "s"), Span(17.0, 30.0)]) == 3.0
    assert longest_outage([wait, Wait("t", 0.0, 11.0)], [Span(8.0, 16.0, "s")]) == 11.0
