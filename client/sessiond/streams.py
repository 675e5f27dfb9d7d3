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
from sessiond.v1.export_service_pb2_grpc import ExportServiceStub

if TYPE_CHECKING:
    from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceAsyncStub
    from sessiond.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from sessiond.v1.export_service_pb2_grpc import ExportServiceAsyncStub

Request = TypeVar("Request")
Response = TypeVar("Response")

MOST_STREAMS = 100
"""Streams on one channel. Servers and proxies allow 100 to 200 calls on a connection; a further call would wait without
an error until another call ends, and streams do not end."""


class Stream(Generic[Response]):
    """One streamed answer. For one task. It holds at most one message; the rest waits in the transport.

    A stream that is dropped without `cancel` cancels its call when it is garbage-collected.
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
        """Returns the next message; None when the stream ended with OK.

        Raises the errors of `sessiond.errors`; ClientClosed when the client is closed meanwhile. Cancelling ends the
        stream.
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
    """One streamed request. For one task. It holds at most the message in flight."""

    def __init__(self, call: "grpc.aio.StreamUnaryCall[Request, Response]") -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._broken = False
        """Whether a message was in flight when the call ended. grpc.aio then loses the status and reports INTERNAL."""

    def __del__(self) -> None:
        with suppress(RuntimeError):
            if not forked() and not self._call.done():
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def write(self, message: Request) -> bool:
        """Returns once the transport has accepted the message; False if the call has ended: `answer` raises the reason.

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
        """Returns the initial metadata of the service; empty if it has ended the call.

        Cancelling ends the call.
        """
        try:
            return dict(await self._call.initial_metadata())
        except asyncio.CancelledError:
            self._call.cancel()
            _unless_cancelled(ClientClosed())
            raise

    async def answer(self) -> Response:
        """Ends the request stream and waits for the answer.

        Raises the errors of `sessiond.errors`; ClientClosed when the client is closed meanwhile. Cancelling ends the
        call.
        """
        try:
            # An error here is also the status of the call, which is raised below.
            try:
                await self._call.done_writing()
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                pass
            except grpc.aio.InternalError:  # the connection broke at this moment; grpc.aio lets it through as it is
                self._broken = True
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
    """The stubs of the services with streaming calls, on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.events = cast("EventServiceAsyncStub", EventServiceStub(channel))
        self.attachments = cast("AttachmentServiceAsyncStub", AttachmentServiceStub(channel))
        self.exports = cast("ExportServiceAsyncStub", ExportServiceStub(channel))


Streaming = Stream[Any] | Sending[Any, Any]
Started = TypeVar("Started", bound=Streaming)

_Place = tuple[grpc.aio.Channel, Stubs, WeakSet[Streaming]]
"""A channel, its stubs, and its streams. Streams that are garbage-collected leave the set by themselves."""


class StreamChannels:
    """Channels for streams, separate from the channel of unary calls, and as many as the streams need."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._channels: list[_Place] = []

    def open(self, start: Callable[[Stubs], Started]) -> Started:
        """Returns the stream that `start` makes on a channel with room for it."""
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
        """Cancels the stream and frees its place on the channel."""
        stream.cancel()
        for _, _, streams in self._channels:
            streams.discard(stream)

    async def close(self, grace: float | None) -> None:
        """Cancels all streams at once, because none ends by itself. `grace` applies to the connections only."""
        for _, _, streams in self._channels:
            for stream in list(streams):
                stream.cancel()
        await asyncio.gather(*(channel.close(grace) for channel, _, _ in self._channels))
