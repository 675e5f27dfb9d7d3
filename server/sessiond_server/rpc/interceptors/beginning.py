"""Begins calls of several tenants by turns, few at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.slots import Slots

LONG: Final = 0.25
"""Seconds after which a call does not count any more: it waits for something else than the event loop, such as a locked
row or a request that arrives slowly."""


class Begun:
    """A call that has begun."""

    __slots__ = ("at", "counts", "tenant_id")

    def __init__(self, tenant_id: str, at: float) -> None:
        self.tenant_id = tenant_id
        self.at = at
        self.counts = True


class Beginning:
    """Bounds how many unary calls the event loop works on at a time while there are several tenants.

    The loop serves all calls that have begun in turns, so each delays all others, whatever their tenants. Calls that
    have a place but have not begun wait here, a queue for each tenant, and cost nothing. With one tenant all begin at
    once. Cancelling a wait begins nothing.
    """

    def __init__(self, most: int, *, alone: Callable[[], bool]) -> None:
        """`most`: calls that have begun within the last LONG seconds and have not ended; each tenant has its share of
        them. `alone`: whether there is only one tenant."""
        self._slots = Slots(most)
        self._alone = alone
        self._begun: deque[Begun] = deque()
        """Oldest first. Calls that do not count any more are removed once they are the oldest."""
        self._timer: asyncio.TimerHandle | None = None

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.request_streaming or method.response_streaming:
            return proceed
        alone = self._alone

        def beginning(request: Any, call: Call) -> Awaitable[bytes | None]:
            # The calls of a pipe have waited for their turns before they were taken from its frames.
            return proceed(request, call) if call.piped or alone() else in_turn(request, call)

        async def in_turn(request: Any, call: Call) -> bytes | None:
            begun = await self._begin(call.principal.tenant_id)
            try:
                return await proceed(request, call)
            finally:
                self.end(begun)

        return beginning

    def alone(self) -> bool:
        """Whether there is only one tenant, whose calls have no turns."""
        return self._alone()

    async def begin(self, tenant_id: str) -> Begun | None:
        """Waits for the turn of a call that has not been taken in yet. `end` must follow, unless the result is None:
        there is only one tenant. What waits here is bounded by the caller."""
        return None if self._alone() else await self._begin(tenant_id)

    async def _begin(self, tenant_id: str) -> Begun:
        slots = self._slots
        if not slots.take_now(tenant_id):
            self._watch()
            await slots.take(tenant_id)
        begun = Begun(tenant_id, asyncio.get_running_loop().time())
        self._begun.append(begun)
        self._forget_long(begun.at)
        return begun

    def end(self, begun: Begun) -> None:
        """The call has ended, or does not count any more. Idempotent."""
        if begun.counts:
            begun.counts = False
            self._slots.give(begun.tenant_id)

    def _forget_long(self, now: float) -> None:
        begun = self._begun
        while begun and (not begun[0].counts or now - begun[0].at >= LONG):
            self.end(begun.popleft())

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LONG / 5, self._look)

    def _look(self) -> None:
        """Lets others begin in place of calls that take long."""
        self._timer = None
        self._forget_long(asyncio.get_running_loop().time())
        if self._slots.queued:
            self._watch()
