"""Streaming calls and the channels that carry them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakSet

import grpc.aio

from sessiond.errors import ClientClosed, Unavailable
from sessiond.forks import forked
from sessiond.status import typed_error
from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceStub
from sessiond.v1.event_service_pb2_grpc import EventServiceStub

if TYPE_CHECKING:
    from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceAsyncStub
    from sessiond.v1.event_service_pb2_grpc import EventServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")

MOST_STREAMS = 100
"""Streams on one channel. Servers and proxies allow 100 to 200 calls on a connection; a further call would wait without
an error until another call ends, and streams do not end."""


class Stream(Generic[Response]):
    """One streamed answer. For one task; holds no more than what it is asked for, the rest waits in the transport.

    Dropping it without `cancel` cancels the call too, when it is collected.
    """

    def __init__(self, call: "grpc.aio.UnaryStreamCall[Any, Response]") -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        # grpc itself keeps the call alive. The collector may run in any thread, and after the loop has ended.
        with suppress(RuntimeError):
            if not forked() and not self._call.done():
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def read(self) -> Response | None:
        """The next message; None where the stream ended with OK.

        Raises what `errors` says; ClientClosed when the client is closed meanwhile. Cancelling ends the stream.
        """
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise typed_error(error) from error
        except asyncio.CancelledError:
            _unless_cancelled(ClientClosed())
            raise
        return None if message is grpc.aio.EOF else cast("Response", message)

    def cancel(self) -> None:
        """Ends it. Idempotent."""
        self._call.cancel()


class Sending(Generic[Request, Response]):
    """One streamed request. For one task; holds no more than the message that is on its way."""

    def __init__(self, call: "grpc.aio.StreamUnaryCall[Request, Response]") -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._broken = False
        """A message was on its way when the call ended. grpc.aio then forgets how it ended, and says INTERNAL."""

    def __del__(self) -> None:
        with suppress(RuntimeError):
            if not forked() and not self._call.done():
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def write(self, message: Request) -> bool:
        """Returns once the transport has taken it; False where the service takes no more: `answer` tells why.

        Cancelling ends the call.
        """
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError:
            self._broken = True
            return False
        except asyncio.InvalidStateError:
            return False
        except asyncio.CancelledError:
            _unless_cancelled(ClientClosed())
            raise
        return True

    async def begun(self) -> Mapping[str, str | bytes]:
        """What the service says before it takes more; empty where it has ended the call.

        Cancelling ends the call.
        """
        try:
            return dict(await self._call.initial_metadata())
        except asyncio.CancelledError:
            self._call.cancel()
            _unless_cancelled(ClientClosed())
            raise

    async def answer(self) -> Response:
        """Says that this was all, and waits for the answer.

        Raises what `errors` says; ClientClosed when the client is closed meanwhile. Cancelling ends the call.
        """
        try:
            # What it failed with is what the call ends with.
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await self._call.done_writing()
            return await self._call
        except grpc.aio.AioRpcError as error:
            if self._broken and error.code() is grpc.StatusCode.INTERNAL:
                raise Unavailable("the call broke while something was on its way", code="UNAVAILABLE") from error
            raise typed_error(error) from error
        except asyncio.CancelledError:
            _unless_cancelled(ClientClosed())
            raise

    def cancel(self) -> None:
        """Ends it. Idempotent."""
        self._call.cancel()


def _unless_cancelled(error: Exception) -> None:
    """Raises the error, unless the running task is being cancelled: a channel that closes cancels its calls, which
    grpc.aio shows as if the waiting task were cancelled."""
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        raise error from None


class Stubs:
    """The services that have calls which stream, on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.events = cast("EventServiceAsyncStub", EventServiceStub(channel))
        self.attachments = cast("AttachmentServiceAsyncStub", AttachmentServiceStub(channel))


Streaming = Stream[Any] | Sending[Any, Any]
Started = TypeVar("Started", bound=Streaming)

_Place = tuple[grpc.aio.Channel, Stubs, WeakSet[Streaming]]
"""A channel, its stubs, and its streams: those that were dropped without an end leave by themselves."""


class StreamChannels:
    """Channels for streams, apart from that of other calls, and as many as the streams need."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._channels: list[_Place] = []

    def open(self, start: Callable[[Stubs], Started]) -> Started:
        """The stream that `start` makes of stubs."""
        free = (place for place in self._channels if len(place[2]) < MOST_STREAMS)
        _, stubs, streams = next(free, None) or self._add()
        stream = start(stubs)
        streams.add(stream)
        return stream

    def _add(self) -> _Place:
        channel = self._connect()
        place = (channel, Stubs(channel), WeakSet[Streaming]())
        self._channels.append(place)
        return place

    def end(self, stream: Streaming) -> None:
        """Cancels the stream; its place is free."""
        stream.cancel()
        for _, _, streams in self._channels:
            streams.discard(stream)

    async def close(self, grace: float | None) -> None:
        """Ends all streams: none ends by itself, so `grace` is only for the connections."""
        for _, _, streams in self._channels:
            for stream in list(streams):
                stream.cancel()
        await asyncio.gather(*(channel.close(grace) for channel, _, _ in self._channels))
