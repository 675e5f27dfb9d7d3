"""Calls of tenants that move: served, held or refused, by what the databases say and when they said it."""

import asyncio
from types import MappingProxyType

import pytest

from sessiond_server.errors import StoreUnavailable
from sessiond_server.rpc.moves import Moves
from sessiond_server.store.homes import LEASE, Homes


class World:
    """A map of homes, and what two databases say of themselves, at a time that tests set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.main, self.eu = Homes(), Homes()
        self.moves = Moves(self.main, {"main": self.main, "eu": self.eu}, "main", lambda: self.now)
        self.main.use(1, "main", {})
        self.eu.use(1, "eu", {})

    def confirm(self) -> None:
        for each in (self.main, self.eu):
            each.confirm(self.now)

    async def settled(self, seconds: float = 0.0) -> bool:
        """Whether calls are served within the time."""
        try:
            await self.moves.settled("acme", asyncio.get_running_loop().time() + seconds)
        except StoreUnavailable:
            return False
        return True


def test_tenants_that_are_leaving_are_known_to_moves_that_begin_later() -> None:
    main = Homes()
    main.use(1, "main", {}, frozenset({"acme"}))
    assert Moves(main, {"main": main}, "main").unsettled == {"acme"}


def test_first_row_of_a_tenant_that_stays_is_no_change_of_its_home() -> None:
    homes, changed = Homes(), list[set[str]]()
    homes.on_change = lambda tenants: changed.append(set(tenants))
    homes.use(1, "main", {})
    homes.use(2, "main", {"acme": "main"}, frozenset({"acme"}))
    assert changed == []
    homes.use(3, "main", {"acme": "eu", "globex": "main"})
    homes.use(4, "main", {"acme": "eu"})
    homes.use(5, "main", {})
    assert changed == [{"acme"}, {"acme"}]


async def test_calls_of_a_tenant_that_does_not_move_are_served_whatever_was_confirmed() -> None:
    world = World()
    assert world.moves.unsettled == set()
    assert await world.settled()
    world.main.use(2, "main", {"globex": "eu"}, frozenset({"globex"}))
    assert await world.settled()


async def test_calls_of_a_tenant_that_is_about_to_leave_are_served_for_the_lease() -> None:
    world = World()
    world.main.use(2, "main", {"acme": "main"}, frozenset({"acme"}))
    assert world.moves.unsettled == {"acme"}
    assert not await world.settled()
    world.confirm()
    assert await world.settled()
    world.now += LEASE - 0.001
    assert await world.settled()
    world.now += 0.002
    assert not await world.settled()
    world.eu.confirm(world.now)
    assert not await world.settled()
    world.main.confirm(world.now)
    assert await world.settled()


async def test_calls_of_a_tenant_that_has_left_the_default_database_wait_until_its_new_home_is_open() -> None:
    world = World()
    world.eu.use(2, "eu", {"acme": "main"}, keys=MappingProxyType({"acme": b"key"}))
    assert await world.settled()
    world.main.use(3, "main", {"acme": "eu"})
    world.confirm()
    assert world.moves.unsettled == {"acme"}
    assert not await world.settled()
    world.eu.use(3, "eu", {"acme": "eu"})
    assert world.moves.unsettled == set()
    assert await world.settled()


async def test_calls_of_a_tenant_that_has_left_another_database_wait_for_the_map() -> None:
    world = World()
    world.main.use(2, "main", {"acme": "eu"})
    world.eu.use(2, "eu", {"acme": "main"})
    world.confirm()
    assert not await world.settled()
    held = asyncio.create_task(world.settled(60.0))
    await asyncio.sleep(0)
    world.main.use(3, "main", {"acme": "main"})
    assert await held


async def test_a_held_call_that_is_cancelled_leaves_the_others_waiting() -> None:
    world = World()
    world.main.use(2, "main", {"acme": "main"}, frozenset({"acme"}))
    first, second = (asyncio.create_task(world.settled(60.0)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.confirm()
    assert await second


async def test_a_tenant_of_a_database_that_this_server_does_not_know_is_not_held() -> None:
    world = World()
    world.main.use(2, "main", {"acme": "us"}, frozenset({"acme"}))
    assert await world.settled()
