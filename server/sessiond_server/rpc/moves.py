"""Holds the calls of tenants that are moving from one database to another, until it is known where they live.

Each database says which tenants may not be written there (store/homes.py). A tenant is unsettled while the map of all
tenants names a database that says otherwise, or that says that the tenant is about to leave. Calls of a tenant that is
about to leave are served only if the database said within LEASE that the tenant has not left: the mover waits for
longer, after the tenant has left, before its new home takes writes. So no call is answered from rows that are not the
newest.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from typing import Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.store.homes import LEASE, Homes

WAIT: Final = 2.0
"""Longest time, in seconds, that a call is held; then it is refused, and its caller may try again."""


class Moves:
    """The unsettled tenants of a process. Belongs to one event loop."""

    def __init__(
        self, homes: Homes, fences: Mapping[str, Homes], default: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`homes`: the map of all tenants, that of the database `default`. `fences`: what each database says of itself,
        by its id. `clock`: that of `Homes.confirmed`, in seconds."""
        self._homes = homes
        self._fences = fences
        self._default = default
        self._clock = clock
        self.unsettled: Set[str] = frozenset()
        self._looked: asyncio.Future[None] | None = None
        """Done when a database has said something; None while no call waits."""
        for each in {id(each): each for each in (homes, *fences.values())}.values():
            each.on_use, each.on_look = self._used, self._look
        self._used()

    def under_way(self) -> bool:
        """Whether a tenant is about to leave a database, or has left it and is not known to be in another one."""
        return bool(self.unsettled)

    async def settled(self, tenant_id: str, until: float) -> None:
        """Returns once calls of the tenant can be served. Raises StoreUnavailable at `until`, a time of the event loop.
        Cancelling leaves nothing behind."""
        loop = asyncio.get_running_loop()
        while not self._settled(tenant_id):
            if self._looked is None:
                self._looked = loop.create_future()
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.shield(self._looked)
            except TimeoutError:
                raise StoreUnavailable(elsewhere=True) from None

    def _settled(self, tenant_id: str) -> bool:
        if tenant_id not in self.unsettled:
            return True
        fence = self._fences.get(self._homes.of(tenant_id) or self._default)
        if fence is None or fence.elsewhere([tenant_id]):
            return fence is None
        return self._clock() - fence.confirmed < LEASE

    def _used(self) -> None:
        """A database has said which tenants live there."""
        self.unsettled = frozenset(
            tenant_id
            for database_id, fence in self._fences.items()
            for tenant_id in fence.leaving | fence.left
            if (self._homes.of(tenant_id) or self._default) == database_id
        )

    def _look(self) -> None:
        """A database has said which tenants live there, or that nothing has changed."""
        if self._looked is not None:
            self._looked.set_result(None)
            self._looked = None
