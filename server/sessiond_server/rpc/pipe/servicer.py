"""PipeService: how many pipes there are, and when they end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from weakref import WeakValueDictionary

from sessiond_server.auth import Principal
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import Draining, TooManyCalls, Unauthenticated
from sessiond_server.rpc.call import Call, taking_bytes
from sessiond_server.rpc.events.delivery import AGE_SPREAD
from sessiond_server.rpc.pipe.pipe import Pipe, Surroundings
from sessiond_server.rpc.places import RETRY_AFTER


class PipeServicer:
    """The RPC of sessiond.v1.PipeService, and all pipes of one server."""

    def __init__(self, around: Surroundings, places: Shares, *, max_age: float, random: Random | None = None) -> None:
        """`places`: shares of the pipes that there may be. `max_age`: seconds until a pipe ends, up to a tenth sooner,
        so that pipes which began together do not end together."""
        self._around = around
        self._places = places
        self._max_age = max_age
        self._random = random or Random()
        self._pipes: set[Pipe] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of each tenant that has pipes."""
        self._drained = False

    @taking_bytes
    async def open(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Raises Draining once `drain` was called, TooManyCalls if there are too many pipes, and what `Pipe.run`
        raises."""
        if self._drained:
            raise Draining
        tenant_id = call.principal.tenant_id
        if not self._places.take(tenant_id):
            raise TooManyCalls(RETRY_AFTER, "pipes")
        pipe = Pipe(self._around, call, self._turns.setdefault(tenant_id, asyncio.Lock()))
        age = self._max_age * (1 - AGE_SPREAD * self._random.random())
        timer = asyncio.get_running_loop().call_later(age, pipe.leave)
        self._pipes.add(pipe)
        try:
            await pipe.run(messages)
        finally:
            timer.cancel()
            self._pipes.discard(pipe)
            self._places.give(tenant_id)

    def drain(self) -> None:
        """Makes all clients go elsewhere, and admits no more pipes. Returns at once."""
        self._drained = True
        for pipe in list(self._pipes):
            pipe.leave()

    def revoke(self, holds: Callable[[Principal], bool]) -> None:
        """Ends the pipes whose principals are no longer valid. Returns at once."""
        for pipe in list(self._pipes):
            if not holds(pipe.call.principal):
                pipe.leave(Unauthenticated)
