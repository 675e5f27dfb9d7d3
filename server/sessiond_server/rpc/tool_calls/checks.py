"""Checks of the requests of ToolCallService: one function per RPC. See rpc/sessions/checks.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sessiond.v1.tool_call_pb2 import ToolCallStatus, ToolData
from sessiond.v1.tool_call_service_pb2 import (
    ApproveToolCallRequest,
    CancelToolCallRequest,
    CompleteToolCallRequest,
    FailToolCallRequest,
    ListPendingApprovalsRequest,
    ListToolCallsRequest,
    RejectToolCallRequest,
    RequestToolCallRequest,
    StartToolCallRequest,
)
from sessiond_server.domain import commands, text
from sessiond_server.domain.runs import validation as run_validation
from sessiond_server.domain.sessions.validation import life_time
from sessiond_server.domain.times import microseconds
from sessiond_server.domain.tool_calls import validation as tool_call_validation
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.rpc import as_of, fields

TOOL_CALLS_PAGE: Final = (20, 100)
REASON_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class ToolCallsList:
    """A requested page of tool calls."""

    statuses: Sequence[int]
    """Selected statuses, each once; never empty."""
    limit: int
    """Page size: 1 to 100."""


def request_tool_call(request: RequestToolCallRequest) -> commands.RequestToolCall:
    """The action. Its tool call is the request's own object; the rules overwrite its output-only fields."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    fields.fence(found, request)
    if request.HasField("tool_call"):
        tool_call_validation.new_tool_call(found, "tool_call", request.tool_call)
        _expiry(found, request)
    else:
        found.add("tool_call", "is required")
    found.check()
    return commands.RequestToolCall(request.tool_call, microseconds(request.approval_ttl))


def _expiry(found: FieldViolations, request: RequestToolCallRequest) -> None:
    """Checks the expiry of an approval, which two fields can set."""
    call = request.tool_call
    if request.HasField("approval_ttl"):
        life_time(found, "approval_ttl", request.approval_ttl)
        if not call.requires_approval:
            found.add("approval_ttl", tool_call_validation.WITHOUT_APPROVAL)
        if call.HasField("expire_time"):
            found.add("tool_call.expire_time", "excludes approval_ttl: set one of them")
    elif call.expire_action and not call.HasField("expire_time"):
        found.add("tool_call.expire_action", "is only for a call with an expiry")


def approve_tool_call(request: ApproveToolCallRequest) -> commands.DecideToolCall:
    return _decision(request, approve=True)


def reject_tool_call(request: RejectToolCallRequest) -> commands.DecideToolCall:
    return _decision(request, approve=False)


def _decision(request: ApproveToolCallRequest | RejectToolCallRequest, *, approve: bool) -> commands.DecideToolCall:
    found = _change(request)
    found.add("approver", text.line(request.approver, 0, text.ID_BYTES))
    found.add("reason", text.text(request.reason, REASON_CHARACTERS))
    found.check()
    return commands.DecideToolCall(request.tool_call_id, approve, request.approver, request.reason)


def start_tool_call(request: StartToolCallRequest) -> commands.StartToolCall:
    _change(request).check()
    return commands.StartToolCall(request.tool_call_id)


def complete_tool_call(request: CompleteToolCallRequest) -> commands.EndToolCall:
    found = _change(request)
    result = request.result if request.HasField("result") else None
    _result(found, result)
    found.check()
    return commands.EndToolCall(request.tool_call_id, result, None)


def fail_tool_call(request: FailToolCallRequest) -> commands.EndToolCall:
    found = _change(request)
    if request.HasField("error"):
        run_validation.failure(found, "error", request.error)
    else:
        found.add("error", "is required")
    result = request.result if request.HasField("result") else None
    _result(found, result)
    found.check()
    return commands.EndToolCall(request.tool_call_id, result, request.error)


def cancel_tool_call(request: CancelToolCallRequest) -> commands.CancelToolCall:
    _change(request).check()
    return commands.CancelToolCall(request.tool_call_id)


def list_tool_calls(request: ListToolCallsRequest) -> ToolCallsList:
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    statuses = fields.statuses(found, request.statuses, ToolCallStatus.DESCRIPTOR)
    if request.run_id:
        found.add("run_id", text.identifier(request.run_id))
    limit = fields.page_size(found, request.page_size, TOOL_CALLS_PAGE)
    fields.not_negative(found, "min_version", request.min_version)
    fields.consistency(found, request.consistency)
    if as_of.check(found, request) and request.include_rewound:
        found.add("include_rewound", "excludes as_of_seq and as_of_time")
    found.check()
    return ToolCallsList(statuses, limit)


def list_pending_approvals(request: ListPendingApprovalsRequest) -> int:
    """The page size: 1 to 100."""
    found = FieldViolations()
    found.add("user_id", text.line(request.user_id, 0, text.ID_BYTES))
    limit = fields.page_size(found, request.page_size, TOOL_CALLS_PAGE)
    found.check()
    return limit


class _Change(fields.Write, fields.Fenced, Protocol):
    @property
    def session_id(self) -> str: ...

    @property
    def tool_call_id(self) -> str: ...


def _change(request: _Change) -> FieldViolations:
    """Checks the fields that all changes of a tool call have."""
    found = FieldViolations()
    fields.session_id(found, request.session_id)
    fields.check_write(found, request)
    fields.fence(found, request)
    found.add("tool_call_id", text.identifier(request.tool_call_id))
    return found


def _result(found: FieldViolations, result: ToolData | None) -> None:
    if result is not None:
        tool_call_validation.tool_data(found, "result", result, tool_call_validation.RESULT_BYTES)
