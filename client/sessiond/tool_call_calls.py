"""The client's methods for tool calls."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from collections.abc import Iterable
from datetime import datetime, timedelta

from sessiond.connection import Connection
from sessiond.fields import (
    ConsistencyLike,
    Fence,
    ToolCallExpireActionLike,
    ToolCallStatusLike,
    duration,
    enum_value,
    run_fence,
    timestamp,
)
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.tool_data import ToolValue, to_tool_data
from sessiond.v1.run_pb2 import Failure
from sessiond.v1.session_pb2 import Consistency
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallExpireAction, ToolCallStatus
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

    Every write takes `run`, the run that writes, and raises RunFenced when that run is not live. All methods raise
    SessionNotFound, and writes also SessionNotActive and SessionEnded.
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
        approval_ttl: timedelta | float | None = None,
        expire_time: datetime | None = None,
        expire_action: ToolCallExpireActionLike | None = None,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> ToolCall:
        """Requests a call of the tool `name`, which is then PENDING. With `requires_approval` it cannot start before it
        is approved.

        `message_id` is the message that asks for the call, `model_call_id` the id that the model gave it.
        `approval_ttl` (seconds, if a number) or `expire_time` says how long it waits for the approval; then the server
        ends it as `expire_action` says, REJECTED by default. Raises ToolBlocked, ToolCallAlreadyExists,
        ToolCallLimitReached, RunFenced.
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
                expire_time=None if expire_time is None else timestamp(expire_time),
                expire_action=enum_value(ToolCallExpireAction.DESCRIPTOR, expire_action),
            ),
            approval_ttl=None if approval_ttl is None else duration(approval_ttl),
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
        """Changes the status from PENDING to APPROVED and stores `approver` and `reason`. Raises ToolCallNotFound,
        IllegalToolCallTransition, ApprovalExpired, RunFenced."""
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
        """Changes the status from PENDING to REJECTED, for ever, and stores `approver` and `reason`. Raises
        ToolCallNotFound, IllegalToolCallTransition, ApprovalExpired, RunFenced."""
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
        """Changes the status from APPROVED, or from PENDING if no approval is required, to RUNNING. Of two concurrent
        callers one fails. Raises ToolCallNotFound, ApprovalRequired, ApprovalExpired, IllegalToolCallTransition,
        ToolBlocked, RunFenced."""
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
        """Changes the status from RUNNING to COMPLETED. A result that arrives after a started call has ended is stored
        as an event and does not change the call. Raises ToolCallNotFound, IllegalToolCallTransition,
        ApprovalExpired, RunFenced."""
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
        """Changes the status from RUNNING to FAILED, with a `code` for programs and a `message` for people. Otherwise
        as `complete_tool_call`."""
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
        """Changes the status from PENDING, APPROVED or RUNNING to CANCELLED. Raises ToolCallNotFound,
        IllegalToolCallTransition, ApprovalExpired, RunFenced."""
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
        """Returns a tool call. Raises ToolCallNotFound, VersionNotReached."""
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
        as_of_seq: int = 0,
        as_of_time: datetime | None = None,
        include_rewound: bool = False,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Pages[ListToolCallsResponse, ToolCall]:
        """Lists a session's tool calls, newest first, for `async for`; see Pages.

        With `as_of_seq` (0: now) or `as_of_time`, lists what it would have listed when the session was at that
        version, or at that time; raises InvalidFields for a place that the session has not.

        `include_rewound`: also those that a rewind has hidden.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken, VersionNotReached.
        """
        selected = [enum_value(ToolCallStatus.DESCRIPTOR, status) for status in statuses]
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)
        moment = None if as_of_time is None else timestamp(as_of_time)

        async def fetch(token: str) -> ListToolCallsResponse:
            request = ListToolCallsRequest(
                session_id=session_id,
                statuses=selected,
                run_id=run_id,
                page_size=page_size,
                page_token=token,
                include_rewound=include_rewound,
                min_version=min_version,
                consistency=freshness,
                as_of_seq=as_of_seq,
                as_of_time=moment,
            )
            return await self._connection.call(self._connection.tool_calls.ListToolCalls, request, timeout)

        return Pages(fetch, lambda page: page.tool_calls, page_token)

    def list_pending_approvals(
        self, *, user_id: str = "", page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListPendingApprovalsResponse, ToolCall]:
        """Lists the tool calls that wait for an approval, in all sessions of the tenant or of one user, oldest first,
        for `async for`; see Pages.

        `page_size` 0 means 20; the most is 100. `timeout` is for each page. Raises, when it is read: InvalidPageToken.
        """

        async def fetch(token: str) -> ListPendingApprovalsResponse:
            request = ListPendingApprovalsRequest(user_id=user_id, page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.tool_calls.ListPendingApprovals, request, timeout)

        return Pages(fetch, lambda page: page.tool_calls, page_token)
