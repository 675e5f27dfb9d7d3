"""Delivers frames to watchers, one after the other, until the stream ends or the watcher must be disconnected."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from random import Random
from typing import Any, Final, Protocol

from sessiond_server import failpoints
from sessiond_server.auth import Principal
from sessiond_server.errors import Draining, TooManyCalls, Unauthenticated, WatcherTooSlow

Write = Callable[[bytes], Awaitable[None]]
"""Sends a frame; returns once the transport has accepted it."""

RETRY_AFTER: Final = 1.0
"""Seconds after which a slow consumer should reconnect."""
AGE_SPREAD: Final = 0.1
"""Largest share of the maximum age by which a stream ends earlier, so that streams that began together end apart."""


class Frames(Protocol):
    """The frames for one watcher. Cursors are opaque in this module."""

    @property
    def cursor(self) -> Any:
        """The cursor after the last frame of `next`."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the last frame was the end of the stream."""
        ...

    async def next(self) -> bytes:
        """The next frame; empty if the new events are not for this watcher. Cancelling it loses nothing."""
        ...

    def bookmark(self) -> bytes:
        """A frame with the watcher's position."""
        ...

    def going_away(self, at: Any) -> bytes:
        """The frame that disconnects the watcher, with the position of this cursor to resume from."""
        ...

    def position(self, at: Any) -> str: ...


class Deliveries:
    """All streams of one server."""

    def __init__(
        self, *, write_timeout: float, max_age: float, bookmark_interval: float, random: Random | None = None
    ) -> None:
        """All times are in seconds. `write_timeout`: longest time for the transport to accept a frame. `max_age`: of a
        stream. `bookmark_interval`: longest silence while there are only events that are not for the watcher."""
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
        """Disconnects every watcher and admits no more. Returns at once."""
        self._drained = True
        for delivery in list(self._under_way):
            delivery.leave()

    def revoke(self, holds: Callable[[Principal], bool]) -> None:
        """Disconnects watchers whose principals are no longer valid. Returns at once."""
        for delivery in list(self._under_way):
            if not holds(delivery.principal):
                delivery.leave(Unauthenticated)

    def release(self, leaves: Callable[[Principal], bool]) -> None:
        """Disconnects watchers, who may connect again at once. Returns at once."""
        for delivery in list(self._under_way):
            if leaves(delivery.principal):
                delivery.leave()

    async def deliver(
        self, write: Write, frames: Frames, first: bytes, principal: Principal, silence: float = inf
    ) -> None:
        """Sends `first` and all following frames; returns at the end of the stream. `silence`: seconds that replace
        `bookmark_interval` if they are fewer.

        Raises, after a GoingAway frame, Draining if the watcher must disconnect, and Unauthenticated if its key is no
        longer valid. Raises WatcherTooSlow without that frame, and what `frames.next` raises.
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
    """One stream. Belongs to the task that creates it."""

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
        """Cursor from which the watcher resumes: after the last frame that the transport accepted, or skipped ones."""
        self._written = 0.0
        """When the last write began, by the loop's clock."""
        self._waiting = False
        """Whether the task waits for the next frame. Only then does `leave` cancel it: a write cannot be undone."""
        self._leaving: type[Draining | Unauthenticated] | None = None
        """The error with which the stream must end; None while it may continue."""
        self._slow = False

    def leave(self, error: type[Draining | Unauthenticated] = Draining) -> None:
        """Makes `run` send a GoingAway and raise the error."""
        if self._leaving is None:
            self._leaving = error
            if self._waiting:
                self._task.cancel()

    def give_up(self) -> None:
        """Makes `run` raise WatcherTooSlow. Call it only during a write."""
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
        """The next frame; None if the watcher must disconnect."""
        if self._leaving:
            return None
        self._waiting = True
        try:
            return await self._frames.next()
        except asyncio.CancelledError:
            # `leave` has cancelled the task, unless the call was cancelled as well.
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
    """Writes in progress, oldest first. One timer serves all of them: a timeout per write would cost 20 of the 100 µs
    that a frame takes."""

    __slots__ = ("_loop", "_timeout", "_timer", "_under_way", "clock")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.clock: Final = self._loop.time
        self._under_way: dict[_Delivery, float] = {}
        """Delivery -> time at which its write began."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, delivery: _Delivery) -> float:
        """Records the begin of a write; returns the present time."""
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
