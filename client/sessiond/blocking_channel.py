"""A synchronous grpc.Channel as the client uses channels: what blocks runs in a thread for each call."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import grpc.aio

from sessiond.loop_thread import settle

Value = TypeVar("Value")


class BlockingChannel:
    """Stands in for a grpc.aio.Channel, with just the kinds of calls that the client makes. `wait_for_ready` is not
    passed on, because the channels of grpcio-testing do not take it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._waiting: set[asyncio.Future[Any]] = set()
        """One for each thread that blocks."""

    def unary_unary(self, method: str, *coders: Any, **named: Any) -> Callable[..., Awaitable[Any]]:
        call = self._channel.unary_unary(method, *coders, **_public(named))

        async def unary(
            request: object,
            *,
            timeout: float | None,  # noqa: ASYNC109 - the deadline goes with the call
            metadata: Any,
            wait_for_ready: bool | None,
        ) -> Any:
            future = cast("Any", call).future(request, timeout=timeout, metadata=metadata)
            try:
                return await self.threaded(lambda: _result(future))
            except asyncio.CancelledError:
                future.cancel()
                raise

        return unary

    def unary_stream(self, method: str, *coders: Any, **named: Any) -> "Callable[..., _Receiving]":
        call = self._channel.unary_stream(method, *coders, **_public(named))

        def receive(request: object, *, metadata: Any, wait_for_ready: bool | None) -> _Receiving:
            return _Receiving(self, cast("Any", call)(request, metadata=metadata))

        return receive

    def stream_unary(self, method: str, *coders: Any, **named: Any) -> "Callable[..., _Sending]":
        call = self._channel.stream_unary(method, *coders, **_public(named))

        def send(*, metadata: Any, wait_for_ready: bool | None) -> _Sending:
            requests = _Requests()
            return _Sending(self, cast("Any", call).future(requests, metadata=metadata), requests)

        return send

    def threaded(self, function: Callable[[], Value]) -> "asyncio.Future[Value]":
        """Runs a blocking function in a thread. Cancelling the future does not end the thread."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Value] = loop.create_future()
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)

        def run() -> None:
            try:
                outcome: tuple[Value | None, Exception | None] = function(), None
            except grpc.RpcError as error:
                outcome = None, _as_aio(error)
            except Exception as error:
                outcome = None, error
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, waiting, *outcome)

        threading.Thread(target=run, name="sessiond-channel", daemon=True).start()
        return waiting

    async def close(self, grace: float | None) -> None:
        if grace and self._waiting:
            await asyncio.wait(self._waiting, timeout=grace)
        for waiting in list(self._waiting):
            waiting.cancel()
        self._channel.close()


class _Receiving:
    """A call with a streamed answer."""

    def __init__(self, channel: BlockingChannel, call: Any) -> None:
        self._channel = channel
        self._call = call
        self._read: asyncio.Future[Any] | None = None
        self._done = False

    async def read(self) -> Any:
        self._read = self._channel.threaded(lambda: next(self._call, grpc.aio.EOF))
        try:
            message = await self._read
        except BaseException:
            self.cancel()
            raise
        self._done = message is grpc.aio.EOF
        return message

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        self._done = True
        self._call.cancel()
        if self._read is not None:
            self._read.cancel()


class _Requests(Iterator[Any]):
    """The messages of a streamed request, as grpc takes them in a thread of its own."""

    def __init__(self) -> None:
        self.messages: SimpleQueue[tuple[Any, Callable[[], object]] | None] = SimpleQueue()
        """Each with what to do when it is taken; None at the end."""

    def __next__(self) -> Any:
        taken = self.messages.get()
        if taken is None:
            raise StopIteration
        taken[1]()
        return taken[0]


class _Sending:
    """A call with a streamed request."""

    def __init__(self, channel: BlockingChannel, call: Any, requests: _Requests) -> None:
        self._channel = channel
        self._call = call
        self._requests = requests
        self._answer = channel.threaded(lambda: _result(call))
        self._answer.add_done_callback(self._ended)

    async def write(self, message: object) -> None:
        """Returns once grpc has taken the message. Raises InvalidStateError when the call has ended."""
        loop = asyncio.get_running_loop()
        taken = asyncio.Event()
        self._requests.messages.put((message, lambda: loop.call_soon_threadsafe(taken.set)))
        taking = asyncio.ensure_future(taken.wait())
        try:
            await asyncio.wait([taking, self._answer], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            taking.cancel()
        if self._answer.done():
            raise asyncio.InvalidStateError

    async def done_writing(self) -> None:
        self._requests.messages.put(None)

    async def initial_metadata(self) -> Any:
        return await self._channel.threaded(self._call.initial_metadata)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._answer.__await__())
        except asyncio.CancelledError:
            self.cancel()
            raise

    def done(self) -> bool:
        return self._answer.done()

    def cancel(self) -> None:
        self._call.cancel()
        self._answer.cancel()

    def _ended(self, answer: "asyncio.Future[Any]") -> None:
        self._requests.messages.put(None)
        if not answer.cancelled():
            answer.exception()  # whoever awaits the call gets it; without one it is no error that was lost


def _result(call: Any) -> Any:
    # Its `result` would hold a lock for which `cancel` waits, in the channels of grpcio-testing; `code` does not.
    call.code()
    return call.result()


def _public(named: dict[str, Any]) -> dict[str, Any]:
    """Without what generated stubs pass for grpc's own channels only."""
    return {name: value for name, value in named.items() if not name.startswith("_")}


def _as_aio(error: Any) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*(tuple(pair) for pair in error.trailing_metadata() or ()))
    return grpc.aio.AioRpcError(error.code(), grpc.aio.Metadata(), trailing, error.details())


def async_channel(channel: grpc.Channel | None) -> grpc.aio.Channel | None:
    """The channel as the asynchronous client takes it."""
    return None if channel is None else cast("grpc.aio.Channel", BlockingChannel(channel))
