"""The request message: read only once the call has been let in."""

import asyncio
from typing import Any, Final

from grpc.aio import EOF

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import MalformedRequest, TooManyCalls, TransferStalled
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.shares import RETRY_AFTER, Places

SMALL: Final = 4 * 1024
"""Bytes of a request that no budget is asked for: the places of calls bound them."""
PATIENCE: Final = 5.0
"""Seconds that a message may take to arrive while others wait to be read."""


class Reading:
    """Reads the one message of calls that send one. grpc would read it before anything of ours runs, as large as it may
    be, whether there is a key or not.

    While a message arrives it may hold as much as the transport's limit; so few arrive at a time. Those that take too
    long while others wait give way with TransferStalled. Raises MalformedRequest where none comes, and TooManyCalls
    where there is no room for a large one.
    """

    def __init__(self, places: Places, held: Shares) -> None:
        """`held`: bytes of requests of calls in progress."""
        self._places = places
        self._held = held
        self._under_way: dict[asyncio.Task[Any], float] = {}
        """Oldest first, with the time at which each began."""
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.request_streaming:
            return proceed
        places, held = self._places, self._held

        async def reading(_: Any, call: Call) -> bytes | None:
            tenant_id = call.principal.tenant_id
            if not places.take_now(tenant_id):
                self._watch()
                await places.take(tenant_id)
            try:
                request = await self._message(call)
            finally:
                places.give(tenant_id)
            if request is EOF:
                raise MalformedRequest(method.path)
            call.request_bytes = size = len(request)
            if size <= SMALL:
                return await proceed(request, call)
            if not held.take(tenant_id, size):
                raise TooManyCalls(RETRY_AFTER, "request_bytes")
            try:
                return await proceed(request, call)
            finally:
                held.give(tenant_id, size)

        return reading

    async def _message(self, call: Call) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._under_way[task] = asyncio.get_running_loop().time()
        try:
            return await call.context.read()
        except asyncio.CancelledError:
            if task in self._late and not task.uncancel():
                raise TransferStalled(PATIENCE) from None
            raise
        finally:
            del self._under_way[task]
            self._late.discard(task)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE / 5, self._look)

    def _look(self) -> None:
        """Sends those away that take too long, while others wait."""
        self._timer = None
        if not self._places.queued:
            return
        overdue = asyncio.get_running_loop().time() - PATIENCE
        for task, began in self._under_way.items():
            if began > overdue:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watch()
