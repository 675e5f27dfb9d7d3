"""The cache on Redis or Valkey, and what else needs a connection to it."""

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sessiond_server.redis.cache import RedisCache
from sessiond_server.redis.link import LinkLost, open_link, parse
from sessiond_server.redis.node import Timeouts, about_server, code

__all__ = ["CacheUnavailable", "RedisCache", "Timeouts", "connect", "probe"]

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


async def probe(url: str) -> str:
    """What answers, such as "valkey 9.0.4", reached as the cache and the bus reach it. Raises CacheUnavailable."""
    try:
        link = await open_link(parse(url), Timeouts().connect)
        try:
            about = await about_server(link)
        finally:
            link.close()
    except LinkLost as lost:
        raise CacheUnavailable(str(lost)) from lost
    except hiredis.ReplyError as refusal:
        raise CacheUnavailable(code(refusal)) from refusal
    kind = "valkey" if b"valkey_version" in about else "redis"
    return f"{kind} {about.get(f'{kind}_version'.encode(), b'of an unknown version').decode(errors='replace')}"
