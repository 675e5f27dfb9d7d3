"""Reads the request message, once the call has been admitted."""

import asyncio
from typing import Any, Final

from grpc.aio import EOF

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import MalformedRequest, TooManyCalls, TransferStalled
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.places import RETRY_AFTER, Places

SMALL: Final = 4 * 1024
"""Largest request, in bytes, that needs no budget: the number of places bounds these."""
LEAVING: Final = 0.05
"""Seconds within which grpc cancels a call whose caller has left."""
PATIENCE: Final = 5.0
"""Longest time, in seconds, for a message to arrive while others wait to be read."""


class Reading:
    """Reads the message of unary requests. grpc would read it before any of our code runs, however large it is, with or
    without a key.

    A message that is arriving may hold memory up to the transport's limit, so few may arrive at a time. One that takes
    too long while others wait ends with TransferStalled. Raises MalformedRequest if no message arrives, and
    TooManyCalls if the budget has no room for a large one.
    """

    def __init__(self, places: Places, held: Shares, patience: float = PATIENCE) -> None:
        """`held`: budget for request bytes of calls in progress. `patience`: seconds that a message may take to arrive
        while others wait."""
        self._places = places
        self._held = held
        self._patience = patience
        self._under_way: dict[asyncio.Task[Any], float] = {}
        """Reads in progress, oldest first, with the time at which each began."""
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
                # So reads also end for callers that have left, of whom grpc tells a moment later.
                await asyncio.sleep(LEAVING)
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
                raise TransferStalled(self._patience) from None
            raise
        finally:
            del self._under_way[task]
            self._late.discard(task)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience / 5, self._look)

    def _look(self) -> None:
        """Ends reads that take too long while others wait."""
        self._timer = None
        if not self._places.queued:
            return
        overdue = asyncio.get_running_loop().time() - self._patience
        for task, began in self._under_way.items():
            if began > overdue:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watch()
