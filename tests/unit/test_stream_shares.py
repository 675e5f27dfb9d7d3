"""What the streams of one tenant may hold in the hub: reads of the store, and memory."""

import asyncio

import pytest

from sessiond_server.events.reads import Reads
from sessiond_server.events.ring_budget import Rings
from tests.support.waiting import until


class Store:
    """Its reads last until they are let go."""

    def __init__(self) -> None:
        self.under_way: list[tuple[str, asyncio.Future[None]]] = []
        self.begun: list[str] = []

    async def read(self, tenant_id: str) -> None:
        self.begun.append(tenant_id)
        end = asyncio.get_running_loop().create_future()
        self.under_way.append((tenant_id, end))
        await end

    def end_one(self, tenant_id: str) -> None:
        found = next(each for each in self.under_way if each[0] == tenant_id)
        self.under_way.remove(found)
        found[1].set_result(None)

    def start(self, reads: Reads, tenant_id: str) -> "asyncio.Task[None]":
        return asyncio.create_task(reads.run(tenant_id, lambda: self.read(tenant_id)))


async def _turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_streams_of_one_tenant_leave_a_read_to_another() -> None:
    store, reads = Store(), Reads(4)
    tasks = [store.start(reads, "loud") for _ in range(50)]
    await _turns()
    assert store.begun == ["loud"] * 3
    tasks.append(store.start(reads, "quiet"))
    await _turns()
    assert store.begun[3:] == ["quiet"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_reads_are_given_to_tenants_by_turns() -> None:
    store, reads = Store(), Reads(1)
    tasks = [store.start(reads, tenant_id) for tenant_id in ("a", "a", "a", "a", "b", "b")]
    for count in range(1, 7):
        await until(lambda count=count: len(store.begun) == count)  # type: ignore[misc]
        store.end_one(store.begun[-1])
    await asyncio.gather(*tasks)
    assert store.begun == ["a", "a", "b", "a", "b", "a"]


async def test_streams_of_the_only_tenant_have_all_reads() -> None:
    store, reads = Store(), Reads(4, alone=lambda: True)
    tasks = [store.start(reads, "only") for _ in range(5)]
    await _turns()
    assert store.begun == ["only"] * 4
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_stream_that_leaves_while_it_waits_costs_no_turn(cancelled: int) -> None:
    store, reads = Store(), Reads(1)
    first = store.start(reads, "a")
    waiting = [store.start(reads, tenant_id) for tenant_id in ("b", "b", "c")]
    await _turns()
    waiting.pop(cancelled).cancel()
    store.end_one("a")
    await first
    for count in (2, 3):
        await until(lambda count=count: len(store.begun) == count)  # type: ignore[misc]
        store.end_one(store.begun[-1])
    await asyncio.gather(*waiting)
    last = store.start(reads, "d")
    await until(lambda: store.begun[-1] == "d")
    store.end_one("d")
    await last


async def test_turn_that_came_in_the_moment_of_the_cancellation_goes_on_to_the_next() -> None:
    store, reads = Store(), Reads(1)

    async def first() -> None:
        await reads.run("a", lambda: store.read("a"))
        second.cancel()  # it has been given the turn, and has not run yet

    one = asyncio.create_task(first())
    await _turns()
    second, third = (store.start(reads, tenant_id) for tenant_id in "bc")
    await _turns()
    store.end_one("a")
    await until(lambda: "c" in store.begun)
    store.end_one("c")
    await asyncio.gather(one, second, third, return_exceptions=True)
    assert store.begun == ["a", "c"]
    assert reads._slots.present == 0


class Kept:
    def __init__(self, tenant_id: str, size: int = 10) -> None:
        self.tenant_id = tenant_id
        self.size = size

    def evict(self) -> None:
        self.size = 0


def test_memory_is_taken_from_the_tenant_that_holds_the_most() -> None:
    rings, quiet = Rings(100), [Kept("quiet") for _ in range(2)]
    for ring in quiet:
        rings.changed(ring)
    loud = [Kept("loud") for _ in range(50)]
    for ring in loud:
        rings.changed(ring)
    assert [ring.size for ring in quiet] == [10, 10]
    assert [ring.size for ring in loud] == [0] * 42 + [10] * 8
    assert rings.held == 100


def test_within_a_tenant_the_ring_that_grew_least_recently_goes_first() -> None:
    rings, kept = Rings(30), [Kept("a") for _ in range(3)]
    for ring in kept:
        rings.changed(ring)
    rings.changed(kept[0])
    rings.changed(Kept("a"))
    assert [ring.size for ring in kept] == [10, 0, 10]
    for ring in kept:
        rings.removed(ring)
    assert rings.held == 10


def test_ring_that_has_just_grown_is_never_emptied() -> None:
    rings, large, small = Rings(30), Kept("a", 100), Kept("b")
    rings.changed(small)
    rings.changed(large)
    assert (large.size, small.size, rings.held) == (100, 0, 100)
