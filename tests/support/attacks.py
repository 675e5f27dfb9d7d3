"""What hostile clients do to a server, each for some seconds. A program, so that its work slows no one who measures."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

from grpc_health.v1.health_pb2 import HealthCheckRequest

from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.message_service_pb2 import ListMessagesRequest
from sessiond.v1.pipe_service_pb2 import OpenRequest, PipeCall
from sessiond.v1.session_service_pb2 import CountSessionsRequest, GetSessionRequest, SessionFilter
from tests.support.raw_http2 import RawClient, Stream, message, raw_client

MIB = 1024 * 1024
GET = "/sessiond.v1.SessionService/GetSession"
COUNT = "/sessiond.v1.SessionService/CountSessions"
APPEND = "/sessiond.v1.MessageService/AppendMessages"
LIST = "/sessiond.v1.MessageService/ListMessages"
UPLOAD = "/sessiond.v1.AttachmentService/UploadAttachment"
WATCH = "/sessiond.v1.EventService/WatchSession"
PIPE = "/sessiond.v1.PipeService/Open"
HEALTH = "/grpc.health.v1.Health/Watch"
FRAME_BYTES = 64 * 1024
"""Most bytes of a frame of a pipe."""
STREAMS = 200
CONNECTIONS = 2
HONEST = "honest"
HONEST_CALLS = 10
"""On each connection, at most 50 times a second."""

Open = Callable[[RawClient], Stream]


class Attacker:
    """A caller with a key of the tenant `loud`, and a session of it with large messages."""

    def __init__(self, port: int, key: str, session_id: str) -> None:
        self._port = port
        self._key = key
        self._session_id = session_id

    async def run(self, name: str, seconds: float) -> None:
        await (self.honest(seconds) if name == HONEST else self.attacks()[name](seconds))

    async def honest(self, seconds: float) -> None:
        """Reads as many good callers do, at a bounded rate: HONEST_CALLS each time that it looks."""
        get = message(GetSessionRequest(session_id=self._session_id).SerializeToString())
        await self._flood(seconds, lambda raw: raw.open(GET, self._key, get, end=True), streams=HONEST_CALLS)

    def attacks(self) -> Mapping[str, Callable[[float], Awaitable[None]]]:
        broken = message(bytes(4 * MIB), length=8 * MIB)
        get = message(GetSessionRequest(session_id=self._session_id).SerializeToString())
        count = message(CountSessionsRequest(filter=SessionFilter(name_contains="a")).SerializeToString())
        watch = message(WatchSessionRequest(session_id=self._session_id, from_beginning=True).SerializeToString())
        named = message(HealthCheckRequest(service="n" * 100_000).SerializeToString())
        tiny = message(b"\x12\x00" * (2 * MIB - 100))
        key = self._key
        return {
            "partial": lambda seconds: self._flood(seconds, lambda raw: raw.open(APPEND, None, broken)),
            "partial_with_key": lambda seconds: self._flood(seconds, lambda raw: raw.open(APPEND, key, broken)),
            "health": lambda seconds: self._flood(seconds, lambda raw: raw.open(HEALTH, None, named, end=True)),
            "uploads": lambda seconds: self._flood(seconds, lambda raw: raw.open(UPLOAD, key)),
            "windows": lambda seconds: self._flood(
                seconds, lambda raw: raw.open(WATCH, key, watch, end=True), window=10
            ),
            "tiny": lambda seconds: self._flood(seconds, lambda raw: raw.open(APPEND, key, tiny, end=True), streams=4),
            "unkeyed": lambda seconds: self._flood(
                seconds, lambda raw: raw.open(GET, None, get, end=True), streams=1000
            ),
            "wrong_keys": lambda seconds: self._flood(
                seconds, lambda raw: raw.open(GET, "wrong", get, end=True), streams=1000
            ),
            "unknown": lambda seconds: self._flood(seconds, lambda raw: raw.open("/no.Such/Call", key, get, end=True)),
            "searches": lambda seconds: self._flood(seconds, lambda raw: raw.open(COUNT, key, count, end=True)),
            **{
                f"pipe_{name}": partial(self._pipe_frames, data) for name, data in pipe_frames(self._session_id).items()
            },
            "pipe_partial": lambda seconds: self._flood(seconds, lambda raw: raw.open(PIPE, key, broken)),
            "pipe_unread": lambda seconds: self._flood(
                seconds, lambda raw: raw.open(PIPE, key, listing(self._session_id)), streams=40, window=10
            ),
            "share": lambda seconds: self._flood(seconds, lambda raw: raw.open(GET, key, get, end=True), streams=320),
        }

    async def _pipe_frames(self, data: bytes, seconds: float) -> None:
        await self._flood(seconds, lambda raw: raw.open(PIPE, self._key, data, end=True), streams=40)

    async def _flood(self, seconds: float, opened: Open, *, streams: int = STREAMS, window: int | None = None) -> None:
        """So many streams at a time on each connection; another for each that ends."""
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(raw_client(self._port, window=window)) for _ in range(CONNECTIONS)]
            async with asyncio.TaskGroup() as tasks:
                for raw in raws:
                    tasks.create_task(_keep_open(raw, opened, streams, seconds))


def pipe_frames(session_id: str) -> Mapping[str, bytes]:
    """What a hostile client writes into a pipe, by what is wrong with it."""
    get = GetSessionRequest(session_id=session_id).SerializeToString()
    numbers = range(1, 500)
    calls = OpenRequest(calls=[PipeCall(number=each, method=GET, request=get) for each in numbers])
    cancelled = [
        OpenRequest(calls=[PipeCall(number=2 * each + at, method=GET, request=get) for at in (0, 1)])
        for each in range(1, 1000)
    ]
    for frame in cancelled:
        frame.cancels.extend([call.number for call in frame.calls] * 250)
    unknown = OpenRequest(calls=[PipeCall(number=each, method="/no.Such/Call") for each in numbers])
    streams = OpenRequest(calls=[PipeCall(number=each, method=WATCH) for each in numbers])
    return {
        "tiny": message(b"\x0a\x00" * (2 * MIB - 100)),
        "tiny_in_bounds": message(b"\x0a\x00" * (FRAME_BYTES // 2)),
        "twice": message(calls.SerializeToString()) * 2,
        "garbage": message(b"\xff" * 1000),
        "unknown": message(unknown.SerializeToString()),
        "streams": message(streams.SerializeToString()),
        "cancels": b"".join(message(frame.SerializeToString()) for frame in cancelled),
        "calls": message(calls.SerializeToString()),
    }


def listing(session_id: str) -> bytes:
    """A frame of calls whose answers are large."""
    request = ListMessagesRequest(session_id=session_id).SerializeToString()
    calls = [PipeCall(number=each, method=LIST, request=request) for each in range(1, 400)]
    return message(OpenRequest(calls=calls).SerializeToString())


async def _keep_open(raw: RawClient, opened: Open, streams: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    under_way: list[Stream] = []
    while loop.time() < until and not raw.closed:
        under_way = [stream for stream in under_way if not stream.ended]
        under_way += [opened(raw) for _ in range(streams - len(under_way))]
        await raw.flush()
        await asyncio.sleep(0.02)


NAMES = tuple(Attacker(0, "", "").attacks())


if __name__ == "__main__":
    port, key, session_id, name, seconds = sys.argv[1:]
    asyncio.run(Attacker(int(port), key, session_id).run(name, float(seconds)))
