"""A run as a context manager: entering the block begins the run, leaving it finishes the run."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from sessiond.draft import Draft
from sessiond.errors import DeadlinePassed, Exhausted, RunEnded, RunFenced, SessiondError, Unavailable
from sessiond.fields import SessionChanges, StructUpdateLike, ToolCallExpireActionLike
from sessiond.lease import Lease, quietly
from sessiond.request_ids import new_request_id
from sessiond.tool_data import ToolValue
from sessiond.transfer import Progress, Source
from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.document_pb2 import DocumentWrite
from sessiond.v1.event_pb2 import Event
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.run_service_pb2 import HeartbeatRunResponse
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond.waiting import found

if TYPE_CHECKING:
    from sessiond.client import Client
    from sessiond.fields import AttachmentTypeLike, RoleLike

Answer = TypeVar("Answer")

PARTING = 5.0
"""Maximum seconds that a cancelled block waits for CancelRun."""
PAUSE = 0.1
"""Minimum seconds between two attempts of FinishRun."""


class _Update(SessionChanges, total=False):
    """The arguments of `LiveRun.update_session`, which are those of `Client.update_session` but the run."""

    struct_update: StructUpdateLike
    remove_keys: Iterable[str]
    expected_version: int
    request_id: str
    timeout: float | None


class LiveRun:
    """A turn of an agent; see `Client.run`.

        async with client.run(session_id) as run:
            await run.append_messages([sessiond.assistant("On it.")])
            run.usage = sessiond.TokenUsage(input_tokens=900, output_tokens=4)

    Entering the block begins the run and, if it is QUEUED, waits for its turn. Heartbeats at each third of the lease
    extend it. Every write through the run carries its fence. Leaving the block ends the run: COMPLETED, with the usage;
    FAILED when `error` is set or the block raises (the error's code is then the exception's type; the exception's text
    is not sent); CANCELLED when the block is cancelled.

    When the run is lost, because its lease ran out, another run interrupted it, another caller cancelled it, or its
    session ended, the block is cancelled, and its end raises RunFenced (or the error with which the service reported
    the loss). Cancelling the block does not stop work in other threads; the block must stop that itself.

    A run belongs to the task that enters it; other tasks may call its methods.
    """

    def __init__(self, client: "Client", session_id: str, run_id: str, begin: Callable[[str], Awaitable[Run]]) -> None:
        self._client = client
        self._session_id = session_id
        self._named = bool(run_id)
        self._run_id = run_id or new_request_id()
        self._begin = begin
        self._run: Run | None = None
        self._lease: Lease | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        """The number of pending cancellations of the task when it entered the block."""
        self._lost: Exception | None = None
        self._leaving = False
        self._calls: set[asyncio.Task[Any]] = set()
        """Tasks in `while_held`."""
        self.usage: TokenUsage | None = None
        """The tokens that the run used and no message has reported; set it before the end."""
        self.model = ""
        """The model that did the work, if it is not the one that the run was begun with."""
        self.error: Failure | None = None
        """The failure, in a text that may be stored; set it before the end."""
        self.finished: Run | None = None
        """The run as COMPLETED or FAILED; None before."""

    @property
    def lost(self) -> Exception | None:
        """Why the run was lost; None while it is held. The end of the block raises it."""
        return self._lost

    @property
    def session_id(self) -> str:
        return self._session_id

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def run(self) -> Run:
        """The run as it was at its start. Raises RuntimeError before the start."""
        if self._run is None:
            raise RuntimeError("the run has not started: use it as a context manager")
        return self._run

    @property
    def fence(self) -> RunFence:
        """The fence for writes that are not made through this object. Raises RuntimeError before the start."""
        return RunFence(run_id=self.run.run_id, fence=self.run.fence)

    async def append_messages(
        self,
        messages: Iterable[Message],
        *,
        update: SessionChanges | None = None,
        struct_update: StructUpdateLike = "replace",
        remove_keys: Iterable[str] = (),
        documents: Iterable[DocumentWrite] = (),
        offload_above: int | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AppendMessagesResponse:
        """As `Client.append_messages`."""
        return await self._client.append_messages(
            self._session_id,
            messages,
            update=update,
            struct_update=struct_update,
            remove_keys=remove_keys,
            documents=documents,
            offload_above=offload_above,
            run=self.fence,
            expected_version=expected_version,
            request_id=request_id,
            timeout=timeout,
        )

    def draft(
        self,
        *,
        role: "RoleLike" = "assistant",
        name: str = "",
        message_id: str = "",
        metadata: Mapping[str, Any] | None = None,
        interval: float = 0.05,
        timeout: float | None = None,
    ) -> Draft:
        """As `Client.draft`."""
        return self._client.draft(
            self._session_id,
            role=role,
            name=name,
            message_id=message_id,
            metadata=metadata,
            run=self.fence,
            interval=interval,
            timeout=timeout,
        )

    async def update_session(self, **fields: Unpack[_Update]) -> Session:
        """As `Client.update_session`."""
        return await self._client.update_session(self._session_id, run=self.fence, **fields)

    async def request_tool_call(
        self,
        name: str,
        arguments: ToolValue | None = None,
        *,
        tool_call_id: str = "",
        requires_approval: bool = False,
        message_id: str = "",
        model_call_id: str = "",
        approval_ttl: timedelta | float | None = None,
        expire_time: datetime | None = None,
        expire_action: ToolCallExpireActionLike | None = None,
        request_id: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> ToolCall:
        """As `Client.request_tool_call`."""
        return await self._client.request_tool_call(
            self._session_id,
            name,
            arguments,
            tool_call_id=tool_call_id,
            requires_approval=requires_approval,
            message_id=message_id,
            model_call_id=model_call_id,
            approval_ttl=approval_ttl,
            expire_time=expire_time,
            expire_action=expire_action,
            run=self.fence,
            request_id=request_id,
            timeout=timeout,
        )

    async def wait_for_decision(self, tool_call_id: str, *, timeout: float | None = None) -> ToolCall:  # noqa: ASYNC109
        """As `Client.wait_for_decision`."""
        return await self._client.wait_for_decision(self._session_id, tool_call_id, timeout=timeout)

    async def start_tool_call(self, tool_call_id: str, *, request_id: str = "") -> ToolCall:
        """As `Client.start_tool_call`."""
        return await self._client.start_tool_call(self._session_id, tool_call_id, run=self.fence, request_id=request_id)

    async def complete_tool_call(
        self, tool_call_id: str, result: ToolValue | None = None, *, request_id: str = ""
    ) -> ToolCall:
        """As `Client.complete_tool_call`."""
        return await self._client.complete_tool_call(
            self._session_id, tool_call_id, result, run=self.fence, request_id=request_id
        )

    async def fail_tool_call(
        self,
        tool_call_id: str,
        code: str,
        message: str = "",
        *,
        result: ToolValue | None = None,
        request_id: str = "",
    ) -> ToolCall:
        """As `Client.fail_tool_call`."""
        return await self._client.fail_tool_call(
            self._session_id, tool_call_id, code, message, result=result, run=self.fence, request_id=request_id
        )

    async def cancel_tool_call(self, tool_call_id: str, *, request_id: str = "") -> ToolCall:
        """As `Client.cancel_tool_call`."""
        return await self._client.cancel_tool_call(
            self._session_id, tool_call_id, run=self.fence, request_id=request_id
        )

    async def upload(
        self,
        source: Source,
        *,
        attachment_id: str = "",
        name: str | None = None,
        media_type: str | None = None,
        type: "AttachmentTypeLike | None" = None,
        progress: Progress | None = None,
    ) -> Attachment:
        """As `Client.upload`."""
        return await self._client.upload(
            self._session_id,
            source,
            attachment_id=attachment_id,
            name=name,
            media_type=media_type,
            type=type,
            run=self.fence,
            progress=progress,
        )

    async def delete_attachment(self, attachment_id: str, *, request_id: str = "") -> int:
        """As `Client.delete_attachment`."""
        return await self._client.delete_attachment(
            self._session_id, attachment_id, run=self.fence, request_id=request_id
        )

    async def while_held(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Awaits a call in another task than the block's, and raises the reason when the run is lost before or
        meanwhile."""
        if self._lost is not None:
            call.close()
            raise self._lost
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            return await call
        except asyncio.CancelledError:
            if self._lost is not None and task.uncancel() == 0:
                raise self._lost from None
            raise
        finally:
            self._calls.discard(task)

    async def __aenter__(self) -> Self:
        """Raises what `Client.begin_run` raises; RunEnded when another caller cancelled the run while it was QUEUED;
        RunFenced when the run was lost before the block began. A cancellation cancels the run."""
        if self._task is not None:
            raise RuntimeError("a run is begun once")
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            run = await self._begin(self._run_id)
        except (asyncio.CancelledError, Unavailable, DeadlinePassed):
            # The run may have begun. A run id that the caller chose may belong to another run.
            if not self._named:
                await self._give_up()
            raise
        try:
            if run.status == RunStatus.RUN_STATUS_QUEUED:
                run = await self._turn()
                since = loop.time()
                lease = self._leased(run, since)
                # The start may have been a while ago.
                await lease.extend()
            else:
                lease = self._leased(run, since)
        except BaseException:
            await self._give_up()
            raise
        self._run, self._lease = run, lease
        lease.keep()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._lease is not None
        self._leaving = True
        try:
            if self._lost is not None:
                # As asyncio.timeout does: if other code cancelled the task too, the cancellation goes on.
                ours = self._task.uncancel() <= self._cancelling
                if error is None or (ours and isinstance(error, asyncio.CancelledError)):
                    raise self._lost
            elif error is None:
                self.finished = await self._finish(self.error)
            elif isinstance(error, Exception):
                if not (isinstance(error, RunFenced) and error.run_id in ("", self._run_id)):
                    await self._finish_quietly(self.error or Failure(code=type(error).__name__[:128]))
            else:  # cancelled, or a generator whose reader has left
                await self._give_up()
        finally:
            await self._lease.close()

    def _leased(self, run: Run, since: float) -> Lease:
        fence = RunFence(run_id=run.run_id, fence=run.fence)

        async def heartbeat(timeout: float) -> HeartbeatRunResponse:  # noqa: ASYNC109
            return await self._client.heartbeat_run(self._session_id, fence, timeout=timeout)

        return Lease(heartbeat, run.lease.ToTimedelta().total_seconds(), since, self._lose)

    def _lose(self, error: Exception) -> None:
        if not self._leaving:  # while the run is being finished, that call's answer decides
            self._lost = error
            assert self._task is not None
            self._task.cancel()
            for task in self._calls:
                task.cancel()

    async def _turn(self) -> Run:
        """Waits until the run is live, and returns it."""

        def is_over(run: Run) -> Run | None:
            if run.run_id != self._run_id or run.status == RunStatus.RUN_STATUS_QUEUED:
                return None
            if run.status == RunStatus.RUN_STATUS_RUNNING:
                return run
            status = RunStatus.Name(run.status).removeprefix("RUN_STATUS_")
            told = {"session_id": self._session_id, "run_id": self._run_id, "status": status}
            raise RunEnded("the run is over", reason="RUN_ENDED", code="FAILED_PRECONDITION", metadata=told)

        async def look() -> Run | None:
            return is_over(await self._client.get_run(self._session_id, self._run_id))

        def in_event(event: Event) -> Run | None:
            return is_over(event.run)

        return await found(
            lambda types: self._client.watch(self._session_id, types=types, view="basic"),
            ("run_started", "run_cancelled", "run_failed"),
            look,
            in_event,
        )

    async def _finish(self, failure: Failure | None) -> Run:
        """Finishes the run. Retries while the lease is held, with one request id, so that it counts once."""
        assert self._lease is not None
        loop = asyncio.get_running_loop()
        request_id = new_request_id()
        while True:
            try:
                return await self._client.finish_run(
                    self._session_id,
                    self.fence,
                    status="failed" if failure is not None else "completed",
                    error=failure,
                    usage=self.usage,
                    model=self.model,
                    request_id=request_id,
                )
            except (Unavailable, DeadlinePassed, Exhausted) as error:
                pause = max(PAUSE, error.retry_after or 0.0)
                if loop.time() + pause >= self._lease.held_until:
                    raise
                await asyncio.sleep(pause)

    async def _finish_quietly(self, failure: Failure) -> None:
        """Finishes the run and ignores errors: the block raises its own, and the lease ends an unfinished run."""
        try:
            self.finished = await self._finish(failure)
        except (SessiondError, RuntimeError):
            return

    async def _give_up(self) -> None:
        await quietly(self._client.cancel_run(self._session_id, self._run_id, timeout=PARTING))
