"""Calls that cannot be served in time are refused, and no others."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from sessiond_server.rpc.pace import KEEP, MANY, MARGIN, Pace


@dataclass
class World:
    """A pace whose clock is set by hand."""

    now: float = 100.0
    pace: Pace = field(init=False)

    def __post_init__(self) -> None:
        self.pace = Pace(lambda: self.now)


def many_late(world: World, tenant_id: str, seconds: float | None) -> None:
    for _ in range(round(MANY)):
        world.pace.late(tenant_id, seconds)


def test_nothing_is_refused_for_a_few_late_calls() -> None:
    """As when the database is away, and one caller after the other gives up."""
    world = World()
    for _ in range(500):
        world.pace.late("t", 3.0)
        world.now += 0.1
        assert world.pace.hopeless("t", 1.0) is None
    for _ in range(round(MANY)):
        world.pace.late("t", 3.0)
    assert world.pace.hopeless("t", 1.0) is not None


def test_nothing_is_refused_while_no_call_is_late() -> None:
    world = World()
    world.pace.ended("t", 30.0)
    assert not world.pace.judges
    assert world.pace.hopeless("t", 0.001) is None


def test_calls_with_less_time_than_others_took_are_refused() -> None:
    world = World()
    many_late(world, "t", 2.0)
    assert world.pace.judges
    assert world.pace.hopeless("t", 2.0 * MARGIN - 0.01) == 2.0 * MARGIN
    assert world.pace.hopeless("t", 2.0 * MARGIN) is None
    assert world.pace.hopeless("t", None) is None, "it has no deadline"
    assert world.pace.hopeless("other", 0.001) is None, "tenants are judged by their own calls"


def test_one_slow_call_among_many_counts_little() -> None:
    world = World()
    for _ in range(500):
        world.pace.late("t", 0.01)
    world.pace.ended("t", 10.0)
    assert world.pace.hopeless("t", 0.4) is None


def test_judging_ends_with_the_overload() -> None:
    world = World()
    many_late(world, "t", 2.0)
    world.now += KEEP
    assert world.pace.hopeless("t", 1.0) is not None
    world.now += 0.01
    assert world.pace.hopeless("t", 1.0) is None
    assert not world.pace.judges


def test_tenants_that_call_no_more_are_forgotten() -> None:
    world = World()
    for number in range(100):
        world.pace.late(f"t{number}", 1.0)
        world.now += KEEP
    world.now += KEEP
    world.pace.late("t", 1.0)
    world.now += KEEP + 0.01
    assert world.pace.hopeless("t", 0.1) is None
    assert not world.pace.judges


def test_calls_that_were_late_before_they_came_tell_no_duration() -> None:
    world = World()
    many_late(world, "t", None)
    assert world.pace.hopeless("t", 0.001) is None, "nothing is known yet"
    world.pace.ended("t", 1.0)
    world.pace.late("t", None)
    assert world.pace.hopeless("t", 1.0) is not None


ACCEPT = 0.0002
SERVE = 0.0006
SATURATED = 1 / (ACCEPT + SERVE)
WAITING = 2048


def goodput(times: float, deadline: float, *, judged: bool) -> float:
    """A simulation of one loop: arrivals in an open loop wait in a queue of the core, are accepted in order, 64 in a
    turn, and served in batches of 128. The share of the saturated rate that is answered in time, of 10 s."""
    draws, world = random.Random(1), World(now=0.0)
    pace = world.pace
    core: deque[float] = deque()
    accepted: deque[tuple[float, float]] = deque()
    arrival, answered = 0.0, 0

    def arrive() -> None:
        nonlocal arrival
        while arrival <= world.now:
            if len(core) < WAITING:
                core.append(arrival + deadline)
            arrival += draws.expovariate(times * SATURATED)

    while world.now < 10.0:
        arrive()
        for _ in range(min(64, len(core))):
            until = core.popleft()
            world.now += ACCEPT
            if until <= world.now:
                pace.late("", None)
            elif not judged or pace.hopeless("", until - world.now) is None:
                accepted.append((until, world.now))
        batch: list[tuple[float, float]] = []
        while accepted and len(batch) < 128:
            until, began = accepted.popleft()
            if until <= world.now:
                pace.late("", until - began)
            else:
                batch.append((until, began))
        world.now += 0.001 + SERVE * len(batch)
        for until, began in batch:
            if until < world.now:
                pace.late("", until - began)
            else:
                pace.ended("", world.now - began)
                answered += world.now > 2.0
    return answered / 8.0 / SATURATED


@pytest.mark.parametrize(("times", "deadline"), [(2, 0.5), (2, 1.0), (5, 1.0)])
def test_overloaded_service_goes_on_answering(times: float, deadline: float) -> None:
    """Where callers' deadlines are shorter than the queue is long. 2 048 calls that cost 0.2 ms each to accept leave at
    most 0.7 of the loop."""
    assert goodput(times, deadline, judged=False) < 0.05
    assert goodput(times, deadline, judged=True) > 0.55


@pytest.mark.parametrize(("times", "deadline"), [(0.8, 0.3), (0.8, 1.0), (5, 5.0)])
def test_where_calls_arrive_in_time_nothing_changes(times: float, deadline: float) -> None:
    assert goodput(times, deadline, judged=True) == goodput(times, deadline, judged=False) >= 0.79
