"""A client of this process' own server, over a socket that only this process' account can reach.

The HTTP interface calls through it, so that its calls pass the same interceptors as those from the network.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import grpc

from sessiond_server.rpc.status import DETAILS_KEY

PEER_KEY: Final = "sessiond-peer"
"""Metadata with the address of the caller on whose behalf a call over the socket is made, as gRPC writes addresses."""
LOCAL: Final = "unix:"
"""How gRPC writes the address of a caller over the socket."""

STREAMS: Final = 1000
"""Most streams on one connection, well below WireSettings.most_streams."""

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),  # else all channels share a connection
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.absolute_max_metadata_size", 64 * 1024),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)

Metadata = Sequence[tuple[str, str]]

Lane = Literal["calls", "refused", "health"]
"""Unary calls of one lane share a connection, and so take no room from those of another."""


@dataclass
class CallFailed(Exception):
    """A call that ended with an error."""

    code: str
    """Name of the gRPC code."""
    text: str
    status: bytes
    """The serialised google.rpc.Status with the details; empty where there are none."""


class SocketFolder:
    """A folder for the socket that only this account can enter."""

    def __init__(self) -> None:
        """Raises OSError if the folder for temporary files cannot be written."""
        self._folder = tempfile.TemporaryDirectory(prefix="sessiond-")
        self.address: Final = f"unix:{Path(self._folder.name) / 'door'}"

    def close(self) -> None:
        self._folder.cleanup()


class Loopback:
    """Calls RPCs by their paths, with serialised messages. Belongs to one event loop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lanes = {lane: grpc.aio.insecure_channel(address, _OPTIONS) for lane in get_args(Lane)}
        self._streams: list[_Channel] = []

    async def close(self) -> None:
        """Ends all calls."""
        for channel in self._lanes.values():
            await channel.close()
        for each in self._streams:
            await each.channel.close()

    async def call(
        self, path: str, request: bytes, metadata: Metadata, deadline: float | None = None, *, lane: Lane = "calls"
    ) -> bytes:
        """The answer of a unary call, which has `deadline` seconds; None: as long as the server lets it have. Raises
        CallFailed."""
        # Without serialisers, messages are bytes.
        invoke: Any = self._lanes[lane].unary_unary(path)
        try:
            answer: bytes = await invoke(request, metadata=metadata, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        return answer

    @asynccontextmanager
    async def stream(self, path: str, request: bytes, metadata: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yields the messages of a streamed answer, whose iterator raises CallFailed. The call is cancelled when the
        context is left."""
        used = self._channel()
        used.streams += 1
        try:
            invoke: Any = used.channel.unary_stream(path)
            call = invoke(request, metadata=metadata)
            try:
                yield _messages(call)
            finally:
                call.cancel()
        finally:
            used.streams -= 1

    async def upload(
        self, path: str, first: bytes, following: AsyncIterator[bytes], metadata: Metadata, *, accepted: str
    ) -> bytes:
        """The answer of a call that takes a stream. `following` is asked once the server has sent initial metadata with
        the key `accepted`, and no more once the call has ended. Raises CallFailed, and what `following` raises, which
        cancels the call."""
        used = self._channel()
        used.streams += 1
        try:
            invoke: Any = used.channel.stream_unary(path)
            call = invoke(metadata=metadata)
            answering = asyncio.create_task(_answer(call), name="loopback-answer")
            sending = asyncio.create_task(_send(call, first, following, accepted), name="loopback-sending")
            try:
                await asyncio.wait((answering, sending), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await sending
                try:
                    return await answering
                except CallFailed as failure:
                    if failure.code == "INTERNAL" and not failure.status:
                        # grpc loses the status of a call that ends while something is on its way.
                        raise CallFailed("UNAVAILABLE", failure.text, b"") from None
                    raise
            finally:
                sending.cancel()
                call.cancel()
                await asyncio.gather(answering, sending, return_exceptions=True)
        finally:
            used.streams -= 1

    def _channel(self) -> "_Channel":
        for each in self._streams:
            if each.streams < STREAMS:
                return each
        made = _Channel(grpc.aio.insecure_channel(self._address, _OPTIONS))
        self._streams.append(made)
        return made


@dataclass(slots=True)
class _Channel:
    channel: grpc.aio.Channel
    streams: int = 0


async def _answer(call: Any) -> bytes:
    try:
        answer: bytes = await call
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from None
    return answer


async def _send(call: Any, first: bytes, following: AsyncIterator[bytes], accepted: str) -> None:
    """Sends until the call ends, or is refused: the answer says why."""
    try:
        await call.write(first)
        begun = await call.initial_metadata()
        if all(key != accepted for key, _ in begun):
            return  # refused, or done already
        async for message in following:
            await call.write(message)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass


async def _messages(call: Any) -> AsyncIterator[bytes]:
    while True:
        try:
            message = await call.read()
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        if message is grpc.aio.EOF:
            return
        yield message


def _failed(error: grpc.aio.AioRpcError) -> CallFailed:
    status = b""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status = value
    return CallFailed(error.code().name, error.details() or "", status)
