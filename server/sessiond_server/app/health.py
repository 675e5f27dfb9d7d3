"""Makes health report a failed background task, and the state of the cache."""

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sessiond_server import tasks
from sessiond_server.rpc.server import RpcServer
from sessiond_server.store_watch import PING_PAUSE, StoreWatch

if TYPE_CHECKING:
    from sessiond_server.redis import RedisCache

_log = logging.getLogger("sessiond.app")


@contextmanager
def observed(watches: Collection[StoreWatch]) -> Iterator[None]:
    """Makes the running loop log unhandled errors of tasks and callbacks. A failed background task also makes health
    NOT_SERVING."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if tasks.FAILED in context:
            for watch in watches:
                watch.failed = context[tasks.FAILED]
            _log.critical("%s: the service cannot be used any more", context["message"], exc_info=context["exception"])
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


async def watch_caches(caches: Sequence["RedisCache"], server: RpcServer) -> None:
    """Updates the cache's health from the state of the caches of all databases, until cancelled. The caches themselves
    log changes."""
    used = all(cache.ready for cache in caches)
    while True:
        await asyncio.sleep(PING_PAUSE)
        if (ready := all(cache.ready for cache in caches)) != used:
            used = ready
            await server.set_cache(used)
