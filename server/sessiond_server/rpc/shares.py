"""Places that calls wait for, tenants by turns."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from sessiond_server.domain.shares import Shares, never_alone
from sessiond_server.errors import TooManyCalls

RETRY_AFTER: Final = 0.5
"""Seconds that a refused caller is asked to wait."""
NEWEST_FIRST_AFTER: Final = 1.0
"""Seconds that the oldest call of a tenant has waited when the newest one goes first. A queue that is this long holds
more than can be served: callers are about to give up what is at its head, and serving it would be for nothing."""


class Places:
    """Places of one kind, with a queue for each tenant. Tenants get free places by turns."""

    def __init__(self, most: int, *, waiting: Shares, alone: Callable[[], bool] = never_alone) -> None:
        """`waiting` bounds how many calls wait, here and wherever else it is used."""
        self._shares = Shares(most, alone=alone)
        self._waiting = waiting
        self._queues: OrderedDict[str, OrderedDict[asyncio.Future[None], float]] = OrderedDict()
        """Of each tenant, the oldest first, with the times at which they came. Thousands may leave at once."""

    @property
    def queued(self) -> bool:
        """Whether a call waits."""
        return bool(self._queues)

    def take_now(self, tenant_id: str) -> bool:
        """Takes a place if the tenant may have one at once."""
        return tenant_id not in self._queues and self._shares.take(tenant_id)

    async def take(self, tenant_id: str) -> None:
        """Returns with a place. Raises TooManyCalls at once where too many wait. Cancelling it takes none."""
        if self.take_now(tenant_id):
            return
        if not self._waiting.take(tenant_id):
            raise TooManyCalls(RETRY_AFTER)
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queues.setdefault(tenant_id, OrderedDict())[turn] = loop.time()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(tenant_id)
            else:
                self._forget(tenant_id, turn)
            raise
        finally:
            self._waiting.give(tenant_id)

    def give(self, tenant_id: str) -> None:
        """Gives a place back, to the next tenant that waits."""
        self._shares.give(tenant_id)
        if self._queues:
            self._hand_out()

    def _hand_out(self) -> None:
        """Tenants that may have no place now keep their turns."""
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
        """The next one that still waits: a call that is being cancelled has not taken itself out yet."""
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
        """Takes a call out that was cancelled, unless it was passed over before."""
        queue = self._queues.get(tenant_id)
        if queue is None:
            return
        queue.pop(turn, None)
        if not queue:
            del self._queues[tenant_id]
