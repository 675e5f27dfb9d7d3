"""Bounds calls that need no key: how many there are at a time, and how long each may take."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc.aio import InternalError as TransportError
from grpc.aio import ServicerContext

from sessiond_server.rpc.tracebacks import Serve, freeing

Context = ServicerContext[Any, Any]

PROTECTED: Final = 0.5
"""Seconds for which a call is protected from being ended in favour of new calls."""
PATIENCE: Final = 10.0
"""Longest time, in seconds, that a peer may take to send its request or to receive an answer."""


class OpenCalls:
    """A fixed number of places for calls. When all are taken, the oldest call is ended in favour of a new one, so that
    callers who hold places on purpose cannot lock others out."""

    def __init__(self, most: int, refused: Callable[[], None] = lambda: None) -> None:
        """`refused` is called for each call that has to end for want of a place."""
        self._most = most
        self._refused = refused
        self._under_way: dict[asyncio.Task[Any], float] = {}
        """Calls in progress, oldest first, with the time at which each began."""
        self._sent_away: set[asyncio.Task[Any]] = set()

    @property
    def count(self) -> int:
        return len(self._under_way)

    def bounded(self, serve: Serve) -> Serve:
        """Wraps `serve` so that each call needs a place.

        If none is free, the oldest call ends with RESOURCE_EXHAUSTED, or the new one if the oldest is protected. If
        `serve` raises TimeoutError, the call ends with DEADLINE_EXCEEDED.
        """

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
                # The caller has disconnected. grpc cancels the call a moment later; an error raised until then would be
                # logged.
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                if task in self._sent_away and not task.uncancel():
                    self._refused()
                    return await _end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "others need the place")
                raise
            finally:
                self._under_way.pop(task, None)
                self._sent_away.discard(task)

        return freeing(bounded)

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
    """Ends the call with a status, within PATIENCE seconds: behind an answer that the peer does not receive, the status
    could wait for ever. After that, grpc still keeps the status."""
    try:
        async with asyncio.timeout(PATIENCE):
            await context.abort(code, text)
    except (TimeoutError, TransportError):
        pass
