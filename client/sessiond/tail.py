"""A subscription that outlives its streams: it opens the next one where the last one ended."""

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
"""Failures in a row, of kinds that may pass or may be here to stay, after which the last one is raised."""
_STEADY = 1.0
"""Seconds that a stream must last, once it has begun well, for its end to be of no weight."""


class Tail(Generic[Response]):
    """Frames in order, for one task; at most one is held, the rest waits in the transport.

    The first frame is a Snapshot or a Resumed; later Resumed, and GoingAway, are its own business.
    """

    def __init__(
        self,
        open_stream: Callable[[str], Stream[Response]],
        end_stream: Callable[[Stream[Response]], None],
        position: str,
        reconnect: Reconnect,
    ) -> None:
        self.position = position
        """After the last frame that was received: where the next stream begins."""
        self.streams = 0
        """How many have been opened."""
        self.last_error: SessiondError | None = None
        """Why the last stream ended that did; None where none has."""
        self._open_stream = open_stream
        self._end_stream = end_stream
        self._reconnect = reconnect
        self._stream: Stream[Response] | None = None
        self._begun = False
        self._closed = asyncio.Event()
        self._failures = 0
        """In a row: since there was something new. So for the next two."""
        self._suspect = 0
        self._waited = 0.0
        """Seconds without a stream, but for those since `_waiting_since`."""
        self._waiting_since: float | None = None
        """None while a stream is up."""
        self._begun_at: float | None = None
        """When the stream that is up began well: by a first frame that fits what came before."""

    async def next(self) -> Frame | None:
        """The next frame; None once `close` was called.

        Raises what no other stream would change: a SessiondError, or the last one once it has given up; and
        ClientClosed. After an error, or cancelled, it can be asked again and goes on where it was.
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
        """Ends it; a `next` that waits returns None. Idempotent."""
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
        if response is None:  # who has seen that the session was deleted asks for nothing more
            raise Unavailable("the stream ended", code="UNAVAILABLE")
        if self._waiting_since is not None:
            self._waited += _now() - self._waiting_since
            self._waiting_since = None
        return response

    def _frame(self, response: Response) -> Frame | None:
        """What the response brings, None where the caller need not know."""
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
            # The position was shown, so nothing but what follows it will do.
            raise PositionLost("the service began anew", reason="POSITION_LOST", code="DATA_LOSS")
        self._forgive()
        self._began_well()
        self.last_error = None
        return frame

    def _began_well(self) -> None:
        """There is a stream, where the watch was: what had to be waited for it does not count any more."""
        if self._begun_at is None:
            self._begun_at = _now()
        self._waited = 0.0

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _pause_after(self, error: SessiondError) -> float:
        """Seconds before the next stream. Raises the error where that makes no sense, or is no longer wanted."""
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
        """What is asked next begins a new count."""
        self._failures = self._suspect = 0
        self._waited = 0.0
        self._waiting_since = None


def _now() -> float:
    return asyncio.get_running_loop().time()
