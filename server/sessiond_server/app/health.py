"""What health says beside what the store says: of a background task that has failed, and of the cache."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sessiond_server import tasks
from sessiond_server.redis import RedisCache
from sessiond_server.rpc.server import RpcServer
from sessiond_server.store_watch import PING_PAUSE, StoreWatch

_log = logging.getLogger("sessiond.app")


@contextmanager
def observed(watch: StoreWatch) -> Iterator[None]:
    """The running loop logs what a task or a callback has left unhandled; a background task takes health along."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if tasks.FAILED in context:
            watch.failed = context[tasks.FAILED]
            _log.critical("%s: the service is of no use any more", context["message"], exc_info=context["exception"])
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


async def watch_cache(cache: RedisCache, server: RpcServer) -> None:
    """Keeps what health says of the cache at what the cache says, until cancelled. The cache itself logs it."""
    used = cache.ready
    while True:
        await asyncio.sleep(PING_PAUSE)
        if cache.ready != used:
            used = cache.ready
            await server.set_cache(used)
