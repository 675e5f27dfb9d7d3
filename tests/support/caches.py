"""A cache and what stands behind it, as tests/cache has it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from sessiond_server.memory.cache import Mark, MemoryCache, MemoryServer
from sessiond_server.redis import RedisCache, Timeouts
from sessiond_server.store.cached.contract import Cache, CacheLimits
from tests.support.cached_copies import settled

LIMITS = CacheLimits(ttl=60.0, window=5, window_bytes=1000, content_bytes=100)


PATIENT = Timeouts(connect=5.0, answer=5.0)
"""The machine may be busy: what these tests assert has nothing to do with time."""


@dataclass
class Backend:
    open: Callable[[], Awaitable[Cache]]
    """The cache as one more process has it."""
    flush: Callable[[], Awaitable[None]]
    """Loses all that is there."""
    swap: Callable[[], Awaitable[None]]
    """Lets another server answer that has all that is there."""
    lapse: Callable[[], Awaitable[None]]
    """Lets all copies and contents vanish, as their time to live does in the end."""
    age: Callable[[float], Awaitable[None]]
    """Takes so many seconds off the time that each copy, mark and content has left to live, which is more than that."""
    lifetimes: Callable[[], Awaitable[list[float]]]
    """Seconds that each copy and content has left to live."""


def memory_backend() -> Backend:
    server = MemoryServer(asyncio.get_running_loop().time, LIMITS)

    async def open_cache() -> Cache:
        return MemoryCache(server)

    async def flush() -> None:
        server.flush()

    async def swap() -> None:
        server.restart_from(server.snapshot())

    async def lapse() -> None:
        server.entries.clear()
        server.contents.clear()

    async def age(seconds: float) -> None:
        for place, (until, entry) in server.entries.items():
            entry = entry._replace(ends=entry.ends - seconds) if isinstance(entry, Mark) else entry
            server.entries[place] = (until - seconds, entry)
        for place, (until, version, content) in server.contents.items():
            server.contents[place] = (until - seconds, version, content)

    async def lifetimes() -> list[float]:
        kept = [*(e[0] for e in server.entries.values()), *(c[0] for c in server.contents.values())]
        return [until - server.time() for until in kept]

    return Backend(open_cache, flush, swap, lapse, age, lifetimes)


def redis_backend(stack: AsyncExitStack, url: str, prefix: str, clients: "list[Redis]") -> Backend:
    async def keys(client: Redis, *, epochs: bool) -> list[bytes]:
        found = [key async for key in client.scan_iter(f"{prefix}*", count=1000)]
        return [key for key in found if epochs or not _is_epoch(key)]

    def _is_epoch(key: bytes) -> bool:
        return key.removeprefix(prefix.encode()).strip(b"{").startswith(b"epoch")

    async def open_cache() -> Cache:
        cache = await stack.enter_async_context(RedisCache(url, limits=LIMITS, timeouts=PATIENT))
        cache.begin(prefix)
        await settled(cache)
        return cache

    async def flush() -> None:
        for client in clients:
            for key in await keys(client, epochs=True):
                await client.delete(key)

    async def swap() -> None:
        for client in clients:
            for key in await keys(client, epochs=True):
                if _is_epoch(key):
                    value = await client.get(key)
                    assert isinstance(value, bytes)
                    await client.set(key, b"f" * 40 + value[40:])

    async def lapse() -> None:
        for client in clients:
            for key in await keys(client, epochs=False):
                await client.delete(key)

    async def age(seconds: float) -> None:
        for client in clients:
            for key in await keys(client, epochs=False):
                await client.pexpire(key, await client.pttl(key) - round(seconds * 1000))

    async def lifetimes() -> list[float]:
        return [await client.pttl(key) / 1000 for client in clients for key in await keys(client, epochs=False)]

    return Backend(open_cache, flush, swap, lapse, age, lifetimes)
