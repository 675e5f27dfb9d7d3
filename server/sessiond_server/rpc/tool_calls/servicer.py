"""ToolCallService. Each RPC makes four moves: check, authorise, call, answer."""

from typing import cast

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
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import Action, Scope, ToolCallWritten
from sessiond_server.rpc import answers, as_of, fields
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.tool_calls import checks as requests
from sessiond_server.store.commits import Writer
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.work import PendingKey, ToolCallsPage, WorkStore

_Change = (
    RequestToolCallRequest
    | ApproveToolCallRequest
    | RejectToolCallRequest
    | StartToolCallRequest
    | CompleteToolCallRequest
    | FailToolCallRequest
    | CancelToolCallRequest
)


class ToolCallServicer:
    """The RPCs of sessiond.v1.ToolCallService, on a store of tool calls and a writer."""

    def __init__(self, work: WorkStore, history: HistoryReads, writer: Writer, tokens: PageTokens) -> None:
        self._work = work
        self._history = history
        self._writer = writer
        self._tokens = tokens

    async def request_tool_call(self, request: RequestToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.request_tool_call(request), call)

    async def approve_tool_call(self, request: ApproveToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.approve_tool_call(request), call)

    async def reject_tool_call(self, request: RejectToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.reject_tool_call(request), call)

    async def start_tool_call(self, request: StartToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.start_tool_call(request), call)

    async def complete_tool_call(self, request: CompleteToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.complete_tool_call(request), call)

    async def fail_tool_call(self, request: FailToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.fail_tool_call(request), call)

    async def cancel_tool_call(self, request: CancelToolCallRequest, call: Call) -> bytes:
        return await self._change(request, requests.cancel_tool_call(request), call)

    async def get_tool_call(self, request: GetToolCallRequest, call: Call) -> bytes:
        fields.named_read(request, "tool_call_id")
        scope = call.admit(SESSIONS_READ)
        version, tool_call = await self._work.get_tool_call(scope, request.session_id, request.tool_call_id)
        answers.not_before(request.min_version, request.session_id, version)
        return tool_call

    async def list_tool_calls(self, request: ListToolCallsRequest, call: Call) -> bytes:
        read = requests.list_tool_calls(request)
        scope = call.admit(SESSIONS_READ)
        session_id, run_id = request.session_id, request.run_id
        more = (fields.INCLUDE_REWOUND,) if request.include_rewound else as_of.bound_to(request)
        tokens = self._tokens.of(scope, call.method.path, session_id, run_id, *read.statuses, *more)
        # A token that this list has sealed holds the seq of a tool call.
        before, sealed = as_of.opened(tokens.open(request.page_token))
        seq = await as_of.place(self._history, scope, request, sealed)
        page = await self._page(scope, request, read, before, seq)
        answers.not_before(request.min_version, session_id, page.version)
        following = tokens.seal(as_of.sealed(page.next_seq, seq)) if page.next_seq is not None else ""
        rest = ListToolCallsResponse(next_page_token=following, version=seq or page.version)
        return answers.listed_tool_calls(page.tool_calls, rest)

    async def _page(
        self, scope: Scope, request: ListToolCallsRequest, read: requests.ToolCallsList, before: int | None, seq: int
    ) -> ToolCallsPage:
        session_id, run_id = request.session_id, request.run_id
        if seq:
            return await self._history.list_tool_calls_at(
                scope, session_id, seq, statuses=read.statuses, run_id=run_id, before=before, limit=read.limit
            )
        return await self._work.list_tool_calls(
            scope, session_id, statuses=read.statuses, run_id=run_id,
            before=before, limit=read.limit, include_rewound=request.include_rewound,
        )  # fmt: skip

    async def list_pending_approvals(self, request: ListPendingApprovalsRequest, call: Call) -> bytes:
        limit = requests.list_pending_approvals(request)
        scope = call.admit(SESSIONS_READ)
        tokens = self._tokens.of(scope, call.method.path, request.user_id)
        # A token that this list has sealed holds a place in the list of pending calls.
        position = cast("tuple[int, str, int] | None", tokens.open(request.page_token))
        after: PendingKey | None = (position[0], position[1], position[2]) if position else None
        page = await self._work.list_pending(scope, user_id=request.user_id, after=after, limit=limit)
        following = tokens.seal([*page.next_key]) if page.next_key is not None else ""
        return answers.pending(page.tool_calls, ListPendingApprovalsResponse(next_page_token=following))

    async def _change(self, request: _Change, action: Action, call: Call) -> bytes:
        """Executes a checked request that changes one tool call, and answers with the call."""
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return answers.outcome(ToolCallWritten, await self._writer.write(command)).tool_call
