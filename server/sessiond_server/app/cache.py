"""The cache in Redis, where there is one."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sessiond_server.app import limits
from sessiond_server.redis import RedisCache
from sessiond_server.settings import Settings


@asynccontextmanager
async def opened_cache(settings: Settings, url: str | None) -> AsyncIterator[RedisCache | None]:
    """The cache, not begun yet: its keys need the database's id. None without one, and for the store in memory."""
    if url is None or settings.store == "memory":
        yield None
        return
    async with RedisCache(url, limits=limits.cache(settings)) as cache:
        yield cache


def database_id(token_key: bytes) -> str:
    """Tells one database from another, and nothing about its secret."""
    return hashlib.blake2b(token_key, digest_size=6, person=b"sessiond cache").hexdigest()
