"""A sequence of streams read as one: where a stream ends, the next one begins at its position."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

from sessiond.errors import ClientClosed, Draining, PositionLost, SessiondError, Unavailable
from sessiond.options import Reconnect
from sessiond.recovery import may_pass, passes
from sessiond.streams import Stream
from sessiond.v1.event_service_pb2 import (
    Bookmark,
    DeltaBatch,
    EventBatch,
    GoingAway,
    Resumed,
    Snapshot,
    WatchEventsResponse,
    WatchSessionResponse,
)

Response = TypeVar("Response", bound=WatchSessionResponse | WatchEventsResponse)
Frame = Snapshot | Resumed | EventBatch | Bookmark | DeltaBatch

_MOST_SUSPECT = 5
"""Failures in a row, of kinds that may be temporary or permanent, after which the last one is raised."""
_STEADY = 1.0
"""Seconds that a stream must last after it has begun well, so that its end does not count as a failure in a row."""


class Tail(Generic[Response]):
    """Reads frames in order, for one task. Holds at most one frame; the rest waits in the transport.

    The first frame is a Snapshot or a Resumed. Later Resumed frames and GoingAway are handled here and not returned.
    """

    def __init__(
        self,
        open_stream: Callable[[str], Stream[Response]],
        end_stream: Callable[[Stream[Response]], None],
        position: str,
        reconnect: Reconnect,
    ) -> None:
        self.position = position
        """The position after the last frame that was received. The next stream begins there."""
        self.streams = 0
        """How many streams have been opened."""
        self.last_error: SessiondError | None = None
        """Why the last stream ended; None while none has ended."""
        self._open_stream = open_stream
        self._end_stream = end_stream
        self._reconnect = reconnect
        self._stream: Stream[Response] | None = None
        self._begun = False
        self._closed = asyncio.Event()
        self._failures = 0
        """Failures since something new was received; the next two attributes count from the same moment."""
        self._suspect = 0
        self._waited = 0.0
        """Seconds without a stream before `_waiting_since`."""
        self._waiting_since: float | None = None
        """None while a stream is up."""
        self._begun_at: float | None = None
        """The time at which the current stream began well, with a first frame that continues the one before."""

    async def next(self) -> Frame | None:
        """Returns the next frame; None once `close` was called.

        Raises a SessiondError that another stream would meet again, the last error once `give_up_after` has passed, and
        ClientClosed. After an error or a cancellation it can be called again and goes on at the same position.
        """
        while not self._closed.is_set():
            try:
                frame = self._frame(await self._read())
            except SessiondError as error:
                self.close_stream()
                await self._pause(self._pause_after(error))
            except ClientClosed:
                self.close_stream()
                if not self._closed.is_set():
                    raise
            except BaseException:
                self.close_stream()
                raise
            else:
                if frame is not None:
                    return frame
        return None

    def close_stream(self) -> None:
        """Ends the stream; the next frame will come from another one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._end_stream(stream)

    def close(self) -> None:
        """Ends the tail. A `next` that waits returns None. Idempotent."""
        self._closed.set()
        self.close_stream()

    async def _read(self) -> Response:
        if self._stream is None:
            self._stream = self._open_stream(self.position)
            self._begun_at = None
            self.streams += 1
            if self._waiting_since is None:
                self._waiting_since = _now()
        patience = self._reconnect.idle_timeout
        if self._waiting_since is not None and self._reconnect.give_up_after is not None:
            left = self._reconnect.give_up_after - self._waited - (_now() - self._waiting_since)
            patience = min(patience, max(0.0, left))
        try:
            async with asyncio.timeout(patience):
                response = await self._stream.read()
        except TimeoutError:
            raise Unavailable(f"nothing came for {patience:g} s", code="UNAVAILABLE") from None
        if response is None:  # the reader does not ask again after it has seen the deletion
            raise Unavailable("the stream ended", code="UNAVAILABLE")
        if self._waiting_since is not None:
            self._waited += _now() - self._waiting_since
            self._waiting_since = None
        return response

    def _frame(self, response: Response) -> Frame | None:
        """Returns the response's frame; None for frames that are handled here."""
        which = response.WhichOneof("frame")
        if which is None:  # a kind of frame that this version does not know
            return None
        frame = cast("Frame | GoingAway", getattr(response, which))
        if not isinstance(frame, DeltaBatch):
            self.position = frame.position
        first, self._begun = not self._begun, True
        if isinstance(frame, GoingAway):
            raise Draining("the server is going away", reason="DRAINING", code="UNAVAILABLE")
        if isinstance(frame, Resumed):
            self._began_well()
            return frame if first else None
        if isinstance(frame, Snapshot) and not first:
            # The stream was opened with a position, so only what follows that position is right.
            raise PositionLost("the service began anew", reason="POSITION_LOST", code="DATA_LOSS")
        self._forgive()
        self._began_well()
        self.last_error = None
        return frame

    def _began_well(self) -> None:
        """A stream has begun at the tail's position: the time that was spent without a stream no longer counts."""
        if self._begun_at is None:
            self._begun_at = _now()
        self._waited = 0.0

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _pause_after(self, error: SessiondError) -> float:
        """Returns the seconds to wait before the next stream. Raises the error where the tail gives up."""
        now = _now()
        if self._begun_at is not None and now - self._begun_at >= _STEADY:
            self._forgive()
        if self._waiting_since is None:
            self._waiting_since = now
        self.last_error = error
        self._failures += 1
        if not passes(error):
            self._suspect += 1
            if not may_pass(error) or self._suspect >= _MOST_SUSPECT:
                self._forgive()
                raise error
        longest = self._reconnect.initial_backoff * 2.0 ** min(self._failures - 1, 30)
        pause = max(min(longest, self._reconnect.max_backoff) * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        give_up_after = self._reconnect.give_up_after
        if give_up_after is not None and self._waited + (now - self._waiting_since) + pause >= give_up_after:
            self._forgive()
            raise error
        return pause

    def _forgive(self) -> None:
        """Begins a new count of failures and waiting time."""
        self._failures = self._suspect = 0
        self._waited = 0.0
        self._waiting_since = None


def _now() -> float:
    return asyncio.get_running_loop().time()
