"""Places for calls: slots that tenants share by turns, with bounds on how many calls wait, and for how long."""

from collections.abc import Callable
from typing import Final

from sessiond_server.domain.shares import Shares, never_alone
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.standing import StandingQueue
from sessiond_server.slots import Slots

RETRY_AFTER: Final = 0.5
"""Seconds after which a refused caller should retry."""
NEWEST_FIRST_AFTER: Final = 1.0
"""Once the oldest call of a tenant has waited this many seconds, the newest call goes first. Such a queue holds more
than can be served: callers are about to give up the calls at its head, and serving those would be wasted."""


class Places(Slots):
    """Places of one kind."""

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
        super().__init__(most, alone=alone, newest_first_after=NEWEST_FIRST_AFTER)
        self._room = waiting
        self._standing = standing

    async def take(self, tenant_id: str) -> None:
        """Waits for a place and takes it. Raises TooManyCalls at once if too many calls wait, or wait for too long."""
        if self.take_now(tenant_id):
            return
        waiting, oldest = self._waiting(tenant_id)
        delay = self._standing.refusal(waiting, oldest) if waiting else None
        if delay is not None:
            raise TooManyCalls(delay)
        if not self._room.take(tenant_id):
            raise TooManyCalls(RETRY_AFTER)
        try:
            await self._turn(tenant_id)
        finally:
            self._room.give(tenant_id)
