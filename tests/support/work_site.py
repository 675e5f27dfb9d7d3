"""A server on Postgres whose clock tests move: what it answers about runs and tool calls, and what rows there are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.event_pb2 import Event
from sessiond.v1.run_pb2 import Run, RunFence
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.postgres.store import PostgresStore
from tests.support.movable_clock import move_clock
from tests.support.shared_database import SharedDatabase
from tests.support.wire import Wire, serving

_DIGEST = "select count(*), md5(string_agg(x::text, '' order by x::text)) from {} x"


@dataclass
class Site:
    """A server, and its database, whose clock the test moves. The session `s` has the live run `r`."""

    wire: Wire
    database: asyncpg.Connection
    store: PostgresStore
    fence: RunFence

    async def rows(self) -> list[tuple[str, int, str]]:
        """What is stored, by table: how many, and what is in them."""
        return [
            (name, *await self.database.fetchrow(_DIGEST.format(name)))
            for name in ("events", "runs", "tool_calls", "run_figures", "session_heads", "sessions")
        ]

    async def refused(self, rpc: str, request: ProtoMessage, code: StatusCode, reason: str, **metadata: str) -> None:
        before = await self.rows()
        failure = await self.wire.failure(rpc, request)
        assert (failure.code, failure.reason, failure.metadata) == (code, reason, {"session_id": "s", **metadata})
        assert await self.rows() == before

    async def call(self, rpc: str, **fields: Any) -> Any:
        return await self.wire.call(rpc, REQUESTS[rpc](session_id="s", **fields))

    async def request(self, tool_call_id: str, *, approval: bool = False) -> None:
        call = ToolCall(tool_call_id=tool_call_id, name="search", requires_approval=approval)
        await self.call("RequestToolCall", tool_call=call, run=self.fence)

    async def advance(self, seconds: float) -> None:
        """Moves the database's clock."""
        await move_clock(self.database, seconds)

    async def events(self) -> list[Event]:
        """The whole log of `s`."""
        events: list[Event] = []
        request = e.ListEventsRequest(session_id="s", page_size=1000)
        while True:
            answer = await self.wire.call("ListEvents", request)
            events += answer.events
            request.position = answer.position
            if not answer.more:
                return events

    async def run(self, run_id: str) -> Run:
        answer: Run = await self.call("GetRun", run_id=run_id)
        return answer


REQUESTS: dict[str, Any] = {
    "AppendMessages": m.AppendMessagesRequest,
    "BeginRun": r.BeginRunRequest,
    "HeartbeatRun": r.HeartbeatRunRequest,
    "FinishRun": r.FinishRunRequest,
    "CancelRun": r.CancelRunRequest,
    "GetRun": r.GetRunRequest,
    "RequestToolCall": t.RequestToolCallRequest,
    "ApproveToolCall": t.ApproveToolCallRequest,
    "RejectToolCall": t.RejectToolCallRequest,
    "StartToolCall": t.StartToolCallRequest,
    "CompleteToolCall": t.CompleteToolCallRequest,
    "FailToolCall": t.FailToolCallRequest,
    "GetToolCall": t.GetToolCallRequest,
}


@asynccontextmanager
async def site(emptied: SharedDatabase) -> AsyncIterator[Site]:
    database = await asyncpg.connect(emptied.dsn)
    try:
        async with PostgresStore(emptied.dsn) as store, serving_on(store) as wire:
            await wire.create("s")
            run = await wire.call("BeginRun", r.BeginRunRequest(session_id="s", run=Run(run_id="r")))
            yield Site(wire, database, store, RunFence(run_id="r", fence=run.fence))
    finally:
        await database.close()


@asynccontextmanager
async def serving_on(store: PostgresStore) -> AsyncIterator[Wire]:
    async with serving(store, work=store, attachments=store.attachments, blobs=MemoryBlobs()) as wire:
        yield wire
