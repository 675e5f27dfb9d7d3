"""The pipes of one client: how many there are, and which of them takes which calls."""

import asyncio
from collections import OrderedDict
from typing import Any, Final, Literal

import grpc.aio

from sessiond.errors import ClientClosed
from sessiond.pipe import Pipe
from sessiond.pipe_frames import BrokenRules
from sessiond.piped_call import DEADLINE_TEXT, NotSent, PipedCall, failure
from sessiond.v1.pipe_service_pb2 import PipeAnswer

PipeUse = Literal["auto", "off", "on"]
"""When unary calls go through pipes."""

OPEN: Final = "/sessiond.v1.PipeService/Open"
MOST_PIPES: Final = 4
CALLS_EACH: Final = 16
"""Calls under way for each of which there is a pipe, up to MOST_PIPES."""
CONCURRENT: Final = 2
"""Calls under way from which on `auto` uses pipes."""
UNKNOWN_FOR: Final = 300.0
"""Seconds without an attempt to open a pipe after a server did not know pipes, or broke their rules."""
FIRST_BACKOFF: Final = 0.1
MOST_BACKOFF: Final = 5.0
"""Seconds without an attempt to open a pipe after one failed otherwise; each failure doubles them, until a pipe
ends in order."""


class Pipes:
    """Opens pipes on the channel of plain calls, so that they are spread over servers as plain calls are, and as many
    as the calls under way need. Calls that are ready at the same time share a frame; frames go to the pipes in turn."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Any, use: PipeUse, largest: int) -> None:
        """`largest`: most bytes of a request or an answer."""
        self.under_way = 0
        """Unary calls of the client that are under way, plain ones too."""
        self.answered = 0
        """Attempts that were answered through pipes, with a response or an error."""
        self._use = use
        self._largest = largest
        self._metadata = metadata
        self._stub: Any = channel.stream_stream(OPEN)
        self._loop = asyncio.get_running_loop()
        self._pipes: list[Pipe] = []
        """Those that take calls."""
        self._turn = 0
        self._filling: Pipe | None = None
        """The pipe that got the last call."""
        self._waiting: OrderedDict[PipedCall, None] = OrderedDict()
        """Calls for which no pipe has room. Each leaves at its deadline at the latest."""
        self._attempts: set[PipedCall] = set()
        self._pauses: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        """One for each pipe, until it has ended."""
        self._opening: asyncio.Future[None] | None = None
        """Done once the pipe that is being opened takes calls, or cannot be opened."""
        self._not_before = 0.0
        self._failures = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        """How many pipes take calls."""
        return len(self._pipes)

    def considers(self) -> bool:
        """Whether a call that begins now goes through a pipe if there is one."""
        return self._use == "on" or self.under_way >= CONCURRENT

    async def usable(self, size: int, ends: float, *, waits: bool) -> bool:
        """Whether there is a pipe for a request of that size. Begins to open one where there are too few; with `on`, or
        if it `waits`, it waits for the first one, until the call's deadline at the latest. After failures it does not
        wait."""
        if self._closed or size > self._largest:
            return False
        if self._opening is None and len(self._pipes) < self._wanted() and self._loop.time() >= self._not_before:
            self._begin()
        waits = (waits or self._use == "on") and not self._failures
        if waits and not self._pipes and self._opening is not None:
            await asyncio.wait([self._opening], timeout=max(0.0, ends - self._loop.time()))
        return any(pipe.allows(size) for pipe in self._pipes)

    async def answer(self, call: PipedCall) -> PipeAnswer:
        """The answer of one attempt. Raises the AioRpcError that ends it; NotSent if no pipe has taken it and none is
        left; ClientClosed. Cancelling cancels the call."""
        if self._closed:
            raise ClientClosed
        self._attempts.add(call)
        call.timer = self._loop.call_at(call.ends, self._expire, call)
        try:
            if self._waiting or not self._offer(call):
                self._waiting[call] = None
                self._flush()
            outcome = await call.answer
        except asyncio.CancelledError:
            self._give_up(call)
            raise
        finally:
            call.end(NotSent())
            self._attempts.discard(call)
        if isinstance(outcome, Exception):
            raise outcome
        self.answered += 1
        return outcome

    async def pause(self, seconds: float) -> None:
        """Waits before the next attempt. Raises ClientClosed."""
        over: asyncio.Future[None] = self._loop.create_future()
        self._pauses.add(over)
        try:
            if not self._closed:
                await asyncio.wait([over], timeout=seconds)
        finally:
            self._pauses.discard(over)
        if self._closed:
            raise ClientClosed

    async def close(self, grace: float | None) -> None:
        """Ends all pipes, and with ClientClosed the calls that have no answer after `grace` seconds (None: at once)."""
        if grace and self._attempts:
            await asyncio.wait([each.answer for each in self._attempts], timeout=grace)
        for call in list(self._attempts):
            call.end(ClientClosed())
        self.abandon()
        for over in self._pauses:
            if not over.done():
                over.set_result(None)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Makes all pipes end, without waiting for it."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    # What pipes report.

    def opened(self, pipe: Pipe) -> None:
        self._pipes.append(pipe)
        self._has_opened(self._opening)
        self._flush()

    def freed(self) -> None:
        if self._waiting:
            self._flush()

    def leaves(self, pipe: Pipe, unsent: list[PipedCall]) -> None:
        self._pipes.remove(pipe)
        if self._filling is pipe:
            self._filling = None
        for call in reversed(unsent):
            if not call.over:
                self._waiting[call] = None
                self._waiting.move_to_end(call, last=False)
        self._flush()

    def ended(self, why: Exception | None) -> None:
        """Decides when the next pipe may be opened."""
        if why is None:
            self._failures = 0
        elif isinstance(why, BrokenRules) or _is(why, grpc.StatusCode.UNIMPLEMENTED):
            self._not_before = self._loop.time() + UNKNOWN_FOR
        else:
            self._not_before = self._loop.time() + min(FIRST_BACKOFF * 2**self._failures, MOST_BACKOFF)
            self._failures = min(self._failures + 1, 16)

    async def _serve(self, opening: "asyncio.Future[None]") -> None:
        try:
            await Pipe(self._open, self, self._largest).run()
        finally:
            self._has_opened(opening)

    def _begin(self) -> None:
        self._opening = self._loop.create_future()
        task = self._loop.create_task(self._serve(self._opening), name="sessiond-pipe")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _open(self) -> Any:
        return self._stub(metadata=self._metadata)

    def _has_opened(self, opening: "asyncio.Future[None] | None") -> None:
        if opening is not None and not opening.done():
            opening.set_result(None)
        if self._opening is opening:
            self._opening = None

    # Which pipe a call goes to.

    def _wanted(self) -> int:
        return min(MOST_PIPES, 1 + (self.under_way - 1) // CALLS_EACH)

    def _offer(self, call: PipedCall) -> bool:
        """Puts a call into a frame; False: no pipe has room for it now."""
        now, filling = self._loop.time(), self._filling
        if filling is not None and filling.fills and filling.take(call, now):
            call.pipe = filling
            return True
        # Pipes beyond those that are wanted get nothing, and end by being idle.
        count = min(len(self._pipes), self._wanted())
        for each in range(self._turn, self._turn + count):
            pipe = self._pipes[each % count]
            if pipe.take(call, now):
                call.pipe = self._filling = pipe
                self._turn = (each + 1) % count
                return True
        return False

    def _flush(self) -> None:
        """Puts calls that wait into frames, oldest first."""
        while self._waiting:
            call = next(iter(self._waiting))
            if not self._pipes:
                call.end(NotSent())
            elif not self._offer(call):
                return
            del self._waiting[call]

    def _expire(self, call: PipedCall) -> None:
        if not call.over:
            call.end(failure(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_TEXT))
            self._give_up(call)

    def _give_up(self, call: PipedCall) -> None:
        self._waiting.pop(call, None)
        if call.pipe is not None:
            call.pipe.give_up(call)


def _is(error: Exception, code: grpc.StatusCode) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is code
