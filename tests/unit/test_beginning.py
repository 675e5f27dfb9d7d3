"""Calls of several tenants begin by turns, few at a time."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from sessiond_server.auth import Principal
from sessiond_server.rpc.call import Call, Method
from sessiond_server.rpc.interceptors import beginning
from sessiond_server.rpc.interceptors.beginning import Beginning
from tests.support.waiting import until

UNARY = Method("/a.B/C", False, False, 1)


@dataclass
class Caller:
    principal: Principal
    piped: bool = False


class World:
    """Calls that last until they are let go."""

    def __init__(self, most: int = 8, *, alone: bool = False, method: Method = UNARY) -> None:
        self.begun: list[str] = []
        self.under_way: dict[str, list[asyncio.Future[None]]] = {}
        self.tasks: list[asyncio.Task[bytes | None]] = []
        self._serve = Beginning(most, alone=lambda: alone).around(method, self._handler)

    async def _handler(self, request: Any, call: Call) -> bytes | None:
        tenant_id = call.principal.tenant_id
        self.begun.append(tenant_id)
        end = asyncio.get_running_loop().create_future()
        self.under_way.setdefault(tenant_id, []).append(end)
        await end
        return b"answer"

    async def start(self, tenant_id: str, count: int = 1) -> list["asyncio.Task[bytes | None]"]:
        call = cast(Call, Caller(Principal(tenant_id, "", "key", frozenset())))

        async def one() -> bytes | None:
            return await self._serve(b"", call)

        started = [asyncio.create_task(one()) for _ in range(count)]
        self.tasks += started
        await asyncio.sleep(0)
        return started

    async def end(self, tenant_id: str, count: int = 1) -> None:
        for _ in range(count):
            self.under_way[tenant_id].pop(0).set_result(None)
        for _ in range(4):
            await asyncio.sleep(0)

    async def __aenter__(self) -> "World":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)


async def test_tenant_with_many_calls_leaves_room_for_another() -> None:
    async with World() as world:
        await world.start("loud", 100)
        assert world.begun == ["loud"] * 6, "three quarters"
        await world.start("quiet")
        assert world.begun[6:] == ["quiet"]


async def test_tenants_begin_calls_by_turns() -> None:
    async with World() as world:
        await world.start("loud", 100)
        await world.start("quiet", 100)
        for _ in range(3):  # until each has its share
            await world.end("loud")
        begun = len(world.begun)
        for _ in range(10):
            await world.end("loud")
            await world.end("quiet")
        assert world.begun[begun:].count("quiet") == 10
        assert world.begun[begun:].count("loud") == 10


async def test_call_that_takes_long_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "LONG", 0.02)
    async with World() as world:
        await world.start("loud", 20)
        await until(lambda: len(world.begun) == 20)
        await world.end("loud", 20)
        await world.start("loud", 7)
        assert len(world.begun) == 26, "none of them is given back twice"


async def test_one_tenant_begins_all_its_calls() -> None:
    async with World(alone=True) as world:
        await world.start("only", 100)
        assert len(world.begun) == 100


async def test_streams_begin_at_once() -> None:
    async with World(method=Method("/a.B/C", True, False, 1)) as world:
        await world.start("loud", 100)
        assert len(world.begun) == 100


async def test_cancelled_calls_leave_their_turn_to_others() -> None:
    async with World() as world:
        waiting = (await world.start("loud", 100))[6:]
        for task in waiting[:-1]:
            task.cancel()
        await asyncio.wait(waiting[:-1])
        await world.end("loud")
        assert len(world.begun) == 7
        assert not waiting[-1].done()
        await world.end("loud", 6)
        assert await waiting[-1] == b"answer"
