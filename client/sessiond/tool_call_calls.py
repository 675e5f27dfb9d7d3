"""The methods of a client that deal with calls of tools."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable

from sessiond.connection import Connection
from sessiond.fields import ConsistencyLike, Fence, ToolCallStatusLike, enum_value, run_fence
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.tool_data import ToolValue, to_tool_data
from sessiond.v1.run_pb2 import Failure
from sessiond.v1.session_pb2 import Consistency
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond.v1.tool_call_service_pb2 import (
    ApproveToolCallRequest,
    CancelToolCallRequest,
    CompleteToolCallRequest,
    FailToolCallRequest,
    GetToolCallRequest,
    ListPendingApprovalsRequest,
    ListPendingApprovalsResponse,
    ListToolCallsRequest,
    ListToolCallsResponse,
    RejectToolCallRequest,
    RequestToolCallRequest,
    StartToolCallRequest,
)


class ToolCallCalls:
    """ToolCallService; see `Client` for what all methods have in common.

    Every write takes `run`, the run that writes: it is refused with RunFenced when that is not the live one. All raise
    SessionNotFound, and writes SessionNotActive and SessionEnded.
    """

    _connection: Connection

    async def request_tool_call(
        self,
        session_id: str,
        name: str,
        arguments: ToolValue | None = None,
        *,
        tool_call_id: str = "",
        requires_approval: bool = False,
        message_id: str = "",
        model_call_id: str = "",
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """Asks for a call of the tool `name`; it is PENDING. With `requires_approval` it can't start before somebody
        has approved it.

        `message_id` is the message that asks for it, `model_call_id` the id that the model gave it. Raises ToolBlocked,
        ToolCallAlreadyExists, ToolCallLimitReached, RunFenced.
        """
        request = RequestToolCallRequest(
            session_id=session_id,
            tool_call=ToolCall(
                tool_call_id=tool_call_id,
                name=name,
                arguments=to_tool_data(arguments) if arguments is not None else None,
                requires_approval=requires_approval,
                message_id=message_id,
                model_call_id=model_call_id,
            ),
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.RequestToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def approve_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        *,
        approver: str = "",
        reason: str = "",
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """PENDING to APPROVED; `approver` and `reason` are kept. Raises ToolCallNotFound, IllegalToolCallTransition,
        RunFenced."""
        request = ApproveToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            approver=approver,
            reason=reason,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.ApproveToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def reject_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        *,
        approver: str = "",
        reason: str = "",
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """PENDING to REJECTED, for ever; `approver` and `reason` are kept. Raises ToolCallNotFound,
        IllegalToolCallTransition, RunFenced."""
        request = RejectToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            approver=approver,
            reason=reason,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.RejectToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def start_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        *,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """APPROVED, or PENDING where no approval is required, to RUNNING; of two who try, one fails. Raises
        ToolCallNotFound, ApprovalRequired, IllegalToolCallTransition, ToolBlocked, RunFenced."""
        request = StartToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.StartToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def complete_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        result: ToolValue | None = None,
        *,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """RUNNING to COMPLETED. What comes after a call that was started is over is kept as an event and changes
        nothing. Raises ToolCallNotFound, IllegalToolCallTransition, RunFenced."""
        request = CompleteToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            result=to_tool_data(result) if result is not None else None,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.CompleteToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def fail_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        code: str,
        message: str = "",
        *,
        result: ToolValue | None = None,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """RUNNING to FAILED: `code` for programs, `message` for people. As `complete_tool_call` in everything else."""
        request = FailToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            error=Failure(code=code, message=message),
            result=to_tool_data(result) if result is not None else None,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.FailToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def cancel_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        *,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """PENDING, APPROVED or RUNNING to CANCELLED. Raises ToolCallNotFound, IllegalToolCallTransition, RunFenced."""
        request = CancelToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.tool_calls.CancelToolCall
        return await self._connection.call(call, request, timeout, request.request_id)

    async def get_tool_call(
        self,
        session_id: str,
        tool_call_id: str,
        *,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> ToolCall:
        """A tool call. Raises ToolCallNotFound, VersionNotReached."""
        request = GetToolCallRequest(
            session_id=session_id,
            tool_call_id=tool_call_id,
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.tool_calls.GetToolCall, request, timeout)

    def list_tool_calls(
        self,
        session_id: str,
        *,
        statuses: Iterable[ToolCallStatusLike] = (),
        run_id: str = "",
        page_size: int = 0,
        page_token: str = "",
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Pages[ListToolCallsResponse, ToolCall]:
        """A session's tool calls, those requested last first, for `async for`; see Pages.

        `page_size` 0 means 20; the most is 100. `timeout` is for each page. Raises, when it is read: InvalidPageToken,
        VersionNotReached.
        """
        selected = [enum_value(ToolCallStatus.DESCRIPTOR, status) for status in statuses]
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)

        async def fetch(token: str) -> ListToolCallsResponse:
            request = ListToolCallsRequest(
                session_id=session_id,
                statuses=selected,
                run_id=run_id,
                page_size=page_size,
                page_token=token,
                min_version=min_version,
                consistency=freshness,
            )
            return await self._connection.call(self._connection.tool_calls.ListToolCalls, request, timeout)

        return Pages(fetch, lambda page: page.tool_calls, page_token)

    def list_pending_approvals(
        self, *, user_id: str = "", page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListPendingApprovalsResponse, ToolCall]:
        """The inbox of whoever decides: all calls of the tenant's sessions, or of those of a user, that wait for an
        approval, those that have waited longest first, for `async for`; see Pages.

        `page_size` 0 means 20; the most is 100. `timeout` is for each page. Raises, when it is read: InvalidPageToken.
        """

        async def fetch(token: str) -> ListPendingApprovalsResponse:
            request = ListPendingApprovalsRequest(user_id=user_id, page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.tool_calls.ListPendingApprovals, request, timeout)

        return Pages(fetch, lambda page: page.tool_calls, page_token)
