"""The cache on Redis or Valkey, and a probe of the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import hiredis

from sessiond_server.redis.cache import RedisCache
from sessiond_server.redis.link import Link, LinkLost, open_link, parse
from sessiond_server.redis.node import Timeouts, about_server, code

__all__ = ["CacheUnavailable", "RedisCache", "Timeouts", "Upkeep", "probe", "upkeep"]


class CacheUnavailable(Exception):
    """Redis does not answer, or its answer is an error. The text contains no password."""


async def probe(url: str) -> str:
    """Name and version of the server, such as "valkey 9.0.4". Connects as the cache and the bus do. Raises
    CacheUnavailable."""
    async with _opened(url) as link:
        about = await about_server(link)
    kind = "valkey" if b"valkey_version" in about else "redis"
    return f"{kind} {about.get(f'{kind}_version'.encode(), b'of an unknown version').decode(errors='replace')}"


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Settings of a server that a cache does not need, or needs."""

    persistent: bool
    """Whether it writes its data to disk, as far as it says: the rules of a user may hide snapshots (CONFIG)."""
    max_memory: int
    """In bytes; 0: unlimited."""
    evicts: bool
    """Whether it removes entries when its memory is full, rather than refusing writes."""


async def upkeep(url: str) -> Upkeep:
    """How the server is set up. Raises CacheUnavailable."""
    async with _opened(url) as link:
        memory = await about_server(link, b"INFO", b"memory")
        persistence = await about_server(link, b"INFO", b"persistence")
        try:
            answer = await link.ask(b"CONFIG", b"GET", b"save")
            values = answer.values() if isinstance(answer, dict) else answer[1::2]  # RESP 3, RESP 2
            snapshots = any(values)
        except hiredis.ReplyError:
            snapshots = False
    policy = memory.get(b"maxmemory_policy", b"noeviction")
    persistent = snapshots or persistence.get(b"aof_enabled", b"0") != b"0"
    return Upkeep(persistent, int(memory.get(b"maxmemory", b"0")), policy != b"noeviction")


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Link]:
    """A connection as the cache and the bus have it. Raises CacheUnavailable, also for what fails in the block."""
    try:
        link = await open_link(parse(url), Timeouts().connect)
        try:
            yield link
        finally:
            link.close()
    except LinkLost as lost:
        raise CacheUnavailable(str(lost)) from lost
    except hiredis.ReplyError as refusal:
        raise CacheUnavailable(code(refusal)) from refusal
