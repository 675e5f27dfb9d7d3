"""A run as other front ends read it: all of it that has happened, then what happens until it ends.

The live stream is opened first, and what was there is listed behind it: nothing is missed, and what both have is sent
once. A stream costs what its run costs, not its session.

Deltas may overtake events on their way from another server. A draft is shown behind all that the session had when its
first piece came, so that its text stands where its message will.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain
from typing import Any, Final, cast

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.event_service_pb2 import Delta, WatchSessionRequest, WatchSessionResponse
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import ListMessagesRequest, ListMessagesResponse, MessageFilter
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.run_service_pb2 import GetRunRequest
from sessiond.v1.session_pb2 import Consistency, Session, SessionView
from sessiond.v1.session_service_pb2 import GetSessionRequest
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond.v1.tool_call_service_pb2 import GetToolCallRequest, ListToolCallsRequest, ListToolCallsResponse
from sessiond_server.http import ai_sdk, requests
from sessiond_server.http.ag_ui import Translation
from sessiond_server.http.events import HEADERS
from sessiond_server.http.exchange import Gone, Request, left, metadata, until_left
from sessiond_server.http.files import Begin, Unary, Write
from sessiond_server.http.json_texts import dump_dict
from sessiond_server.http.problems import Problem
from sessiond_server.http.rules import AI_SDK, RPCS, Rule, grpc_path
from sessiond_server.rpc.loopback import CallFailed, Loopback

ENDED: Final = frozenset((RunStatus.RUN_STATUS_COMPLETED, RunStatus.RUN_STATUS_FAILED, RunStatus.RUN_STATUS_CANCELLED))
PAGE: Final = 100
MOST_TOOL_CALLS: Final = 10_000
"""Of those that a run has when its stream begins, the last ones that are sent."""
STRONG: Final = Consistency.CONSISTENCY_STRONG
MOST_HELD: Final = 256 * 1024
"""Bytes of drafts that wait for events; what is beyond comes with the message."""
SILENCE: Final = 10
"""Seconds of silence after which a comment is sent."""


class RunStreams:
    """Serves runs as streams."""

    def __init__(self, loopback: Loopback, unary: Unary, begin: Begin, write: Write) -> None:
        self._loopback = loopback
        self._unary = unary
        self._begin = begin
        self._write = write

    async def serve(self, request: Request, rule: Rule, captured: Mapping[str, str], tenant_id: str) -> None:
        """Sends the run until it ends or the client leaves. Raises Problem and CallFailed before the answer has begun;
        Gone."""
        asked = cast("GetRunRequest", requests.message(rule, captured, request.query, b"", request.headers))
        asked.consistency = STRONG
        watch = WatchSessionRequest(session_id=asked.session_id, deltas=True, view=SessionView.SESSION_VIEW_BASIC)
        watch.bookmark_interval.seconds = SILENCE
        path = grpc_path(RPCS["WatchSession"])
        async with self._loopback.stream(path, watch.SerializeToString(), metadata(request)) as frames:
            first = await anext(frames, None)
            if first is None:
                raise Problem(410, "SESSION_DELETED", "the session was deleted")
            run = Run.FromString(await self._unary("GetRun", asked.SerializeToString(), request, tenant_id))
            of_ai_sdk = rule.form == AI_SDK
            await self._begin(request, 200, [*HEADERS, *(ai_sdk.HEADERS if of_ai_sdk else ())])
            if request.method != "HEAD":
                story = _Story(request, run, tenant_id, self._unary, self._write)
                story.seq = WatchSessionResponse.FromString(first).snapshot.session.version
                story.translation = None if of_ai_sdk else Translation(asked.session_id, run.run_id)
                await until_left(story.send(frames), left(request))
            await request.send({"type": "http.response.body", "body": b""})


class _Story:
    """One run on its way to one reader."""

    def __init__(self, request: Request, run: Run, tenant_id: str, unary: Unary, write: Write) -> None:
        self._request = request
        self._run = run
        self._tenant_id = tenant_id
        self._unary = unary
        self._write = write
        self._conversion = ai_sdk.Conversion(run.run_id)
        self.translation: Translation | None = None
        """Into AG-UI; None: the chunks are sent as they are."""
        self.seq = 0
        """Of the last event that the live stream has had."""
        self._due: dict[str, int] = {}
        """Id of a message with a draft -> the `seq` behind which the draft is shown."""
        self._held: deque[Delta] = deque()
        """Pieces that wait for it, in their order."""
        self._held_bytes = 0

    async def send(self, frames: AsyncIterator[bytes]) -> None:
        """Raises Gone where the stream breaks off, which the client sees: its end is missing."""
        await self._send(self._conversion.begin())
        try:
            async for found in _by_seq(self._messages(), self._tool_calls()):
                await self._send(self._chunks(found))
            if self._run.status not in ENDED:
                self._run = await self._follow(frames)
        except (CallFailed, Problem):
            raise Gone from None  # too late for a status
        await self._send(self._conversion.end(self._run))
        if self.translation is None:
            await self._write(self._request, f"data: {ai_sdk.END}\n\n".encode(), self._tenant_id)

    async def _follow(self, frames: AsyncIterator[bytes]) -> Run:
        """Sends what happens; returns the run once it has ended. Raises Gone, CallFailed."""
        async for data in frames:
            frame = WatchSessionResponse.FromString(data)
            if frame.HasField("going_away"):
                break
            if frame.HasField("deltas"):
                for delta in frame.deltas.deltas:
                    if delta.run_id == self._run.run_id:
                        await self._hold(delta)
            elif not frame.HasField("events"):
                await self._write(self._request, b":\n\n", self._tenant_id)
            for event in frame.events.events:
                if event.run.run_id == self._run.run_id and event.run.status in ENDED:
                    return event.run
                if event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED:
                    await self._send(self._chunks(event.message))
                elif event.HasField("tool_call"):
                    await self._send(self._chunks(event.tool_call))
                self.seq = event.seq
            await self._show_held()
        raise Gone

    async def _hold(self, delta: Delta) -> None:
        """Until the events before it are there."""
        if self._conversion.begins(delta) and delta.message_id not in self._due:
            asked = GetSessionRequest(
                session_id=self._run.session_id, view=SessionView.SESSION_VIEW_BASIC, consistency=STRONG
            )
            self._due[delta.message_id] = Session.FromString(await self._read("GetSession", asked)).version
        if self._held_bytes + delta.ByteSize() <= MOST_HELD:
            self._held.append(delta)
            self._held_bytes += delta.ByteSize()

    async def _show_held(self) -> None:
        while self._held and self._due.get(self._held[0].message_id, 0) <= self.seq:
            delta = self._held.popleft()
            self._held_bytes -= delta.ByteSize()
            await self._send(self._conversion.delta(delta))

    def _chunks(self, found: Message | ToolCall) -> Iterator[ai_sdk.Chunk]:
        if found.run_id == self._run.run_id:
            yield from (
                self._conversion.message(found) if isinstance(found, Message) else self._conversion.tool_call(found)
            )

    async def _send(self, chunks: Iterator[ai_sdk.Chunk]) -> None:
        events = chunks if self.translation is None else chain.from_iterable(map(self.translation.events, chunks))
        if text := b"".join(b"data: " + dump_dict(event) + b"\n\n" for event in events):
            await self._write(self._request, text, self._tenant_id)

    async def _messages(self) -> AsyncIterator[Message]:
        asked = ListMessagesRequest(
            session_id=self._run.session_id,
            filter=MessageFilter(run_id=self._run.run_id),
            page_size=PAGE,
            consistency=STRONG,
        )
        while True:
            page = ListMessagesResponse.FromString(await self._read("ListMessages", asked))
            for message in page.messages:
                yield message
            asked.page_token = page.next_page_token
            if not asked.page_token:
                return

    async def _tool_calls(self) -> AsyncIterator[ToolCall]:
        """In the order in which they were requested. They are listed the other way round, and may be large."""
        asked = ListToolCallsRequest(
            session_id=self._run.session_id, run_id=self._run.run_id, page_size=PAGE, consistency=STRONG
        )
        ids: list[str] = []
        while len(ids) < MOST_TOOL_CALLS:
            page = ListToolCallsResponse.FromString(await self._read("ListToolCalls", asked))
            ids += (call.tool_call_id for call in page.tool_calls)
            asked.page_token = page.next_page_token
            if not asked.page_token:
                break
        while ids:
            one = GetToolCallRequest(session_id=self._run.session_id, tool_call_id=ids.pop(), consistency=STRONG)
            yield ToolCall.FromString(await self._read("GetToolCall", one))

    async def _read(self, rpc: str, asked: Any) -> bytes:
        return await self._unary(rpc, asked.SerializeToString(), self._request, self._tenant_id)


async def _by_seq(
    messages: AsyncIterator[Message], tool_calls: AsyncIterator[ToolCall]
) -> AsyncIterator[Message | ToolCall]:
    """Both, each in the order of `seq`, in the order of `seq`."""
    message, call = await anext(messages, None), await anext(tool_calls, None)
    while message is not None or call is not None:
        if call is None or (message is not None and message.seq < call.seq):
            assert message is not None
            yield message
            message = await anext(messages, None)
        else:
            yield call
            call = await anext(tool_calls, None)
