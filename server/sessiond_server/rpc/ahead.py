"""Calls accepted ahead: grpc's core is asked for several at once, and they are handed to grpc.aio one by one."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

AHEAD: Final = 64
"""Calls that grpc's core is asked for at once. An answer of the core takes a thread switch and several turns of the
loop, each as long as the work on the calls in progress. Asked for one at a time, calls are accepted no faster than
they are served, and wait in the core: in one queue, whatever their tenants. As many as may be in progress
(`WireSettings.most_begun`); with 16, 48 calls in progress kept the others in the core."""
FORGET_AFTER: Final = 0.1
"""Seconds after which a server that stops drops accepted calls that grpc.aio does not ask for any more. The core then
ends them CANCELLED, as it does with calls that it has not handed over."""

Accept = Callable[[], "asyncio.Future[Any]"]


class _ReadyFuture(asyncio.Future[Any]):
    """A future that a waiter finds settled without a turn of the loop: grpc.aio then handles all calls that are ready
    in one turn instead of one call in several."""

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        if self.done():
            callback(self)
        else:
            super().add_done_callback(callback, context=context)

    def set_name(self, name: str | None) -> None:
        """Does nothing. From Python 3.13 on, a loop names what its task factory makes."""


class Ahead:
    """The calls of one server that the core was asked for, and those that it has answered with, in their order."""

    def __init__(self) -> None:
        self._asked: set[asyncio.Future[Any]] = set()
        """Held here, because the core writes into a request until it has answered it."""
        self._ready: deque[asyncio.Future[Any]] = deque()
        self._wanted: _ReadyFuture | None = None
        self._ended = False

    @property
    def used(self) -> bool:
        """Whether requests were made ahead that grpc.aio has not asked for yet."""
        return bool(self._asked or self._ready)

    def next(self, first: "asyncio.Future[Any]", another: Accept | None = None) -> "asyncio.Future[Any]":
        """The next call. `first` asks the core for one; `another` makes further requests, up to AHEAD with those
        that are ready; None: no further ones."""
        self._ask(first)
        while another is not None and not self._ended and len(self._asked) + len(self._ready) < AHEAD:
            self._ask(another())
        wanted = self._wanted = _ReadyFuture(loop=first.get_loop())
        if self._ready:
            self._hand(self._ready.popleft())
        return wanted

    def end(self) -> None:
        """Asks for no more calls ahead."""
        self._ended = True

    async def handed_over(self) -> None:
        """Returns once grpc.aio has got the calls that are ready, which takes it a turn or two of the loop."""
        for _ in range(AHEAD):
            if not self._ready:
                return
            await asyncio.sleep(0)

    def _ask(self, request: "asyncio.Future[Any]") -> None:
        self._asked.add(request)
        request.add_done_callback(self._answered)

    def _answered(self, request: "asyncio.Future[Any]") -> None:
        self._asked.discard(request)
        if request.cancelled():
            return
        refused = request.exception() is not None  # all requests are, as the server stops
        if self._wanted is not None and not self._wanted.done():
            self._hand(request)
            return
        if refused and self._ended:
            return  # grpc.aio takes the first refusal only
        self._ready.append(request)
        if self._ended:
            request.get_loop().call_later(FORGET_AFTER, self._ready.clear)

    def _hand(self, request: "asyncio.Future[Any]") -> None:
        wanted, self._wanted = self._wanted, None
        assert wanted is not None
        error = request.exception()
        if error is not None:
            wanted.set_exception(error)
        else:
            wanted.set_result(request.result())
