"""The client."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

import asyncio
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc.aio

from sessiond.branch_calls import BranchCalls
from sessiond.connection import Connection
from sessiond.context_calls import ContextCalls
from sessiond.document_calls import DocumentCalls
from sessiond.draft import Draft
from sessiond.errors import DeadlinePassed
from sessiond.event_calls import EventCalls
from sessiond.export_calls import ExportCalls
from sessiond.fields import EventTypeLike, Fence, RoleLike, RunPolicyLike, enum_value, run_fence
from sessiond.live_run import LiveRun
from sessiond.message_calls import MessageCalls
from sessiond.options import TLS, Keepalive, Reconnect, Retry
from sessiond.pipes import PipeUse
from sessiond.request_ids import new_request_id
from sessiond.retention_calls import RetentionCalls
from sessiond.run_calls import RunCalls
from sessiond.search_calls import SearchCalls
from sessiond.session_calls import SessionCalls
from sessiond.structs import struct_of
from sessiond.template_calls import TemplateCalls
from sessiond.texts import naming_texts_of_methods
from sessiond.tool_call_calls import ToolCallCalls
from sessiond.transfer import Progress
from sessiond.usage_calls import UsageCalls
from sessiond.user_export import exported
from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond.v1.run_pb2 import Run
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond.waiting import found


@naming_texts_of_methods
class Client(
    SessionCalls,
    BranchCalls,
    MessageCalls,
    EventCalls,
    RunCalls,
    ToolCallCalls,
    DocumentCalls,
    ContextCalls,
    SearchCalls,
    UsageCalls,
    TemplateCalls,
    ExportCalls,
    RetentionCalls,
):
    """A client of one sessiond service, for any number of tasks of one event loop.

    Creating it does no I/O; the first call connects, over connections that no other client shares. Use it as an async
    context manager, or close it. All methods raise `SessiondError`s (see `sessiond.errors`), ValueError or TypeError
    for arguments that no request can carry (InvalidFields, with the argument's name, for text that UTF-8 cannot
    encode), ClientClosed after `close`, and ClientForked in a process that was forked after a client had connected.
    Every method takes `timeout`, in seconds, and raises DeadlinePassed when it is not answered in time. A call that
    fails with UNAVAILABLE is retried within that time. Watches have no deadline and reconnect by themselves.

    Every write takes `request_id`, its idempotency key, and makes one of its own when there is none: retries by the
    client carry it, and an error has it as `SessiondError.request_id`, so that the caller can send the same write again
    without doing it twice. `expected_version` makes a write fail with VersionMismatch unless the session is at that
    version. Reads take `min_version` (never answer older than that) and `consistency` ("cached" or "strong").
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        database: str | None = None,
        tls: TLS | None = None,
        allow_insecure_key: bool = False,
        timeout: float = 10.0,
        wait_for_ready: bool = False,
        retry: Retry = Retry(),  # noqa: B008  frozen
        reconnect: Reconnect = Reconnect(),  # noqa: B008  frozen
        keepalive: Keepalive = Keepalive(),  # noqa: B008  frozen
        max_message_bytes: int = 8 * 1024 * 1024,
        user_agent: str = "",
        pipe: PipeUse = "off",
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        """
        Args:
            target: A gRPC target, such as `host:port`, `unix:path` or `dns:///host:port`. With several addresses behind
                it, as `dns:///` may find and `ipv4:10.0.0.1:50051,10.0.0.2:50051` lists, calls and watches go to one
                after the other, of those that answer.
            api_key: The bearer key to send with every call.
            database: Id of the service's database to work in, for keys with the scope `database:ID` or `database:*`.
                None: the one that is the home of the key's tenant.
            tls: How to encrypt the connection; None: no encryption.
            allow_insecure_key: Send the key although neither TLS nor loopback protects it. Without it that raises
                ValueError here.
            timeout: Seconds for each call without a `timeout` of its own. wait_for_ready: Let calls wait for a
            connection until their deadline, instead of failing with Unavailable when connecting fails. retry: When
            calls are retried. reconnect: When watches and transfers open their next stream. keepalive: How dead
            connections are detected. max_message_bytes: Largest request to send and answer to take. The service's own
            limit for requests, 4 MiB
                unless configured, holds besides.
            user_agent: The program's name, put before the library's own.
            pipe: When calls with one answer share a stream, which costs a fraction of plain calls: never ("off"),
                when several are under way ("auto"), or always ("on"). Plain calls are made where no pipe can be had, as
                with a service that does not know them. Not for programs that fork while a pipe is open, unless
                GRPC_ENABLE_FORK_SUPPORT=0 is set.
            channel: The channel to make all calls on, instead of connections of the client's own; for tests, and for
                programs that need a channel with interceptors. The client closes it. `target`, `tls`, `retry`,
                `keepalive`, `max_message_bytes`, `user_agent` and `pipe` are then not used.
        """
        self._connection = Connection(
            target,
            api_key=api_key,
            database=database,
            tls=tls,
            allow_insecure_key=allow_insecure_key,
            timeout=timeout,
            wait_for_ready=wait_for_ready,
            retry=retry,
            keepalive=keepalive,
            max_message_bytes=max_message_bytes,
            user_agent=user_agent,
            channel=channel,
            pipe=pipe,
        )
        self._reconnect = reconnect
        self._target = target

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def draft(
        self,
        session_id: str,
        *,
        role: RoleLike = "assistant",
        name: str = "",
        message_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        run: Fence | None = None,
        run_id: str = "",
        interval: float = 0.05,
        timeout: float | None = None,
    ) -> Draft:
        """Returns a Draft: a message that is published as deltas while it is written and appended at the end; see
        Draft.

        Without `message_id` the client generates one. `run` is the run that writes; the deltas carry `run_id`, or the
        id of that run. `interval` is the minimum time between two PublishDelta calls, in seconds. `timeout` is for the
        append at the end, which raises what `append_messages` raises. Raises InvalidFields for a `message_id`, a `name`
        or `metadata` that no message can have.
        """
        message = Message(
            message_id=message_id or new_request_id(),
            role=enum_value(Role.DESCRIPTOR, role),
            name=name,
            metadata=struct_of(metadata) if metadata is not None else None,
        )

        async def publish(deltas: Sequence[Delta]) -> None:
            await self.publish_delta(session_id, deltas)

        async def append(messages: Sequence[Message], request_id: str) -> AppendMessagesResponse:
            return await self.append_messages(session_id, messages, run=run, request_id=request_id, timeout=timeout)

        fence = run_fence(run)
        return Draft(publish, append, message, run_id or (fence.run_id if fence else ""), interval)

    def run(
        self,
        session_id: str,
        *,
        run_id: str = "",
        policy: RunPolicyLike = "reject",
        lease: timedelta | float | None = None,
        agent_id: str = "",
        model: str = "",
        metadata: Mapping[str, Any] | None = None,
        request_id: str = "",
        timeout: float | None = None,
    ) -> LiveRun:
        """Returns a LiveRun: a block that begins a run, sends its heartbeats, and finishes it at the end; see LiveRun.

        With the policy "enqueue", entering the block waits until the run is live, without a time limit; `timeout` is
        for the call that begins the run. The other parameters are those of `begin_run`. Raises, when it is entered,
        what `begin_run` raises.
        """

        async def begin(run_id: str) -> Run:
            return await self.begin_run(
                session_id,
                run_id=run_id,
                policy=policy,
                lease=lease,
                agent_id=agent_id,
                model=model,
                metadata=metadata,
                request_id=request_id,
                timeout=timeout,
            )

        return LiveRun(self, session_id, run_id, begin)

    async def wait_for_decision(self, session_id: str, tool_call_id: str, *, timeout: float | None = None) -> ToolCall:
        """Waits until a tool call is no longer PENDING, and returns it: APPROVED, REJECTED or CANCELLED, or FAILED
        where its approval did not come in time. It waits for an event, without polling, for `timeout` seconds; None:
        without a time limit.

        If the call was decided during the wait, its arguments may be missing, as in events. Raises ToolCallNotFound,
        SessionNotFound; DeadlinePassed when the call is still PENDING after `timeout`.
        """
        if timeout is not None and timeout <= 0:
            raise ValueError("timeout: must be above 0")

        def decided(tool_call: ToolCall) -> ToolCall | None:
            over = tool_call.tool_call_id == tool_call_id and tool_call.status not in _UNDECIDED
            return tool_call if over else None

        async def look() -> ToolCall | None:
            return decided(await self.get_tool_call(session_id, tool_call_id))

        def in_event(event: Event) -> ToolCall | None:
            return decided(event.tool_call)

        deciding: tuple[EventTypeLike, ...] = (
            "tool_call_approved",
            "tool_call_rejected",
            "tool_call_started",
            "tool_call_cancelled",
            "tool_call_expired",
        )
        try:
            async with asyncio.timeout(timeout) as limit:
                return await found(
                    lambda types: self.watch(session_id, types=types, view="basic"), deciding, look, in_event
                )
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed("the tool call is still pending", code="DEADLINE_EXCEEDED") from None

    async def typing(
        self, session_id: str, *, message_id: str = "", name: str = "", timeout: float | None = None
    ) -> None:
        """Shows watchers with deltas that `name` is writing a message. Raises SessionNotFound, SessionNotActive,
        SessionEnded."""
        delta = Delta(message_id=message_id or new_request_id(), typing=True, name=name)
        await self.publish_delta(session_id, [delta], timeout=timeout)

    async def export_user(
        self, user_id: str, folder: "str | os.PathLike[str]", *, progress: Progress | None = None
    ) -> int:
        """Exports all that a user has to a folder, which is made if it is not there: each session to a file as by
        `export_session`, the documents of the user and of these sessions to `documents.jsonl`, and last `user.json`,
        which lists the sessions with their files and says by being there that the export is complete. Returns the
        number of sessions.

        After a failure the same call goes on: sessions that are exported already, and have not changed since, are not
        exported again. Sessions that are created meanwhile may be missing. `progress` gets the sessions so far, and
        about how many there will be. Raises what `export_session` raises, but for SessionNotFound; OSError of the
        files.
        """
        return await exported(self, user_id, Path(folder), progress)

    async def close(self, grace: float | None = None) -> None:
        """Refuses new calls, cancels all watches at once, and cancels the calls in flight after `grace` seconds (None:
        at once). Idempotent."""
        await self._connection.close(grace)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


_UNDECIDED = (ToolCallStatus.TOOL_CALL_STATUS_UNSPECIFIED, ToolCallStatus.TOOL_CALL_STATUS_PENDING)
