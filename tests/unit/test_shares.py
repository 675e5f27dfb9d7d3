"""The share of a bounded resource that one tenant may hold, and which waiting call is next."""

import asyncio
from random import Random

import pytest

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.places import Places
from sessiond_server.slots import OLDEST_EACH, Slots
from tests.support.waiting import until


def held(shares: Shares, tenant_id: str) -> int:
    count = 0
    while shares.take(tenant_id):
        count += 1
    return count


def test_one_tenant_leaves_a_quarter_and_two_leave_a_seventh() -> None:
    shares = Shares(700)
    assert held(shares, "a") == 525
    assert held(shares, "b") == 131
    assert held(shares, "c") == 33
    assert 700 - shares.used > 0


def test_shares_converge_when_the_first_tenant_gives_back() -> None:
    shares = Shares(700)
    mine = held(shares, "a")
    for _ in range(mine - 300):
        shares.give("a")
    assert held(shares, "b") == 300
    assert not shares.take("a")


def test_tenant_that_is_alone_may_hold_all() -> None:
    assert held(Shares(7, alone=lambda: True), "a") == 7


def test_last_place_is_for_a_tenant_that_has_none() -> None:
    shares = Shares(2)
    assert held(shares, "a") == 1
    assert held(shares, "b") == 1
    assert held(shares, "c") == 0


async def test_places_go_to_tenants_by_turns() -> None:
    places, order = Places(1, waiting=Shares(100)), list[str]()
    await places.take("a")

    async def wait(tenant_id: str) -> None:
        await places.take(tenant_id)
        order.append(tenant_id)
        places.give(tenant_id)

    waiting = [asyncio.create_task(wait(tenant_id)) for tenant_id in ["a"] * 3 + ["b"] * 2]
    await until(lambda: places.queued)
    await asyncio.sleep(0)
    places.give("a")
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "a", "b", "a"]
    assert places.take_now("c")


async def test_call_that_is_cancelled_while_it_waits_gives_its_turn_up() -> None:
    waiting = Shares(100)
    places = Places(1, waiting=waiting)
    await places.take("a")
    first, second = (asyncio.create_task(places.take(tenant_id)) for tenant_id in "bc")
    await until(lambda: waiting.used == 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    places.give("a")
    await second
    places.give("c")
    assert (waiting.used, places.queued, places.take_now("d")) == (0, False, True)


async def test_place_that_came_in_the_moment_of_the_cancellation_goes_on_to_the_next() -> None:
    places = Places(1, waiting=Shares(100))
    await places.take("a")
    first, second = (asyncio.create_task(places.take(tenant_id)) for tenant_id in "bc")
    await until(lambda: places.queued)
    await asyncio.sleep(0)
    places.give("a")
    first.cancel()
    await second
    assert not places.take_now("d")


async def test_more_than_may_wait_are_refused() -> None:
    places = Places(1, waiting=Shares(1))
    await places.take("a")
    waiting = asyncio.create_task(places.take("b"))
    await until(lambda: places.queued)
    with pytest.raises(TooManyCalls):
        await places.take("c")
    places.give("a")
    await waiting


async def test_place_passes_over_a_call_that_is_being_cancelled() -> None:
    places = Places(1, waiting=Shares(100))
    await places.take("a")
    first, second = (asyncio.create_task(places.take("b")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()  # its future is cancelled at once, the task runs later
    places.give("a")
    await second
    await asyncio.gather(first, return_exceptions=True)
    places.give("b")
    assert places.take_now("c")


async def test_places_of_many_calls_that_come_and_are_cancelled_all_come_back() -> None:
    chance, waiting = Random(1), Shares(1000)
    places = Places(3, waiting=waiting)

    async def call(tenant_id: str) -> None:
        await places.take(tenant_id)
        try:
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        finally:
            places.give(tenant_id)

    tasks = [asyncio.create_task(call(chance.choice("abc"))) for _ in range(500)]
    for _ in range(1000):
        chance.choice(tasks).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ended} <= {type(None), asyncio.CancelledError}
    assert not places.queued
    assert waiting.used == 0
    assert held(places._shares, "d") == 3 - 1  # one of them has left the last place to others


class Overload:
    """One place, and a queue in which as many calls arrive as are served, so that some always wait."""

    def __init__(self) -> None:
        self.places = Slots(1, newest_first_after=0.0)
        self.served: list[int] = []
        self.waiting: dict[int, asyncio.Task[None]] = {}

    async def arrive(self, number: int) -> None:
        self.waiting[number] = asyncio.create_task(self.places.take("a"))
        await asyncio.sleep(0)

    async def serve(self) -> None:
        self.places.give("a")
        await asyncio.sleep(0)
        (number,) = [number for number, task in self.waiting.items() if task.done()]
        self.served.append(number)
        del self.waiting[number]


async def test_in_overload_the_newest_go_first_and_the_oldest_are_not_left_for_ever() -> None:
    """Mutant: always the newest. Callers that make their next call when they have an answer then keep a few calls
    waiting until their deadlines, though the server has room for all."""
    overload = Overload()
    assert overload.places.take_now("a")
    for number in range(10):
        await overload.arrive(number)
    for number in range(10, 10 + 10 * OLDEST_EACH):
        await overload.serve()
        await overload.arrive(number)
    assert set(range(10)) <= set(overload.served)
    newest = sum(number >= 10 or number == 9 for number in overload.served)
    assert newest > len(overload.served) * (1 - 2 / OLDEST_EACH)
    for task in overload.waiting.values():
        task.cancel()
    await asyncio.gather(*overload.waiting.values(), return_exceptions=True)
