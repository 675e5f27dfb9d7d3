"""Slots that tenants share by turns: for calls, and for reads of the store on behalf of streams."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import Final

from sessiond_server.domain.shares import Shares, never_alone

OLDEST_EACH: Final = 8
"""Of so many slots that a queue gets while its newest go first, one is for its oldest. Callers that make a call once
they have the last answer would otherwise leave those at its head until they give up, long after the overload."""


class _Queue(OrderedDict["asyncio.Future[None]", float]):
    """What waits, oldest first, with the times at which it arrived. Removal is cheap: thousands may be cancelled at
    once."""

    def __init__(self) -> None:
        super().__init__()
        self.newest_in_a_row = 0


class Slots:
    """`most` slots, of which each tenant has its share, with a queue for each tenant. Tenants get free slots by turns.

    What waits is bounded by the caller. Cancelling a wait takes no slot.
    """

    def __init__(self, most: int, *, alone: Callable[[], bool] = never_alone, newest_first_after: float = inf) -> None:
        """`alone` as of Shares. Once the oldest of a tenant's queue has waited for `newest_first_after` seconds, its
        newest goes first, but for one in OLDEST_EACH."""
        self._shares = Shares(most, alone=alone)
        self._newest_first_after = newest_first_after
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        """By tenant."""
        self._queued = 0
        self.left = 0
        """Slots that were given back so far."""

    @property
    def queued(self) -> bool:
        """Whether anything waits."""
        return bool(self._queues)

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._queued

    @property
    def present(self) -> int:
        """How many have a slot or wait for one."""
        return self._shares.used + self._queued

    def take_now(self, tenant_id: str) -> bool:
        """Takes a slot if the tenant may have one at once."""
        return tenant_id not in self._queues and self._shares.take(tenant_id)

    async def take(self, tenant_id: str) -> None:
        """Waits for a slot and takes it."""
        if not self.take_now(tenant_id):
            await self._turn(tenant_id)

    def give(self, tenant_id: str) -> None:
        """Gives a slot back, to the next tenant that waits."""
        self._shares.give(tenant_id)
        self.left += 1
        if self._queues:
            self._hand_out()

    def _waiting(self, tenant_id: str) -> tuple[int, float]:
        """(how many of the tenant wait, seconds that the oldest has waited)."""
        queue = self._queues.get(tenant_id)
        return (len(queue), _now() - next(iter(queue.values()))) if queue else (0, 0.0)

    async def _turn(self, tenant_id: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant_id, _Queue())[turn] = _now()
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

    def _hand_out(self) -> None:
        """Gives free slots to waiting tenants in turn. A tenant whose share is used up keeps its turn."""
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
        """The tenant's next that still waits. Skips what is being cancelled but is still in the queue."""
        queue = self._queues[tenant_id]
        overdue = _now() - next(iter(queue.values())) > self._newest_first_after
        newest = overdue and queue.newest_in_a_row < OLDEST_EACH - 1
        queue.newest_in_a_row = queue.newest_in_a_row + 1 if newest else 0
        found = None
        while queue and found is None:
            turn, _ = queue.popitem(last=newest)
            found = None if turn.done() else turn
        if queue:
            self._queues.move_to_end(tenant_id)
        else:
            del self._queues[tenant_id]
        return found

    def _forget(self, tenant_id: str, turn: "asyncio.Future[None]") -> None:
        """Removes what was cancelled from the queue, unless it was skipped before."""
        queue = self._queues.get(tenant_id)
        if queue is None:
            return
        queue.pop(turn, None)
        if not queue:
            del self._queues[tenant_id]


def _now() -> float:
    return asyncio.get_running_loop().time()
