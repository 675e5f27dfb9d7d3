"""How frames reach a watcher: one after the other, until the stream ends, the watcher is too slow, or it has to go."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import Any, Final, Protocol

from sessiond_server import failpoints
from sessiond_server.auth import Principal
from sessiond_server.errors import Draining, TooManyCalls, Unauthenticated, WatcherTooSlow

Write = Callable[[bytes], Awaitable[None]]
"""Returns when the transport has taken a frame."""

RETRY_AFTER: Final = 1.0
"""Seconds that a watcher which was too slow is told to wait."""
AGE_SPREAD: Final = 0.1
"""Streams that began together end apart: by up to this share of the greatest age earlier."""


class Frames(Protocol):
    """What one watcher is sent. Cursors mean nothing here."""

    @property
    def cursor(self) -> Any:
        """After what `next` has dealt with."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing follows the last frame."""
        ...

    async def next(self) -> bytes:
        """The next frame; empty when what happened is not for this watcher. Cancelling it loses nothing."""
        ...

    def bookmark(self) -> bytes:
        """A frame that says where the watcher is."""
        ...

    def going_away(self, at: Any) -> bytes:
        """The frame that sends the watcher away, to come back with the position of this cursor."""
        ...

    def position(self, at: Any) -> str: ...


class Deliveries:
    """All streams of one server."""

    def __init__(
        self, *, write_timeout: float, max_age: float, bookmark_interval: float, random: Random | None = None
    ) -> None:
        """Seconds. `write_timeout`: how long the transport may take to take a frame. `max_age`: of a stream.
        `bookmark_interval`: the longest silence while things happen that are not for the watcher."""
        self._max_age = max_age
        self._bookmark_interval = bookmark_interval
        self._random = random or Random()
        self._writes = _Writes(write_timeout)
        self._under_way: set[_Delivery] = set()
        self._drained = False

    def admit(self) -> None:
        """Raises Draining once `drain` was called."""
        if self._drained:
            raise Draining

    def drain(self) -> None:
        """Sends every watcher away, and admits none any more. Returns at once."""
        self._drained = True
        for delivery in list(self._under_way):
            delivery.leave()

    def revoke(self, holds: Callable[[Principal], bool]) -> None:
        """Sends the watchers away whose principals are no longer valid. Returns at once."""
        for delivery in list(self._under_way):
            if not holds(delivery.principal):
                delivery.leave(Unauthenticated)

    async def deliver(
        self, write: Write, frames: Frames, first: bytes, principal: Principal, silence: float = inf
    ) -> None:
        """Sends `first` and what follows it; returns when nothing follows. `silence`: seconds, in place of
        `bookmark_interval` where they are fewer.

        Raises, behind a GoingAway, Draining when the watcher has to go, and Unauthenticated when its key is no longer
        valid; WatcherTooSlow; what `frames.next` raises.
        """
        self.admit()
        delivery = _Delivery(write, frames, self._writes, min(self._bookmark_interval, silence), principal)
        age = self._max_age * (1 - AGE_SPREAD * self._random.random())
        timer = asyncio.get_running_loop().call_later(age, delivery.leave)
        self._under_way.add(delivery)
        try:
            await delivery.run(first)
        finally:
            timer.cancel()
            self._under_way.discard(delivery)


class _Delivery:
    """One stream. Belongs to the task that makes it."""

    __slots__ = (
        "_bookmark_interval", "_frames", "_leaving", "_sent", "_slow", "_take", "_task", "_waiting", "_writes",
        "_written", "principal",
    )  # fmt: skip

    def __init__(
        self, write: Write, frames: Frames, writes: "_Writes", bookmark_interval: float, principal: Principal
    ) -> None:
        self.principal = principal
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._take = write
        self._frames = frames
        self._writes = writes
        self._bookmark_interval = bookmark_interval
        self._sent = frames.cursor
        """After what the transport has taken, or what was not for the watcher: where it goes on."""
        self._written = 0.0
        """When the last write began, by the loop's clock."""
        self._waiting = False
        """For what comes next. Only then does `leave` interrupt the task: a write that has begun cannot be undone."""
        self._leaving: type[Draining | Unauthenticated] | None = None
        """What it ends with, once it has to."""
        self._slow = False

    def leave(self, error: type[Draining | Unauthenticated] = Draining) -> None:
        """Makes `run` end with the error, behind a GoingAway."""
        if self._leaving is None:
            self._leaving = error
            if self._waiting:
                self._task.cancel()

    def give_up(self) -> None:
        """Makes `run` end with WatcherTooSlow. Only while it writes."""
        self._slow = True
        self._task.cancel()

    async def run(self, first: bytes) -> None:
        await self._write(first)
        while not self._frames.ended:
            frame = await self._next()
            if frame is None:
                await self._write(self._frames.going_away(self._sent))
                assert self._leaving is not None
                raise self._leaving()
            if not frame and self._writes.clock() - self._written >= self._bookmark_interval:
                frame = self._frames.bookmark()
            if frame:
                await self._write(frame)
            self._sent = self._frames.cursor

    async def _next(self) -> bytes | None:
        """The next frame; None: it is time to go."""
        if self._leaving:
            return None
        self._waiting = True
        try:
            return await self._frames.next()
        except asyncio.CancelledError:
            # Of `leave`, unless the call was cancelled as well.
            if self._leaving and not self._task.uncancel():
                return None
            raise
        finally:
            self._waiting = False

    async def _write(self, frame: bytes) -> None:
        _ = failpoints.armed and await failpoints.reach("before_deliver")
        self._written = self._writes.begin(self)
        try:
            await self._take(frame)
        except TooManyCalls:
            raise WatcherTooSlow(self._frames.position(self._sent), RETRY_AFTER) from None
        except asyncio.CancelledError:
            if self._slow and not self._task.uncancel():
                raise WatcherTooSlow(self._frames.position(self._sent), RETRY_AFTER) from None
            raise
        finally:
            self._writes.end(self)


class _Writes:
    """Writes under way, the oldest first: one timer watches over all of them, where a timeout for each would cost 20
    microseconds of a frame's 100."""

    __slots__ = ("_loop", "_timeout", "_timer", "_under_way", "clock")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.clock: Final = self._loop.time
        self._under_way: dict[_Delivery, float] = {}
        """With the time at which each began."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, delivery: _Delivery) -> float:
        """Now."""
        now = self._under_way[delivery] = self.clock()
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._look)
        return now

    def end(self, delivery: _Delivery) -> None:
        self._under_way.pop(delivery, None)

    def _look(self) -> None:
        self._timer = None
        overdue = self.clock() - self._timeout
        while self._under_way:
            oldest, began = next(iter(self._under_way.items()))
            if began > overdue:
                self._timer = self._loop.call_at(began + self._timeout, self._look)
                return
            del self._under_way[oldest]
            oldest.give_up()
