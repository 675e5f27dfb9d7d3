"""Calls are taken in no faster than they are served, and never held where that would help nobody."""

import asyncio
from contextvars import copy_context
from dataclasses import dataclass

from sessiond_server.rpc.intake import ENOUGH_OF_MANY, STALLED, Intake
from tests.support.waiting import until


@dataclass
class Calls:
    present: int = 0
    left: int = 0


class World:
    """An intake of which everything is set by hand."""

    def __init__(self, *, alone: bool = True) -> None:
        self.now = 100.0
        self.calls = Calls()
        self.intake = Intake(self.calls, 512, alone=lambda: alone, clock=lambda: self.now)


def test_calls_are_taken_in_until_enough_are_in_progress() -> None:
    world = World()
    world.calls.present = 511
    assert not world.intake.full()
    world.calls.present = 512
    assert world.intake.full()


def test_calls_are_taken_in_where_none_ends() -> None:
    world = World()
    world.calls.present = 512
    world.now += STALLED
    assert world.intake.full()
    world.now += 0.01
    assert not world.intake.full(), "others may well be served"
    world.calls.left += 1
    assert world.intake.full(), "it moves again"


def test_more_calls_are_taken_in_where_there_are_several_tenants() -> None:
    world = World(alone=False)
    world.calls.present = ENOUGH_OF_MANY - 1
    assert not world.intake.full()
    world.calls.present = ENOUGH_OF_MANY
    assert world.intake.full()


def test_server_that_stops_takes_all_in() -> None:
    world = World()
    world.calls.present = 600
    world.intake.end()
    assert not world.intake.full()


class AioServer:
    """Takes calls in as grpc.aio does."""

    def __init__(self) -> None:
        self.taken = 0

    async def _request_call(self) -> None:
        self.taken += 1


async def test_task_that_takes_a_call_in_begins_once_there_is_room() -> None:
    loop = asyncio.get_running_loop()
    world, other, server = World(), World(), AioServer()
    world.calls.present = 512
    context = copy_context()
    try:
        context.run(world.intake.govern, loop)
        copy_context().run(other.intake.govern, loop)
        held = context.run(loop.create_task, server._request_call())
        free = loop.create_task(server._request_call())
        await free
        assert server.taken == 1, "the context of no intake"
        world.calls.present = 511
        await held
        assert server.taken == 2
    finally:
        loop.set_task_factory(None)


async def test_held_task_can_be_cancelled() -> None:
    loop = asyncio.get_running_loop()
    world, server = World(), AioServer()
    world.calls.present = 512
    context = copy_context()
    try:
        context.run(world.intake.govern, loop)
        held = context.run(loop.create_task, server._request_call())
        await asyncio.sleep(0)
        held.cancel()
        await until(held.done)
        assert held.cancelled()
        assert server.taken == 0
    finally:
        loop.set_task_factory(None)
