"""The cache on Redis or Valkey, and what else needs a connection to it."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sessiond_server.redis.cache import RedisCache
from sessiond_server.redis.node import Timeouts

__all__ = ["CacheUnavailable", "RedisCache", "Timeouts", "connect", "ping"]

TIMEOUT = 0.1
"""Seconds for connecting and for each answer. redis-py's own defaults wait 4.9 s for a dead port and 40 s for a host
that swallows packets, and send a command up to four times."""


class CacheUnavailable(Exception):
    """Redis does not answer, or not as it should. The text names no password."""


def connect(url: str) -> Redis:
    """A client that has not connected yet; close it with `aclose`. It tries nothing twice by itself."""
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT,
        socket_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


async def ping(client: Redis) -> None:
    """Returns when the server has answered. Raises CacheUnavailable."""
    try:
        await client.ping()
    except (RedisError, OSError, TimeoutError) as error:
        raise CacheUnavailable(f"Redis does not answer: {type(error).__name__}") from error
