"""One open pipe: sends frames of calls, and reads the answers."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import grpc.aio
from google.protobuf.message import DecodeError

from sessiond.pipe_frames import BrokenRules, Incoming, Outgoing
from sessiond.piped_call import PipedCall, failure
from sessiond.v1.pipe_service_pb2 import OpenResponse

OPENING: Final = 5.0
"""Seconds in which a server must send its window."""
PATIENCE: Final = 10.0
"""Seconds in which a server must answer a call that was given up, or end a pipe that it was asked to end; then the pipe
counts as broken."""


class Owner(Protocol):
    """What a pipe reports to."""

    def opened(self, pipe: "Pipe") -> None:
        """It takes calls from now on."""

    def freed(self) -> None:
        """It may have room for more calls."""

    def leaves(self, pipe: "Pipe", unsent: list[PipedCall]) -> None:
        """It takes no more calls; these have not been sent. Called once for each pipe that was opened."""

    def ended(self, why: Exception | None) -> None:
        """It has ended, in order or not, or could not be opened. Called before its calls end."""


class Pipe:
    """Belongs to the task that calls `run`. Its calls end before it."""

    def __init__(self, start: Callable[[], Any], owner: Owner, largest: int) -> None:
        """`start` begins the stream. `largest`: most bytes of an answer."""
        self._start = start
        self._owner = owner
        self._largest = largest
        self._stream: Any = None
        self._out: Outgoing | None = None
        self._wake = asyncio.Event()
        """Set when there may be something to send, or the pipe is to end."""
        self._writing = False
        self._left = False
        self._broken: grpc.aio.AioRpcError | None = None
        """Why it has ended itself."""
        self._ending: asyncio.TimerHandle | None = None

    @property
    def fills(self) -> bool:
        """Whether its next frame has calls and has not been sent."""
        return self._out is not None and self._out.fills

    def allows(self, size: int) -> bool:
        """Whether a request of that size can ever be sent."""
        return self._out is not None and self._out.allows(size)

    def take(self, call: PipedCall, now: float) -> bool:
        """Puts a call into the next frame; False: there is no room for it."""
        if self._out is None or self._writing or self._left or not self._out.take(call, now):
            return False
        self._wake.set()
        return True

    def give_up(self, call: PipedCall) -> None:
        """Cancels a call that this pipe has taken; it keeps its place in the window until the server answers it."""
        assert self._out is not None
        if self._out.under_way.get(call.number) is call:
            self._out.cancel(call)
            self._wake.set()
            call.patience = asyncio.get_running_loop().call_later(PATIENCE, self._lose_patience)

    async def run(self) -> None:
        """Opens the pipe, and serves it until it ends. Cancelling ends it. However it ends, its calls have ended
        then."""
        ended: grpc.aio.AioRpcError | BrokenRules | None = None
        writing: asyncio.Task[None] | None = None
        try:
            stream = self._stream = self._start()
            async with asyncio.timeout(OPENING):
                first = await stream.read()
            self._out = out = Outgoing(_parsed(first).window)
            writing = asyncio.create_task(self._write(out), name="sessiond-pipe-writing")
            self._owner.opened(self)
            await self._read(first, Incoming(out, self._largest))
            if out.under_way:
                ended = failure(grpc.StatusCode.UNAVAILABLE, "the server ended it")
        except grpc.aio.AioRpcError as error:
            ended = self._broken or error
        except BrokenRules as error:
            ended = error
        except TimeoutError:
            ended = failure(grpc.StatusCode.UNAVAILABLE, "the pipe was not opened in time")
        except asyncio.CancelledError:
            # A stream that is cancelled by `_lose_patience` raises this too.
            if self._broken is None:
                raise
            ended = self._broken
        except Exception as error:
            ended = failure(grpc.StatusCode.UNAVAILABLE, type(error).__name__)
            raise
        finally:
            await self._end(writing, ended)

    async def _read(self, first: Any, incoming: Incoming) -> None:
        data = first
        while data is not grpc.aio.EOF:
            frame = _parsed(data)
            incoming.take(frame)
            if frame.HasField("going_away"):
                self.leave()
            if self._left:
                self._wake.set()
            else:
                self._owner.freed()
            data = await self._stream.read()

    async def _write(self, out: Outgoing) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while out:
                    self._writing = True
                    await self._stream.write(out.frame())
                    self._writing = False
                    if not self._left:
                        self._owner.freed()
                if self._left and not out.under_way and self._ending is None:
                    self._ending = loop.call_later(PATIENCE, self._lose_patience)
                    await self._stream.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass  # the stream has ended: the reader learns why

    def leave(self) -> None:
        """Takes no more calls, and ends once those that were sent have been answered; the others go elsewhere.
        Idempotent."""
        if not self._left and self._out is not None:
            self._left = True
            self._wake.set()
            self._owner.leaves(self, self._out.unsent())

    def _lose_patience(self) -> None:
        self._broken = failure(grpc.StatusCode.UNAVAILABLE, "the server does not answer")
        self._stream.cancel()

    async def _end(self, writing: "asyncio.Task[None] | None", ended: Exception | None) -> None:
        if self._stream is not None:
            self._stream.cancel()
        if self._ending is not None:
            self._ending.cancel()
        self._owner.ended(ended)
        self.leave()
        if self._out is not None:
            why = ended.details() if isinstance(ended, grpc.aio.AioRpcError) else str(ended or "the client ended it")
            for number, call in list(self._out.under_way.items()):
                self._out.answered(number)
                call.end(failure(grpc.StatusCode.UNAVAILABLE, f"the pipe ended before the answer came: {why}"))
        if writing is not None:
            writing.cancel()
            await asyncio.wait({writing})


def _parsed(data: Any) -> OpenResponse:
    if data is grpc.aio.EOF:
        raise BrokenRules("the pipe ended before its window came")
    try:
        return OpenResponse.FromString(cast("bytes", data))
    except DecodeError:
        raise BrokenRules("a frame cannot be parsed") from None
