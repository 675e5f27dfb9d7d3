"""The buses that the suite runs over: each as several processes have it."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sessiond_server.events.bus import Bus
from sessiond_server.events.combined_bus import CombinedBus
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.postgres.bus import NotifyBus, NotifyTimeouts
from sessiond_server.redis.bus import BusTimeouts, RedisBus
from tests.support.waiting import until

PATIENT = BusTimeouts(connect=5.0, answer=10.0, heartbeat=0.05)
PATIENT_NOTIFY = NotifyTimeouts(connect=10.0, answer=10.0, heartbeat=0.05)
"""The machine may be busy: what these tests assert has nothing to do with time."""


@dataclass
class Backend:
    name: str
    open: Callable[[], Awaitable[Bus]]
    """The bus as one more process has it, ready."""
    deltas_travel: bool
    """Whether deltas reach other processes."""


async def opened_redis(
    stack: AsyncExitStack, url: str, prefix: str, timeouts: BusTimeouts = PATIENT, *, ready: bool = True
) -> RedisBus:
    bus = await stack.enter_async_context(RedisBus(url, timeouts=timeouts))
    bus.begin(prefix)
    if ready:
        await until(lambda: bus.ready)
    return bus


async def opened_notify(
    stack: AsyncExitStack, dsn: str, prefix: str, timeouts: NotifyTimeouts = PATIENT_NOTIFY, *, ready: bool = True
) -> NotifyBus:
    bus = await stack.enter_async_context(NotifyBus(dsn, timeouts=timeouts))
    bus.begin(prefix)
    if ready:
        await until(lambda: bus.ready)
    return bus


def memory() -> Backend:
    shared = MemoryBus()

    async def open_bus() -> Bus:
        return shared

    return Backend("memory", open_bus, deltas_travel=True)


def redis(stack: AsyncExitStack, urls: list[str], prefix: str) -> Backend:
    """Processes take turns at the servers of a cluster."""
    turns = 0

    async def open_bus() -> Bus:
        nonlocal turns
        turns += 1
        return await opened_redis(stack, urls[turns % len(urls)], prefix)

    return Backend("redis", open_bus, deltas_travel=True)


def notify(stack: AsyncExitStack, dsn: str, prefix: str) -> Backend:
    async def open_bus() -> Bus:
        return await opened_notify(stack, dsn, prefix)

    return Backend("notify", open_bus, deltas_travel=False)


def combined(stack: AsyncExitStack, url: str, dsn: str, prefix: str) -> Backend:
    async def open_bus() -> Bus:
        return CombinedBus(await opened_redis(stack, url, prefix), await opened_notify(stack, dsn, prefix))

    return Backend("combined", open_bus, deltas_travel=True)
