"""The base of watches and feeds: yields items in order and keeps a position that is never ahead of its reader."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sessiond.errors import PositionGone, SessiondError
from sessiond.positions import Saver
from sessiond.tail import Frame, Tail
from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import Delta, DeltaBatch, EventBatch

Item = TypeVar("Item", bound=Event | Delta)
Shown = TypeVar("Shown")


class Subscription(ABC, Generic[Item, Shown]):
    """An async iterator of items, and with `frames` of frames; an async context manager. For one task.

    It reconnects by itself, without losing or repeating an event, after lost and half-open connections, when servers
    stop or restart, and when its reader was too slow. It raises errors that another stream would meet again, above all
    PositionLost, PositionCompacted, InvalidPosition and SessionNotFound.

    It holds at most one frame: while the caller is busy, the rest waits in the transport and then in the service.
    Cancelling the wait for an item loses nothing. Close it with `aclose`, or use it as a context manager. When it is
    garbage-collected instead, its call is cancelled and its position is not saved.
    """

    def __init__(self, position: str, saver: Saver | None) -> None:
        self._dealt_with = position
        self._saver = saver
        self._tail: Tail[Any] | None = None
        self._items: Sequence[Item] = ()
        self._next = 0
        self._after = ""
        """The position of the frame that `_items` come from, until they are processed."""
        self._events = 0
        """The number of events in that frame."""
        self._first: Frame | None = None
        """The first frame, when `__aenter__` has received it and the reader has not asked for it yet."""
        self._received_unasked: Frame | None = None
        """A frame that arrived while its reader was being cancelled."""
        self._caught_up = False
        self._ended = False
        """No event follows those that were received."""
        self._closed = False
        self._lost: PositionGone | None = None
        self._reading = False

    @abstractmethod
    def _open_tail(self, position: str) -> Tail[Any]: ...

    @abstractmethod
    def _take(self, frame: Frame) -> Frame | None:
        """Checks a frame, records its progress and returns it without repeated events; None where nothing remains.

        Raises PositionLost.
        """

    @abstractmethod
    def _items_of(self, frame: Frame) -> Sequence[Item]: ...

    @abstractmethod
    def _shown(self, frame: Frame) -> Shown | None:
        """Returns the frame as `frames` yields it; None for frames that it does not yield."""

    @property
    def position(self) -> str:
        """The position after all processed items. Another watch, in any process and at any later time, can begin there.

        An item counts as processed once the next one is asked for, or `ack` is called. Events come in frames, and there
        are positions between frames only: within a frame, this is the position before it. A reader that stores it and
        crashes misses no event, and may receive some a second time. Empty before the first frame.
        """
        return self._dealt_with

    @property
    def caught_up(self) -> bool:
        """Whether the last event received was the newest one, as far as the service knew."""
        return self._caught_up

    @property
    def streams(self) -> int:
        """The number of streams that were opened: 1 while the first one lasts."""
        return self._tail.streams if self._tail else 0

    @property
    def last_error(self) -> SessiondError | None:
        """Why there is no stream now, or why the last one ended if nothing new was received since; else None."""
        return self._tail.last_error if self._tail else None

    def ack(self) -> None:
        """Marks the last item, or the last frame, as processed before the next one is asked for."""
        if self._after and self._next == len(self._items):
            self._dealt_with, self._after = self._after, ""
            if self._saver is not None:
                self._saver.reached(self._dealt_with, self._events)

    def frames(self) -> AsyncIterator[Shown]:
        """Yields whole frames instead of items, so that a batch and its position can be stored in one transaction."""
        return _Frames(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if (held := self.held()) is not None:
            return held
        with self._one_reader():
            self.ack()
            while self._next == len(self._items) or self._closed:
                frame = await self._frame()
                if frame is None:
                    raise StopAsyncIteration
                self._hold(frame, self._items_of(frame))
                self.ack()  # a frame without items needs no processing
            self._next += 1
            return self._items[self._next - 1]

    def held(self) -> Item | None:
        """Returns the next item if it has been received already and no other task waits; else None."""
        if self._next == len(self._items) or self._closed or self._reading:
            return None
        self._next += 1
        return self._items[self._next - 1]

    async def _next_shown(self) -> Shown:
        with self._one_reader():
            if self._next != len(self._items):
                raise RuntimeError("a watch is read by item or by frame: there are items left")
            self.ack()
            while True:
                frame = await self._frame()
                if frame is None:
                    raise StopAsyncIteration
                self._hold(frame, ())
                if (shown := self._shown(frame)) is not None:
                    return shown
                self.ack()

    async def __aenter__(self) -> Self:
        """Returns once the first frame has arrived. Every event after that is received."""
        with self._one_reader():
            if self._tail is None:
                self._first = await self._frame()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels the call, saves the position where there is a store, and ends the iteration, also one that waits in
        another task. Idempotent."""
        self._closed = True
        self._first = self._received_unasked = None
        if self._tail is not None:
            self._tail.close()
        if self._saver is not None:
            await self._saver.save()

    def _hold(self, frame: Frame, items: Sequence[Item]) -> None:
        self._items, self._next = items, 0
        self._events = len(frame.events) if isinstance(frame, EventBatch) else 0
        if not isinstance(frame, DeltaBatch):
            self._after = frame.position

    async def _frame(self) -> Frame | None:
        """Returns the next frame, checked; None at the end."""
        if self._lost is not None:
            raise self._lost
        if (first := self._first) is not None:
            self._first = None
            return first
        while not (self._ended or self._closed):
            if self._tail is None:
                if self._saver is not None and (saved := await self._saver.load()):
                    self._dealt_with = saved
                self._tail = self._open_tail(self._dealt_with)
            try:
                received = await self._receive(self._tail)
                if received is not None and (frame := self._take(received)) is not None:
                    return frame
            except PositionGone as error:
                # The next frame would not follow the last one, so the watch yields nothing more.
                self._lost = error
                self._tail.close()
                raise
        await self.aclose()
        return None

    async def _receive(self, tail: Tail[Any]) -> Frame | None:
        """Receives a frame from the tail, and saves the position when it is due."""
        if (unasked := self._received_unasked) is not None:
            self._received_unasked = None
            return unasked
        if self._saver is None or (due_in := self._saver.due_in()) is None:
            return await tail.next()
        if due_in == 0:
            await self._saver.save()
            return await tail.next()
        receiving = asyncio.ensure_future(tail.next())
        try:
            await asyncio.wait([receiving], timeout=due_in)
            if not receiving.done():
                await self._saver.save()
            return await receiving
        except BaseException:
            receiving.cancel()
            await asyncio.wait([receiving])
            if not receiving.cancelled() and receiving.exception() is None:
                self._received_unasked = receiving.result()
            raise

    @contextmanager
    def _one_reader(self) -> Iterator[None]:
        if self._reading:
            raise RuntimeError("a watch is for one task: another one waits for it already")
        self._reading = True
        try:
            yield
        finally:
            self._reading = False


class _Frames(Generic[Shown]):
    def __init__(self, subscription: Subscription[Item, Shown]) -> None:
        self._subscription = subscription

    def __aiter__(self) -> "_Frames[Shown]":
        return self

    async def __anext__(self) -> Shown:
        return await self._subscription._next_shown()
