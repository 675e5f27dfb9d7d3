"""A seed is a schedule."""

from collections import Counter

from sessiond_server import failpoints
from tests.faults.schedule import FAILPOINTS, Mix, schedule


def test_a_seed_repeats_its_schedule() -> None:
    mix = Mix.of("all", 10)
    assert schedule(mix, 7) == schedule(mix, 7)
    assert schedule(mix, 7) != schedule(mix, 8)


def test_everything_that_was_asked_for_is_there() -> None:
    faults = schedule(Mix.of("all", 100), 1)
    kinds = Counter(fault.kind for fault in faults)
    assert kinds == {
        "kills": 100,
        "drains": 10,
        "redis": 30,
        "restarts": 20,
        "failovers": 10,
        "failpoints": 20,
        "proxy": 90,
    }
    assert Counter(fault.how for fault in faults if fault.kind == "failovers") == {"synchronous": 5, "asynchronous": 5}
    assert set(Counter((fault.how, fault.target) for fault in faults if fault.kind == "proxy").values()) == {10}
    assert {fault.target for fault in faults if fault.kind == "kills"} == {"0", "1", "2"}


def test_a_short_one_has_everything_too() -> None:
    faults = schedule(Mix.of("all", 1), 1)
    assert {fault.kind for fault in faults} == {
        "kills",
        "drains",
        "redis",
        "restarts",
        "failovers",
        "failpoints",
        "proxy",
    }
    assert {fault.how for fault in faults if fault.kind == "failovers"} == {"synchronous", "asynchronous"}
    assert [fault.kind for fault in schedule(Mix.of("failovers", 3), 1)] == ["failovers"] * 3


def test_the_failpoints_are_some_of_the_servers_and_every_place_is_among_them() -> None:
    armed = [failpoints.parse(text) for text in FAILPOINTS]
    assert {place for faults in armed for place in faults} == failpoints.PLACES


def test_restores_take_turns_and_are_left_alone() -> None:
    faults = schedule(Mix.of("restores", 40), 3)
    assert Counter(fault.how for fault in faults) == {"dump": 20, "log": 20}
    assert not any(fault.overlaps for fault in faults)
    assert Mix.of("all", 100).restores == 0
