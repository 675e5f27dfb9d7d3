"""The cache on Redis or Valkey, a plain client for other uses, and a probe of the server."""

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sessiond_server.redis.cache import RedisCache
from sessiond_server.redis.link import LinkLost, open_link, parse
from sessiond_server.redis.node import Timeouts, about_server, code

__all__ = ["CacheUnavailable", "RedisCache", "Timeouts", "connect", "probe"]

TIMEOUT = 0.1
"""Timeout of connecting and of each answer, in seconds. With redis-py's defaults, a dead port takes 4.9 s and a host
that drops packets takes 40 s, and a command may be sent four times."""


class CacheUnavailable(Exception):
    """Redis does not answer, or its answer is an error. The text contains no password."""


def connect(url: str) -> Redis:
    """A client that connects on first use and never retries a command. Close it with `aclose`."""
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT,
        socket_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


async def probe(url: str) -> str:
    """Name and version of the server, such as "valkey 9.0.4". Connects as the cache and the bus do. Raises
    CacheUnavailable."""
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
