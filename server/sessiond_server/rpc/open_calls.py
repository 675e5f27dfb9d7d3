"""Calls that anybody may make without a key: how many at once, and for how long."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc.aio import InternalError as TransportError
from grpc.aio import ServicerContext

Context = ServicerContext[Any, Any]
Serve = Callable[[Any, Context], Awaitable[Any]]
"""What grpc calls: with the messages of the caller, and the context."""

PROTECTED: Final = 0.5
"""Seconds that a call has its place for sure. One that is done by then never gives way to others."""
PATIENCE: Final = 10.0
"""Seconds that a peer may take to send what it asks, or to take an answer."""


class OpenCalls:
    """Places of which the oldest gives way when all are taken: those who hold places on purpose keep no one out."""

    def __init__(self, most: int, refused: Callable[[], None] = lambda: None) -> None:
        """`refused` is called for each call that has to end for want of a place."""
        self._most = most
        self._refused = refused
        self._under_way: dict[asyncio.Task[Any], float] = {}
        """Oldest first, with the time at which each came."""
        self._sent_away: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        return len(self._under_way)

    def bounded(self, serve: Serve) -> Serve:
        """`serve` within a place. Where there is none left the oldest call ends with RESOURCE_EXHAUSTED, or the new one
        while all are new; where `serve` raises TimeoutError, with DEADLINE_EXCEEDED."""

        async def bounded(messages: Any, context: Context) -> Any:
            task = asyncio.current_task()
            assert task is not None
            try:
                if not self._take(task):
                    self._refused()
                    return await _end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many such calls")
                return await serve(messages, context)
            except TimeoutError:
                return await _end(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the peer took too long")
            except TransportError:
                # The caller has left, of which grpc hears a moment later: what is raised in that moment is logged.
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                if task in self._sent_away and not task.uncancel():
                    self._refused()
                    return await _end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "others need the place")
                raise
            finally:
                self._under_way.pop(task, None)
                self._sent_away.discard(task)

        return bounded

    def _take(self, task: asyncio.Task[Any]) -> bool:
        now = asyncio.get_running_loop().time()
        if len(self._under_way) >= self._most:
            oldest = next(iter(self._under_way))
            if now - self._under_way[oldest] < PROTECTED:
                return False
            del self._under_way[oldest]
            self._sent_away.add(oldest)
            oldest.cancel()
        self._under_way[task] = now
        return True


async def _end(context: Context, code: grpc.StatusCode, text: str) -> None:
    """Behind an answer that the peer does not take a status may wait for ever: grpc keeps it, the call ends here."""
    try:
        async with asyncio.timeout(PATIENCE):
            await context.abort(code, text)
    except (TimeoutError, TransportError):
        pass
