"""Answers that are streams: one of them, and the channels that carry them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from weakref import WeakSet

import grpc.aio

from sessiond.errors import ClientClosed
from sessiond.status import typed_error
from sessiond.v1.event_service_pb2_grpc import EventServiceStub

if TYPE_CHECKING:
    from sessiond.v1.event_service_pb2_grpc import EventServiceAsyncStub

Response = TypeVar("Response")

MOST_STREAMS = 100
"""On one channel. Servers and proxies allow 100 to 200 calls on a connection; one more would wait, in silence, until
another ends, which streams do not."""


class Stream(Generic[Response]):
    """One streamed answer. For one task; holds no more than what it is asked for, the rest waits in the transport.

    Dropping it without `cancel` cancels the call too, when it is collected.
    """

    def __init__(self, call: "grpc.aio.UnaryStreamCall[Any, Response]") -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        # grpc keeps calls that nobody else holds. The collector may run in any thread, and after the loop.
        with suppress(RuntimeError):
            if not self._call.done():
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
            # A channel that closes cancels its calls, which grpc.aio shows as if the waiting task were cancelled.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise ClientClosed from None
            raise
        return None if message is grpc.aio.EOF else cast("Response", message)

    def cancel(self) -> None:
        """Ends it. Idempotent."""
        self._call.cancel()


_Place = tuple[grpc.aio.Channel, "EventServiceAsyncStub", WeakSet[Stream[Any]]]
"""A channel, its stub, and its streams: those that were dropped without an end leave by themselves."""


class StreamChannels:
    """Channels for streams, apart from that of other calls, and as many as the streams need."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._channels: list[_Place] = []

    def open(
        self, start: "Callable[[EventServiceAsyncStub], grpc.aio.UnaryStreamCall[Any, Response]]"
    ) -> Stream[Response]:
        """The stream that `start` makes of a stub."""
        free = (place for place in self._channels if len(place[2]) < MOST_STREAMS)
        _, stub, streams = next(free, None) or self._add()
        stream = Stream(start(stub))
        streams.add(stream)
        return stream

    def _add(self) -> "_Place":
        channel = self._connect()
        place = (channel, cast("EventServiceAsyncStub", EventServiceStub(channel)), WeakSet[Stream[Any]]())
        self._channels.append(place)
        return place

    def end(self, stream: Stream[Any]) -> None:
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
