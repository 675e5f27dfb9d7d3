"""What interceptors and handlers see of a call that came through a pipe, in place of grpc's context."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import grpc
from grpc.aio import AbortError

from sessiond_server.errors import SessiondError
from sessiond_server.rpc.interceptors.beginning import Begun
from sessiond_server.rpc.status import DETAILS_KEY, Metadata

Pair = tuple[str, str | bytes]


class PipedContext:
    """Has the methods of grpc's ServicerContext that a unary call uses.

    The request may still arrive in pieces while the call waits for its place, as a plain call's request does.
    """

    __slots__ = (
        "_arrived", "_callbacks", "_deadline", "_loop", "_metadata", "_peer", "_received", "_refusal", "_size",
        "_trailers", "accepts", "begun", "code", "counted", "held", "number", "response", "task", "text", "timer",
    )  # fmt: skip

    def __init__(
        self, number: int, metadata: Iterable[Pair], peer: Callable[[], str], timeout: float | None, size: int
    ) -> None:
        """`timeout`: seconds; None: the call has no deadline of its own. `size`: bytes of the whole request."""
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        """Ends the call at its deadline."""
        self.code: grpc.StatusCode | None = None
        """The error that ends the call; None: `response` is its answer."""
        self.text = ""
        self.response = b""
        self.begun: Begun | None = None
        self.accepts = True
        """Whether pieces of the request are kept."""
        self.counted = 0
        """Bytes of the request in the pipe's window."""
        self.held: Callable[[], None] | None = None
        """Gives the bytes of an arriving request back to the budget of all calls."""
        self._loop = asyncio.get_running_loop()
        self._metadata = metadata
        self._peer = peer
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._size = size
        self._received: bytes | bytearray = b""
        self._arrived: asyncio.Future[None] | None = None
        self._refusal: SessiondError | None = None
        self._trailers: Metadata = ()
        self._callbacks: list[Callable[[Any], object]] = []

    # What the pipe does.

    def receive(self, data: bytes) -> bool:
        """Takes the next bytes of the request; returns whether they are within its size."""
        received = len(self._received) + len(data)
        if received > self._size:
            return False
        if not self._received:
            self._received = data
        else:
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            self._received += data
        if received == self._size and self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        return True

    def refuse(self, error: SessiondError) -> None:
        """Makes `read` raise the error, so that the call is answered, logged and counted like any other."""
        self._refusal = error
        self.accepts = False

    @property
    def details(self) -> bytes:
        """The serialised google.rpc.Status of the error; empty if it has none."""
        for key, value in self._trailers:
            if key == DETAILS_KEY:
                assert isinstance(value, bytes)
                return value
        return b""

    @property
    def texts(self) -> Iterable[tuple[str, str]]:
        """The trailing metadata without the details."""
        return ((key, value) for key, value in self._trailers if isinstance(value, str))

    def end_with(self, code: grpc.StatusCode, text: str) -> None:
        """The call has ended with this error, without details."""
        self.code, self.text, self.response = code, text, b""

    def finish(self) -> None:
        """The answer has been handed to the transport, or the pipe has ended: nothing of the call is kept."""
        self.release()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def release(self) -> None:
        """Gives the bytes of the arriving request back to the budget of all calls, if it has some. Idempotent."""
        give, self.held = self.held, None
        if give is not None:
            give()

    # What grpc's context has.

    def invocation_metadata(self) -> Iterable[Pair]:
        return self._metadata

    def peer(self) -> str:
        return self._peer()

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def set_trailing_metadata(self, trailers: Metadata) -> None:
        self._trailers = trailers

    def trailing_metadata(self) -> Metadata:
        return self._trailers

    async def send_initial_metadata(self, metadata: object) -> None:
        """Does nothing: unary calls of the service have none."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        self._callbacks.append(callback)

    async def read(self) -> bytes:
        """The whole request, once it has arrived. Its reader counts its bytes from then on."""
        if self._refusal is not None:
            raise self._refusal
        if len(self._received) < self._size:
            self._arrived = self._loop.create_future()
            await self._arrived
        self.release()
        request, self._received = self._received, b""
        self._size = 0
        return bytes(request)

    async def abort(self, code: grpc.StatusCode, text: str = "", trailers: Metadata = ()) -> NoReturn:
        self.end_with(code, text)
        self._trailers = trailers
        raise AbortError
