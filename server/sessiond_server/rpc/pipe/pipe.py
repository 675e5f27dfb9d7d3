"""One open pipe: begins the calls that its client sends, and sends their answers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import grpc
from grpc.aio import AbortError

from sessiond.v1.pipe_service_pb2 import OpenResponse, PipeCall, PipeGoingAway, PipeWindow
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyCalls, TransferStalled, Unauthenticated
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.intake import Intake
from sessiond_server.rpc.interceptors.beginning import Beginning
from sessiond_server.rpc.interceptors.reading import SMALL
from sessiond_server.rpc.methods import METHOD_NOT_FOUND, Turn
from sessiond_server.rpc.open_calls import Context
from sessiond_server.rpc.pipe import arriving
from sessiond_server.rpc.pipe.departing import Departing
from sessiond_server.rpc.pipe.limits import (
    BEGUN_AT_ONCE,
    FAREWELL,
    FRAME_BYTES,
    FRAME_ENTRIES,
    PIECE_BYTES,
    UNSENT_BYTES,
    PipeLimits,
)
from sessiond_server.rpc.pipe.piped_context import PipedContext
from sessiond_server.rpc.places import RETRY_AFTER

log = logging.getLogger("sessiond.rpc")

Unary = Mapping[str, tuple[Method, Handler]]
"""Path of each unary RPC -> the method, and what serves it: the same as serves its plain calls."""
MILLISECOND = 1 / 1000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all pipes of a server share."""

    unary: Unary
    limits: PipeLimits
    held: Shares
    """Budget for request bytes of calls in progress; plain calls take from it too."""
    intake: Intake
    """The pace at which calls are begun; that of plain calls."""
    beginning: Beginning
    """The turns of tenants, in which calls are begun; those of plain calls."""
    turn_of_unknown: Turn
    """Returns once a call of an unknown method may be refused."""
    longest_request: int
    """Longest request, in bytes, that the transport takes in a plain call."""
    write_timeout: float
    """Seconds that the transport may take to accept a frame."""


