"""The races of test_races.py against a real Valkey; each process is behind a proxy that cuts, stalls and slices."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sessiond_server.redis import RedisCache, Timeouts
from sessiond_server.redis.entries import Names
from sessiond_server.store.cached.contract import CacheLimits
from sessiond_server.store.cached.store import CachedSessions
from tests.support.cache_simulation import CALLER, Process, Schedule, SlowStore, Verdict
from tests.support.cached_copies import settled
from tests.support.caller import PADDED
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey
from tests.support.waiting import PATIENCE

BATCHES = int(os.environ.get("VALKEY_BATCHES", "1"))
AT_ONCE = 8
"""Schedules of a batch: they share the server, and what happens to it."""


class RealSchedule(Schedule):
    """In real time, and in no more of it than needed."""

    EVENTS: Sequence[Sequence[str]] = (
        (), ("cut",), ("stall",), ("flush",), ("slice", "cut"), ("cut", "stall", "flush", "scripts"),
    )  # fmt: skip

    def __init__(self, seed: int, valkey: Valkey, stack: AsyncExitStack) -> None:
        super().__init__(seed, latest=0.3)
        self._valkey = valkey
        self._prefix = f"races-{seed}:"
        self._stack = stack
        self.seed = seed
        self._proxies: list[Proxy] = []
        self._events = self.EVENTS[seed % len(self.EVENTS)]

    async def run(self) -> Verdict:
        self._processes = [await self._process() for _ in range(2)]
        for session_id in self._sessions:
            await self._write(CALLER.create(session_id, f"create {session_id}", summary=PADDED))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._chaos(self._events))
            actors = [tasks.create_task(self._writer()) for _ in range(3)]
            actors += [tasks.create_task(self._reader()) for _ in range(6)]
            await asyncio.wait(actors)
            self._over = True
        if self._events:
            await self._happen(self.chance.random.choice(self._events))
        await self._judge()
        return self.verdict

    async def _process(self) -> Process:
        proxy = await self._stack.enter_async_context(Proxy("127.0.0.1", self._valkey.port, self.chance.random))
        self._proxies.append(proxy)
        cache = await self._stack.enter_async_context(
            RedisCache(
                f"redis://127.0.0.1:{proxy.port}",
                limits=CacheLimits(window=6),
                timeouts=Timeouts(connect=0.2, answer=0.1),
                random=self.chance.random,
            )
        )
        cache.begin(self._prefix)
        await settled(cache)
        slow: Any = SlowStore(self._truth, self.chance, breaks=0.03)
        store = CachedSessions(slow, slow, cache, most_dirty=self.chance.random.choice([1, 2, 10]))
        return Process(await self._stack.enter_async_context(store), cache)

    async def _happen(self, event: str) -> None:
        random = self.chance.random
        proxy = random.choice(self._proxies)
        self.verdict.seen[event] += 1
        if event == "cut":
            proxy.cut()
        elif event == "stall":
            proxy.stall()
            await asyncio.sleep(random.uniform(0, 0.3))
            proxy.flow()
        elif event == "slice":
            proxy.slicing = not proxy.slicing
        else:
            async with self._valkey.client() as client:
                if event == "scripts":
                    await client.script_flush()
                    return
                # The neighbours keep theirs.
                async for name in client.scan_iter(f"{self._prefix}*"):
                    await client.delete(name)

    def _healed(self) -> bool:
        return all(process.cache.ready and not process.store.state().dirty for process in self._processes)

    async def _judge(self) -> None:
        for proxy in self._proxies:
            proxy.flow()
            proxy.slicing = False
        async with asyncio.timeout(PATIENCE):
            while not self._healed():  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.01)
        await asyncio.sleep(3 * self.chance.latest)
        async with self._valkey.client() as client:
            held = await client.get(self._prefix + "epoch")
            if held is None:
                return  # all was deleted at the end, and no process has used the cache since: there are no entries
            assert isinstance(held, bytes)
            prefix = Names(self._prefix.encode(), held[40:]).start
            async for name in client.scan_iter(prefix + b"*}"):
                tail = await client.lindex(name, -1)
                if tail is None or tail[:1] != b"S":
                    continue
                key = ("acme", name.removeprefix(prefix).partition(b"/")[0].decode())
                self._judge_copy(key, int(tail[1:17]))
                self.verdict.seen["copies"] += 1


@pytest.mark.parametrize("batch", range(BATCHES))
async def test_no_race_leaves_a_stale_entry_in_valkey(batch: int, valkey: Valkey) -> None:
    total = Verdict()
    async with AsyncExitStack() as stack:
        schedules = [RealSchedule(batch * AT_ONCE + number, valkey, stack) for number in range(AT_ONCE)]
        for schedule, verdict in zip(schedules, await asyncio.gather(*[one.run() for one in schedules]), strict=True):
            assert verdict.sound, f"seed {schedule.seed}: {verdict}"
            total.add(verdict)
    assert total.seen["min_version"] > 50
    assert total.seen["copies"] > 0
