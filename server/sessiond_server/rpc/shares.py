"""Places for calls, with a fair queue: tenants take turns."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sessiond_server.domain.shares import Shares, never_alone
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.standing import StandingQueue

RETRY_AFTER: Final = 0.5
"""Seconds after which a refused caller should retry."""
NEWEST_FIRST_AFTER: Final = 1.0
"""Once the oldest call of a tenant has waited this many seconds, the newest call goes first. Such a queue holds more
than can be served: callers are about to give up the calls at its head, and serving those would be wasted."""


class Places:
    """Places of one kind, with a queue for each tenant. Tenants get free places by turns."""

    def __init__(
        self,
        most: int,
        *,
        waiting: Shares,
        alone: Callable[[], bool] = never_alone,
        standing: StandingQueue = StandingQueue(),  # noqa: B008 - frozen
    ) -> None:
        """`waiting` bounds how many calls wait, here and in all other places that share it. `standing` bounds how many
        calls of one tenant wait once its queue is slow."""
        self._shares = Shares(most, alone=alone)
        self._waiting = waiting
        self._standing = standing
        self._queues: OrderedDict[str, OrderedDict[asyncio.Future[None], float]] = OrderedDict()
        """Tenant -> its waiting calls, oldest first, with the times at which they arrived. Removal must be cheap:
        thousands may be cancelled at once."""
        self._queued = 0
        self.left = 0
        """Places that were given back so far."""

    @property
    def queued(self) -> bool:
        """Whether a call waits."""
        return bool(self._queues)

    @property
    def present(self) -> int:
        """Calls that have a place or wait for one."""
        return self._shares.used + self._queued

    def take_now(self, tenant_id: str) -> bool:
        """Takes a place if the tenant may have one at once."""
        return tenant_id not in self._queues and self._shares.take(tenant_id)

    async def take(self, tenant_id: str) -> None:
        """Waits for a place and takes it. Raises TooManyCalls at once if too many calls wait, or wait for too long.
        Cancelling takes none."""
        if self.take_now(tenant_id):
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        queue = self._queues.get(tenant_id)
        if queue:
            delay = self._standing.refusal(len(queue), now - next(iter(queue.values())))
            if delay is not None:
                raise TooManyCalls(delay)
        if not self._waiting.take(tenant_id):
            raise TooManyCalls(RETRY_AFTER)
        turn = loop.create_future()
        self._queues.setdefault(tenant_id, OrderedDict())[turn] = now
        self._queued += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(tenant_id)
            else:
                self._forget(tenant_id, turn)
            raise
        finally:
            self._queued -= 1
            self._waiting.give(tenant_id)

    def give(self, tenant_id: str) -> None:
        """Gives a place back, to the next tenant that waits."""
        self._shares.give(tenant_id)
        self.left += 1
        if self._queues:
            self._hand_out()

    def _hand_out(self) -> None:
        """Gives free places to waiting tenants in turn. A tenant whose share is used up keeps its turn."""
        for tenant_id in list(self._queues):
            if self._shares.used >= self._shares.most:
                return
            if self._shares.take(tenant_id):
                turn = self._next_of(tenant_id)
                if turn is None:
                    self._shares.give(tenant_id)
                else:
                    turn.set_result(None)

    def _next_of(self, tenant_id: str) -> "asyncio.Future[None] | None":
        """The tenant's next call that still waits. Skips calls that are being cancelled but are still in the queue."""
        queue = self._queues[tenant_id]
        overdue = asyncio.get_running_loop().time() - next(iter(queue.values())) > NEWEST_FIRST_AFTER
        found = None
        while queue and found is None:
            turn, _ = queue.popitem(last=overdue)
            found = None if turn.done() else turn
        if queue:
            self._queues.move_to_end(tenant_id)
        else:
            del self._queues[tenant_id]
        return found

    def _forget(self, tenant_id: str, turn: "asyncio.Future[None]") -> None:
        """Removes a cancelled call from the queue, unless it was skipped before."""
        queue = self._queues.get(tenant_id)
        if queue is None:
            return
        queue.pop(turn, None)
        if not queue:
            del self._queues[tenant_id]