class Pipe:
    """Belongs to the task that calls `run`; its calls have tasks of their own, which end before it."""

    def __init__(self, around: Surroundings, call: Call, turn: asyncio.Lock) -> None:
        """`call`: that which opened the pipe. `turn`: held while the calls of a frame are begun, if there are several
        tenants. All pipes of a tenant have the same: if they begin one call each by turns, each answer takes a frame of
        its own, which costs as much as a plain call."""
        self._around = around
        self._call = call
        self._turn = turn
        self._has_turn = False
        self._limits = around.limits
        self._metadata = arriving.inherited(call.metadata)
        self._peer: str | None = None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        """Set when there may be something to send, or to end for."""
        self._room = asyncio.Event()
        """Set when another call may be begun."""
        self._under_way: dict[int, PipedContext] = {}
        """Calls without an answer that the transport has accepted, by number."""
        self._departing = Departing()
        self._request_bytes = 0
        self._newest = 0
        self._timer: asyncio.TimerHandle | None = None
        """Of the next look at whether the pipe is in use."""
        self._leaving: type[Unauthenticated] | None = None
        self._leaves = False
        self._said_goodbye = False
        self._active_at = self._loop.time()
        """When the last call came, or the client was told to leave."""

    @property
    def call(self) -> Call:
        """The call that opened the pipe."""
        return self._call

    def leave(self, error: type[Unauthenticated] | None = None) -> None:
        """Makes the client go elsewhere: `run` sends a PipeGoingAway, serves the calls that still come, and ends with
        the error, or with OK. Idempotent; returns at once."""
        if self._leaving is None:
            self._leaving = error
        self._leaves = True
        self._wake.set()

    async def run(self, messages: AsyncIterator[bytes]) -> None:
        """Serves the pipe until its client ends it, or it was told to leave. `messages`: the client's frames.

        Raises InvalidFields and MalformedRequest for a frame that breaks the rules, TransferStalled if the client does
        not read, and the error of `leave`. However it ends, its calls have ended then.
        """
        reading = self._loop.create_task(self._read(messages), name="pipe-reading")
        reading.add_done_callback(lambda _: self._wake.set())
        self._timer = self._loop.call_later(self._limits.idle, self._look)
        try:
            await self._write(OpenResponse(window=self._window()))
            while not self._ended(reading):
                if self._leaves and not self._said_goodbye:
                    await self._say_goodbye()
                elif self._departing:
                    await self._send()
                else:
                    self._wake.clear()
                    await self._wake.wait()
                    await asyncio.sleep(0)  # calls that end in the same turn share a frame
        finally:
            await self._close(reading)
            del reading  # its error has this frame in its traceback: a cycle that would keep the client's frame
        if self._leaving is not None:
            raise self._leaving

    def _look(self) -> None:
        """Makes the client leave once the pipe was idle for long, and then ends the pipe if it does not."""
        rest = self._active_at + self._limits.idle - self._loop.time()
        if rest <= 0 and not self._under_way:
            self.leave()
        self._wake.set()
        again = FAREWELL if self._said_goodbye else max(rest, self._limits.idle / 10)
        self._timer = self._loop.call_later(again, self._look)

    async def _say_goodbye(self) -> None:
        self._said_goodbye = True
        self._active_at = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(FAREWELL, self._look)
        await self._write(OpenResponse(going_away=PipeGoingAway()))

    def _window(self) -> PipeWindow:
        return PipeWindow(
            calls=self._limits.calls,
            request_bytes=self._limits.request_bytes,
            frame_bytes=FRAME_BYTES,
            frame_entries=FRAME_ENTRIES,
            piece_bytes=PIECE_BYTES,
        )

    def _ended(self, reading: "asyncio.Task[None]") -> bool:
        """Whether nothing is left to do. Raises what the client's frames were refused for."""
        ended = reading.done()
        if ended and not reading.cancelled() and reading.exception() is not None:
            try:
                reading.result()
            finally:
                del reading  # as in `run`
        if self._under_way:
            return False
        alone = self._said_goodbye and self._loop.time() - self._active_at >= FAREWELL
        return ended or alone

    async def _close(self, reading: "asyncio.Task[None]") -> None:
        """Ends the reader and all calls, and waits for them; what they hold is given back however this ends."""
        assert self._timer is not None
        self._timer.cancel()
        tasks = [reading, *(each.task for each in self._under_way.values() if each.task is not None)]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            if reading.done() and not reading.cancelled():
                reading.exception()  # without a look at it, asyncio would report an error that nothing waits for
            for context in self._under_way.values():
                self._forget(context)
            self._under_way.clear()
            self._departing = Departing()  # its answers lead back to the pipe

    # What the client sends.

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for data in messages:
            frame = arriving.frame(data)
            try:
                for count, each in enumerate(frame.calls, 1):
                    await self._take(each)
                    if count % BEGUN_AT_ONCE == 0:
                        await asyncio.sleep(0)
            finally:
                self._leave_turn()
            for piece in frame.pieces:
                if piece.number > self._newest:
                    raise arriving.invalid("pieces.number", "must be the number of an earlier call")
                known = self._under_way.get(piece.number)
                if known is not None and known.accepts and not known.receive(piece.data):
                    raise arriving.invalid("pieces.data", "must end with the last byte of `request_size`")
            for number in frame.cancels:
                known = self._under_way.get(number)
                if known is not None and known.task is not None:
                    self._cancel(known.task)

    async def _take(self, call: PipeCall) -> None:
        """Begins a call, once there is room for it."""
        around, size = self._around, arriving.size(call, self._newest)
        while len(self._under_way) >= self._limits.calls or self._departing.size > UNSENT_BYTES:
            self._leave_turn()
            self._room.clear()
            await self._room.wait()
        if around.intake.full():
            await around.intake.room()
        context = self._taken(call, size)
        served = around.unary.get(call.method)
        if served is None:
            # The pipe waits with it, so that such calls cost their sender only.
            self._leave_turn()
            await around.turn_of_unknown(context.peer)
            self._refuse(context, grpc.StatusCode.UNIMPLEMENTED, METHOD_NOT_FOUND)
        elif size > around.longest_request:
            text = f"Received message larger than max ({size} vs. {around.longest_request})"
            self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        else:
            if not (self._has_turn or around.beginning.alone()):
                await self._turn.acquire()
                self._has_turn = True
            context.begun = await around.beginning.begin(self._call.principal.tenant_id)
            self._begin(context, call, size, *served)

    def _leave_turn(self) -> None:
        """Lets another pipe of the tenant begin calls."""
        if self._has_turn:
            self._has_turn = False
            self._turn.release()

    def _taken(self, call: PipeCall, size: int) -> PipedContext:
        self._newest = call.number
        self._active_at = self._loop.time()
        metadata, error = arriving.metadata(call, self._metadata)
        timeout = call.timeout_ms * MILLISECOND if call.timeout_ms else None
        context = PipedContext(call.number, metadata, self._address, timeout, size)
        if error is not None:
            context.refuse(error)
        self._under_way[call.number] = context
        return context

    def _refuse(self, context: PipedContext, code: grpc.StatusCode, text: str) -> None:
        """Answers a call that no RPC sees."""
        context.end_with(code, text)
        self._answer(context)

    def _begin(self, context: PipedContext, call: PipeCall, size: int, method: Method, serve: Handler) -> None:
        if context.accepts:
            error = self._without_room(context, size)
            if error is not None:
                context.refuse(error)
            else:
                context.receive(call.request)
        context.task = task = self._loop.create_task(self._serve(context, method, serve))
        remaining = context.time_remaining()
        if remaining is not None:
            context.timer = self._loop.call_later(remaining, self._cancel, task)

    def _cancel(self, task: "asyncio.Task[None]") -> None:
        """Cancels a call, once its task has begun: one that has not would end without an answer."""
        self._loop.call_soon(task.cancel)

    def _without_room(self, context: PipedContext, size: int) -> TooManyCalls | None:
        """Counts the bytes of a request, or returns why there is no room for them."""
        if self._request_bytes + size > self._limits.request_bytes:
            return TooManyCalls(RETRY_AFTER, "request_bytes")
        if size > SMALL:
            tenant_id, held = self._call.principal.tenant_id, self._around.held
            if not held.take(tenant_id, size):
                return TooManyCalls(RETRY_AFTER, "request_bytes")
            context.held = partial(held.give, tenant_id, size)
        self._request_bytes += size
        context.counted = size
        return None

    def _address(self) -> str:
        if self._peer is None:
            self._peer = self._call.context.peer()
        return self._peer

    # What becomes of a call.

    async def _serve(self, context: PipedContext, method: Method, serve: Handler) -> None:
        call = Call(method, cast(Context, context), piped=True)
        try:
            context.response = await serve(None, call) or b""
        except AbortError:
            pass  # the context has the error
        except asyncio.CancelledError:
            self._cancelled(context)
        except Exception as error:
            log.error("unforeseen %s outside of the boundary of %s", type(error).__name__, method.path, exc_info=error)
            context.end_with(grpc.StatusCode.INTERNAL, "")
        call.forget_error()
        self._answer(context)

    def _cancelled(self, context: PipedContext) -> None:
        if context.time_remaining() == 0:
            context.end_with(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        else:
            context.end_with(grpc.StatusCode.CANCELLED, "Cancelled by the caller")

    def _answer(self, context: PipedContext) -> None:
        if context.timer is not None:
            context.timer.cancel()
        context.accepts = False
        context.release()
        self._uncount(context)  # once it has the answer, the client may send that much more
        self._end_turn(context)
        self._departing.add(context)
        self._wake.set()

    def _end_turn(self, context: PipedContext) -> None:
        begun, context.begun = context.begun, None
        if begun is not None:
            self._around.beginning.end(begun)

    # What the client gets.

    async def _send(self) -> None:
        frame, ended = self._departing.frame()
        await self._write(frame)
        for context in ended:
            del self._under_way[context.number]
            self._forget(context)
        self._room.set()

    def _uncount(self, context: PipedContext) -> None:
        self._request_bytes -= context.counted
        context.counted = 0

    def _forget(self, context: PipedContext) -> None:
        self._uncount(context)
        if context.timer is not None:
            context.timer.cancel()
        self._end_turn(context)
        context.finish()

    async def _write(self, frame: OpenResponse) -> None:
        data = frame.SerializeToString()
        self._call.response_bytes += len(data)
        timeout = self._around.write_timeout
        try:
            async with asyncio.timeout(timeout) as timer:
                await self._call.context.write(data)
        except TimeoutError:
            if timer.expired():
                raise TransferStalled(timeout) from None
            raise
