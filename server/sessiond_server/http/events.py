"""Streams of events as server-sent events. The `id` of each is the position after it, so that a browser's EventSource
resumes without code.

The events are named as the frames of the RPC: snapshot, resumed, events, bookmark, going_away, deltas. The last one is
`end`: it says why the stream ends, and whether to come back. A line that breaks has none. An EventSource gives up for
ever at any status but 200, so what asks for `text/event-stream` gets 200 and `end` where it may come back.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from sessiond_server.http import problems
from sessiond_server.http.json_texts import Converter, dump_dict
from sessiond_server.rpc.loopback import CallFailed

HEADERS: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),  # nginx would hold events back
)
HEARTBEAT: Final = 15.0
"""Longest silence in seconds: then a comment is sent."""
RETRY: Final = (500, 1500)
"""Milliseconds after which browsers reconnect, at random, so that not all come back at once."""

COME_BACK: Final = frozenset(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED"])
"""The gRPC codes of ends after which the same request, with the position, goes on."""

Write = Callable[[bytes], Awaitable[None]]
"""Sends a piece of the answer; returns once the transport has room for more."""


class Events:
    """One stream on its way to one reader."""

    def __init__(self, rpc: MethodDescriptor, converter: Converter, write: Write, request_id: str) -> None:
        self._frame = GetMessageClass(rpc.output_type)
        self._converter = converter
        self._write = write
        self._request_id = request_id
        self._position = ""
        self._silent = True

    async def deliver(self, first: bytes, following: AsyncIterator[bytes]) -> None:
        """Sends all frames and the end. Returns after it."""
        await self._write(f"retry: {random.randint(*RETRY)}\n\n".encode())
        try:
            await self._send(first)
            async for frame in following:
                await self._send(frame)
        except CallFailed as failure:
            problem = problems.of(failure)
            document = problem.document(self._request_id)
            await self._end(document, come_back=failure.code in COME_BACK)
            return
        ended = {"reason": "SESSION_DELETED", "detail": "the session was deleted", "request_id": self._request_id}
        await self._end(ended, come_back=False)

    async def put_off(self, failure: CallFailed) -> None:
        """Sends only the end of a stream that could not begin, but may begin later (COME_BACK)."""
        problem = problems.of(failure)
        wait = max(random.randint(*RETRY), math.ceil(1000 * (problem.retry_after or 0)))
        await self._write(f"retry: {wait}\n\n".encode())
        await self._end(problem.document(self._request_id), come_back=True)

    async def until_gone(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Sends comments while the stream is silent. Returns when the reader has left."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    if (await receive())["type"] == "http.disconnect":
                        return
            except TimeoutError:
                silent, self._silent = self._silent, True
                if silent:
                    await self._write(b":\n\n")

    async def _send(self, frame: bytes) -> None:
        self._silent = False
        text = await self._converter.run(len(frame), self._text, frame)
        await self._write(text)

    def _text(self, frame: bytes) -> bytes:
        message: Any = self._frame.FromString(frame)
        name = message.WhichOneof("frame")
        found = MessageToDict(getattr(message, name), preserving_proto_field_name=True)
        self._position = message.position
        return _event(name, found, message.position)

    async def _end(self, document: dict[str, Any], *, come_back: bool) -> None:
        if self._position:
            document["position"] = self._position
        await self._write(_event("end", {**document, "come_back": come_back}, self._position))


def _event(name: str, found: dict[str, Any], position: str) -> bytes:
    named = f"id: {position}\n" if position else ""
    return f"event: {name}\n{named}data: ".encode() + dump_dict(found) + b"\n\n"
