"""Opens the cache in Redis, if the settings name one."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sessiond_server.app import limits
from sessiond_server.settings import Settings

if TYPE_CHECKING:
    from sessiond_server.redis import RedisCache


@asynccontextmanager
async def opened_cache(settings: Settings, url: str | None) -> AsyncIterator["RedisCache | None"]:
    """The cache, not begun yet, because its keys contain the database's id. None without Redis, and with the memory
    store."""
    if url is None or settings.store == "memory":
        yield None
        return
    from sessiond_server.redis import RedisCache

    async with RedisCache(url, limits=limits.cache(settings)) as cache:
        yield cache


def identity(token_key: bytes) -> str:
    """Identifies the database: derived from its secret, but revealing nothing about it."""
    return hashlib.blake2b(token_key, digest_size=6, person=b"sessiond cache").hexdigest()
