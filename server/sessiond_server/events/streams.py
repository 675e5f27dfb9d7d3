"""The common part of session streams and feed streams: waiting, waking and failing."""

import asyncio
from collections.abc import Callable


class Waiting:
    """Number of streams that wait for new events. While it is 0, no read is needed."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Stream:
    """A stream that belongs to one task. It holds no task, timer or events: a few hundred bytes while it waits."""

    __slots__ = ("_due", "_failure", "_silence", "_waiter")

    def __init__(self, now: float, silence: float) -> None:
        """`silence`: seconds without anything after which a bookmark is due. `now` is a time of the loop's clock."""
        self._silence = silence
        self._due = now + silence
        """When a bookmark is due, by the loop's clock."""
        self._failure: Callable[[], Exception] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def shorten_silence(self, seconds: float) -> None:
        """As contract.SessionStream.shorten_silence."""
        if seconds < self._silence:
            self._due -= self._silence - seconds
            self._silence = seconds

    def wake(self) -> None:
        """Wakes the stream because there may be new events. Does nothing if it is not waiting."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wake_if_due(self, now: float) -> None:
        """Wakes a stream that is due a bookmark."""
        if self._waiter is not None and self._due <= now:
            self.wake()

    def fail(self, failure: Callable[[], Exception]) -> None:
        """Ends the stream: from now on `next` raises the exception that `failure` returns."""
        self._failure = failure
        self.wake()

    async def wait(self, waiting: Waiting, at_most: float | None = None) -> None:
        """Waits until `wake`, or for `at_most` seconds. Safe to cancel."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if at_most is None else loop.call_later(at_most, self.wake)
        waiting.count += 1
        try:
            await waiter
        finally:
            waiting.count -= 1
            self._waiter = None
            if timer is not None:
                timer.cancel()
