"""Calls are asked for ahead, and handed on in their order, each once."""

import asyncio
from contextvars import copy_context

from sessiond_server.rpc.ahead import AHEAD, FORGET_AFTER
from sessiond_server.rpc.intake import Intake
from tests.support.waiting import until


class Progress:
    present = left = 0


class AioServer:
    """Accepts calls as grpc.aio does: asks for the next once it has got one."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[int]] = []
        self.got: list[int] = []
        self.turns: list[int] = []
        """The turn of the loop in which each call was got."""
        self.turn = 0
        self.refusals = 0

    async def _request_call(self) -> int:
        request = asyncio.get_running_loop().create_future()
        self.asked.append(request)
        return await request  # type: ignore[no-any-return]

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._count)
        while True:
            waiting = loop.create_task(self._request_call())
            (done,), _ = await asyncio.wait((waiting,), return_when=asyncio.FIRST_COMPLETED)
            try:
                self.got.append(done.result())
                self.turns.append(self.turn)
            except ConnectionError:
                self.refusals += 1
                return

    def _count(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self._count)

    def answer(self, *calls: int) -> None:
        for call in calls:
            self.asked.pop(0).set_result(call)


class Grpc:
    """What grpc.aio's Server is to us."""

    def __init__(self) -> None:
        self._server = AioServer()


class World:
    def __init__(self, *, alone: bool = False) -> None:
        self.intake = Intake(Progress(), 512, alone=lambda: alone, clock=lambda: 0.0)
        self.grpc = Grpc()
        self.server = self.grpc._server

    async def __aenter__(self) -> "World":
        loop = asyncio.get_running_loop()
        context = copy_context()
        context.run(self.intake.govern, loop, self.grpc)
        self.serving: asyncio.Task[None] = context.run(loop.create_task, self.server.serve())
        await until(lambda: bool(self.server.asked))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.serving.cancel()
        for request in self.server.asked:
            request.cancel()
        await asyncio.wait((self.serving,))
        asyncio.get_running_loop().set_task_factory(None)


async def test_many_calls_are_asked_for_at_once_where_there_are_several_tenants() -> None:
    async with World() as world:
        await until(lambda: len(world.server.asked) == AHEAD)
    async with World(alone=True) as world:
        await until(lambda: len(world.server.asked) == 1)


async def test_calls_are_handed_on_in_their_order_and_in_one_turn() -> None:
    async with World() as world:
        await until(lambda: len(world.server.asked) == AHEAD)
        world.server.answer(*range(40))
        await until(lambda: len(world.server.got) == 40)
        assert world.server.got == list(range(40))
        assert len(set(world.server.turns[1:])) == 1, "all that are ready go on at once"
        await until(lambda: len(world.server.asked) >= AHEAD)
        assert len(world.server.asked) <= AHEAD + 1


async def test_server_that_stops_gets_what_was_accepted_and_asks_for_no_more() -> None:
    async with World() as world:
        await until(lambda: len(world.server.asked) == AHEAD)
        world.server.answer(1, 2, 3)
        await until(lambda: bool(world.server.got))
        world.intake.end()
        await world.intake.handed_over()
        await until(lambda: world.server.got == [1, 2, 3])
        for _ in range(3):
            await asyncio.sleep(0)  # requests that were made before the end get to the server
        asked = len(world.server.asked)
        world.server.answer(4, 5)
        await until(lambda: world.server.got == [1, 2, 3, 4, 5])
        assert len(world.server.asked) <= asked


async def test_refusals_as_a_server_stops_reach_it_once_and_none_is_left_over() -> None:
    async with World() as world:
        await until(lambda: len(world.server.asked) == AHEAD)
        world.intake.end()
        requests, world.server.asked = world.server.asked, []
        for request in requests:
            request.set_exception(ConnectionError())
        await until(world.serving.done)
        assert world.server.refusals == 1
        assert not world.intake._ahead.used


async def test_call_that_a_stopped_server_does_not_ask_for_is_dropped() -> None:
    assert FORGET_AFTER <= 0.1
    async with World() as world:
        await until(lambda: len(world.server.asked) == AHEAD)
        world.intake.end()
        world.server.asked[0].set_exception(ConnectionError())
        await until(world.serving.done)
        world.server.asked[1].set_result(7)
        await until(lambda: bool(world.intake._ahead._ready))
        await until(lambda: not world.intake._ahead._ready)
        assert world.server.got == []
