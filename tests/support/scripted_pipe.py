"""The pipes of a scripted server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AbortError

from sessiond.v1.pipe_service_pb2 import OpenResponse, PipeGoingAway, PipeWindow
from sessiond_server.rpc.pipe import arriving
from sessiond_server.rpc.pipe.departing import Departing
from sessiond_server.rpc.pipe.piped_context import PipedContext
from tests.support.wire import RPCS

Serve = Callable[[str, Message, Any], Awaitable[Message]]
"""Answers a call by the RPC's name, as a plain one."""

WINDOW = PipeWindow(calls=512, request_bytes=8 << 20, frame_bytes=64 << 10, frame_entries=512, piece_bytes=32 << 10)


class ScriptedPipe:
    """One pipe, as rpc/pipe serves them, without its limits."""

    def __init__(self, serve: Serve, context: Any, window: PipeWindow) -> None:
        self._serve = serve
        self._context = context
        self._window = window
        self._calls: dict[int, PipedContext] = {}
        self._departing = Departing()
        self._wake = asyncio.Event()
        self._leaves = self._told = self._broken = False
        self.frames = 0
        """Frames that have come."""

    def leave(self) -> None:
        """Sends a PipeGoingAway."""
        self._leaves = True
        self._wake.set()

    def break_off(self) -> None:
        """Ends without answers to the calls that are under way."""
        self._broken = True
        self._wake.set()

    async def run(self, messages: AsyncIterator[bytes]) -> None:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(messages, group))
            reading.add_done_callback(lambda _: self._wake.set())
            await self._context.write(OpenResponse(window=self._window).SerializeToString())
            while self._calls or not reading.done():
                if self._leaves and not self._told:
                    self._told = True
                    await self._context.write(OpenResponse(going_away=PipeGoingAway()).SerializeToString())
                while self._departing:
                    frame, ended = self._departing.frame()
                    await self._context.write(frame.SerializeToString())
                    for context in ended:
                        del self._calls[context.number]
                if self._broken:
                    await self._context.abort(grpc.StatusCode.UNAVAILABLE, "as scripted")
                if self._calls or not reading.done():
                    await self._wake.wait()
                    self._wake.clear()

    async def _read(self, messages: AsyncIterator[bytes], group: asyncio.TaskGroup) -> None:
        newest = 0
        own = tuple(self._context.invocation_metadata() or ())
        async for data in messages:
            self.frames += 1
            frame = arriving.frame(data)
            for call in frame.calls:
                size, newest = arriving.size(call, newest), call.number
                timeout = call.timeout_ms / 1000 if call.timeout_ms else None
                context = PipedContext(call.number, (*own, *call.metadata.items()), self._context.peer, timeout, size)
                context.receive(call.request)
                self._calls[call.number] = context
                context.task = group.create_task(self._answer(call.method, context))
            assert len(self._calls) <= self._window.calls, "the window"
            for piece in frame.pieces:
                if (known := self._calls.get(piece.number)) is not None and known.accepts:
                    assert known.receive(piece.data)
            for number in frame.cancels:
                if (known := self._calls.get(number)) is not None and known.task is not None:
                    asyncio.get_running_loop().call_soon(known.task.cancel)

    async def _answer(self, path: str, context: PipedContext) -> None:
        name = path.rpartition("/")[2]
        try:
            request = GetMessageClass(RPCS[name].input_type).FromString(await context.read())
            context.response = (await self._serve(name, request, context)).SerializeToString()
        except AbortError:
            pass  # the context has the error
        except asyncio.CancelledError:
            context.end_with(grpc.StatusCode.CANCELLED, "Cancelled by the caller")
        context.accepts = False
        self._departing.add(context)
        self._wake.set()
