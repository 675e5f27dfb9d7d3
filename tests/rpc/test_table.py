"""Every RPC: what a request is answered with, as response or as code, reason and field."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import pytest_asyncio
from google.protobuf.message import Message as ProtoMessage
from grpc import StatusCode

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import export_service_pb2 as ex
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import retention_service_pb2 as h
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import search_service_pb2 as q
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import template_service_pb2 as tp
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1 import usage_service_pb2 as u
from sessiond.v1.attachment_pb2 import AttachmentType
from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope, DocumentWrite
from sessiond.v1.erasure_pb2 import ErasureState
from sessiond.v1.error_pb2 import ErrorReason
from sessiond.v1.run_pb2 import Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Consistency, EndReason, Session, SessionStatus, SessionView
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus
from sessiond_server.domain import encoding as encoding
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.rows import Policy
from sessiond_server.errors import QueueFull, StoreUnavailable
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.session_reads import CACHED, Freshness
from tests.support.export_records import beginning
from tests.support.pipe_client import opened
from tests.support.requests import COMMITS, ENDED, LIVE, OFFICE, VALID, WRITES, stock
from tests.support.rows import table
from tests.support.wire import ALICE, READER, RPCS, TENANT, UNARY, WRITER, Wire, header, said, serving
from tests.support.wire import Failure as WireFailure

ACTIVE = SessionStatus.SESSION_STATUS_ACTIVE
SUSPENDED = SessionStatus.SESSION_STATUS_SUSPENDED
DATA = AttachmentType.ATTACHMENT_TYPE_DATA
BASIC = SessionView.SESSION_VIEW_BASIC
RUNNING_ERASURE = ErasureState.ERASURE_STATE_RUNNING


@pytest.fixture
async def stocked(wire: Wire) -> Wire:
    await stock(wire)
    return wire


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def untouched(common_wire: Wire) -> Wire:
    """The same, for tests that leave it as it was."""
    await stock(common_wire)
    return common_wire


def test_the_tables_have_every_rpc_of_every_service() -> None:
    assert VALID.keys() == RPCS.keys()
    assert ANSWERS.keys() == RPCS.keys()
    # That has no field which could be wrong.
    assert {rpc for rpc, *_ in REFUSALS} == RPCS.keys() - {"GetRetentionPolicy"}


PLACE = ex.ExportPlace(version=2, last_event_id="x", seq=1, digest=bytes(8))


ANSWERS: dict[str, Callable[[Any], bool]] = {
    "CreateSession": lambda a: (a.session_id, a.version, a.status) == ("new", 1, SessionStatus.SESSION_STATUS_CREATED),
    "GetSession": lambda a: (a.session_id, a.version, a.summary) == ("active", 2, "so far"),
    "BatchGetSessions": lambda a: ([x.session_id for x in a.sessions], a.not_found) == (["ended", "active"], ["none"]),
    "ListSessions": lambda a: [x.session_id for x in a.sessions] == ["ended"] and not a.next_page_token,
    "CountSessions": lambda a: a.count == 6,
    "ForkSession": lambda a: (
        (a.session_id, a.version, a.message_count, a.summary, a.status, a.forked_from.seq)
        == ("branch", 3, 1, "so far", ACTIVE, 2)
    ),
    "RewindSession": lambda a: (
        (a.session_id, a.version, a.message_count, a.summary, a.rewound[0].first_seq) == ("active", 3, 0, "so far", 2)
    ),
    "ListForks": lambda a: ([*a.sessions], a.next_page_token) == ([], ""),
    "UpdateSession": lambda a: (a.name, a.version, a.summary) == ("Renamed", 3, "so far"),
    "ActivateSession": lambda a: (a.status, a.version) == (ACTIVE, 2),
    "SuspendSession": lambda a: (a.status, a.version, a.summary) == (SUSPENDED, 3, "so far"),
    "ResumeSession": lambda a: (a.status, a.version) == (ACTIVE, 3),
    "EndSession": lambda a: (a.status, a.end_reason, a.summary) == (ENDED, EndReason.END_REASON_CLIENT, "so far"),
    "TouchSession": lambda a: (a.status, a.version, a.summary) == (ACTIVE, 3, "so far"),
    "DeleteSession": lambda a: a.version == 3,
    "EraseUser": lambda a: (a.user_id, a.state, a.session_count) == ("ann", RUNNING_ERASURE, 0),
    "GetErasure": lambda a: (a.user_id, a.state, a.HasField("end_time")) == ("gone", RUNNING_ERASURE, False),
    "BatchDeleteSessions": lambda a: (a.deleted, a.not_found) == (["active", "ended"], ["none"]),
    "BatchCreateSessions": lambda a: (
        (a.results[0].session.session_id, a.results[0].session.version) == ("fresh", 1)
        and a.results[1].error.reason == ErrorReason.ERROR_REASON_SESSION_ALREADY_EXISTS
    ),
    "BatchUpdateSessions": lambda a: (
        (a.results[0].session.name, a.results[0].session.version) == ("Renamed", 3)
        and [one.error.reason for one in a.results[1:]]
        == [ErrorReason.ERROR_REASON_SESSION_NOT_FOUND, ErrorReason.ERROR_REASON_SESSION_ENDED]
    ),
    "GetSessionMetrics": lambda a: (a.session_id, a.version, a.message_count, a.request_count) == ("active", 2, 1, 2),
    "AppendMessages": lambda a: (
        (a.version, a.first_seq, a.message_ids[1]) == (4, 3, "given") and a.message_ids[0] != ""
    ),
    "GetMessage": lambda a: (a.message_id, a.seq, a.parts[0].text) == ("m1", 2, "hello"),
    "ListMessages": lambda a: ([x.message_id for x in a.messages], a.version) == (["m1"], 2),
    "RedactMessage": lambda a: (a.message_id, a.redact_reason, len(a.parts)) == ("m1", "asked", 0),
    "DeleteMessages": lambda a: (
        (a.version, list(a.seqs), list(a.message_ids), a.messages[0].parts[0].text) == (3, [2], ["m1"], "hello")
        and a.delete_time.seconds > 0
    ),
    "WatchSession": lambda a: (
        (a.snapshot.session.session_id, a.snapshot.session.version, a.snapshot.session.summary)
        == ("active", 2, "so far")
        and a.snapshot.position != ""
    ),
    "WatchEvents": lambda a: a.resumed.position != "",
    "ListEvents": lambda a: (
        ([x.seq for x in a.events], a.events[1].message.message_id, a.more, a.version) == ([1, 2], "m1", False, 2)
        and a.position != ""
    ),
    "PublishDelta": lambda a: a == e.PublishDeltaResponse(),
    "ExportSession": lambda a: (
        (a.records[0].header.format_version, a.records[0].header.session.session_id) == (1, "active")
        and [x.WhichOneof("record") for x in a.records] == ["header", "event", "event", "end"]
    ),
    "ImportSession": lambda a: (a.session.session_id, a.session.version, a.already_there) == ("imported", 2, False),
    "UploadAttachment": lambda a: (a.attachment_id, a.session_id, a.seq, a.size_bytes) == ("new", "active", 3, 7),
    "GetUploadStatus": lambda a: (a.committed_bytes, a.size_bytes, a.attachment.attachment_id) == (7, 7, "a1"),
    "DownloadAttachment": lambda a: (a.header.attachment.name, a.header.offset, a.header.length) == ("a.csv", 0, 7),
    "GetAttachment": lambda a: (
        (a.attachment_id, a.name, a.type) == ("a1", "a.csv", AttachmentType.ATTACHMENT_TYPE_DATA)
    ),
    "ListAttachments": lambda a: ([x.name for x in a.attachments], a.version, a.next_page_token) == (["a.csv"], 2, ""),
    "DeleteAttachment": lambda a: a.version == 3,
    "BeginRun": lambda a: (
        (a.run_id, a.session_id, a.status, a.fence, a.lease.seconds, a.version)
        == ("r2", "active", RunStatus.RUN_STATUS_RUNNING, 3, 30, 3)
    ),
    "HeartbeatRun": lambda a: a.lease.seconds == 3600 and a.lease_expire_time.seconds > 0,
    "FinishRun": lambda a: (a.run_id, a.status, a.version) == ("r1", RunStatus.RUN_STATUS_COMPLETED, 9),
    "CancelRun": lambda a: (a.run_id, a.status, a.version) == ("r1", RunStatus.RUN_STATUS_CANCELLED, 10),
    "RequestToolCall": lambda a: (a.name, a.status, a.version, a.requester != "") == ("search", 1, 3, True),
    "ApproveToolCall": lambda a: (
        (a.status, a.approval.approved, a.approval.approver, a.approval.reason, a.arguments.text)
        == (ToolCallStatus.TOOL_CALL_STATUS_APPROVED, True, "Ada", "ok", "{}")
    ),
    "RejectToolCall": lambda a: (a.status, a.approval.approved) == (ToolCallStatus.TOOL_CALL_STATUS_REJECTED, False),
    "StartToolCall": lambda a: (a.status, a.version) == (ToolCallStatus.TOOL_CALL_STATUS_RUNNING, 7),
    "CompleteToolCall": lambda a: (
        (a.status, a.result.text, a.arguments.text) == (ToolCallStatus.TOOL_CALL_STATUS_COMPLETED, "found", "{}")
    ),
    "FailToolCall": lambda a: (a.status, a.error.code) == (ToolCallStatus.TOOL_CALL_STATUS_FAILED, "broken"),
    "CancelToolCall": lambda a: a.status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED,
    "GetRun": lambda a: (a.run_id, a.status, a.fence) == ("r1", RunStatus.RUN_STATUS_RUNNING, 2),
    "ListRuns": lambda a: ([x.run_id for x in a.runs], a.next_page_token, a.version) == (["r1"], "", 6),
    "GetToolCall": lambda a: (a.tool_call_id, a.run_id, a.arguments.text) == ("asked", "r1", "{}"),
    "ListToolCalls": lambda a: (
        ([x.tool_call_id for x in a.tool_calls], a.next_page_token, a.version) == (["running", "plain", "asked"], "", 6)
    ),
    "ListPendingApprovals": lambda a: (
        ([(x.session_id, x.tool_call_id) for x in a.tool_calls], a.next_page_token) == ([("busy", "asked")], "")
    ),
    "GetDocument": lambda a: (a.key, a.json, a.version, dict(a.labels)) == ("settings", "{}", 1, {"kind": "x"}),
    "BatchGetDocuments": lambda a: (
        ([x.key for x in a.documents], [x.key for x in a.not_found], len(a.omitted)) == (["settings"], ["none"], 0)
    ),
    "PutDocument": lambda a: (a.scope_id, a.key, a.json, a.version, a.seq) == ("ann", "likes", '["tea"]', 1, 0),
    "SearchMessages": lambda a: [(x.session_id, x.message_id, x.role) for x in a.hits] == [("active", "m1", 2)],
    "SearchSessions": lambda a: [x.session.session_id for x in a.hits] == ["active"],
    "ListDocuments": lambda a: ([x.key for x in a.documents], a.next_page_token) == (["settings"], ""),
    "PutTemplate": lambda a: (a.template_id, a.session.name, a.version) == ("t", "n", 1),
    "GetTemplate": lambda a: (a.template_id, a.version) == ("kept", 1),
    "ListTemplates": lambda a: ([x.template_id for x in a.templates], a.next_page_token) == (["kept"], ""),
    "DeleteTemplate": lambda a: a.version == 1,
    "GetUsage": lambda a: [(x.agent_id, x.message_count > 0) for x in a.rows] == [("", True)],
    "DeleteDocument": lambda a: (a.version, a.seq) == (1, 0),
    "CreateSummary": lambda a: (a.seq, a.through_seq, a.text, a.summary_id != "") == (3, 2, "Greetings.", True),
    "RequestSummary": lambda a: (a.version, a.summary_seq) == (2, 0),
    "CreateSessionToken": lambda a: a.token.startswith("sdt_") and a.HasField("expire_time"),
    "GetContext": lambda a: ([m.message_id for m in a.messages], a.version, a.token_count) == (["m1"], 2, 6),
    "PlaceHold": lambda a: (
        (a.session_id, a.reason, a.place_actor, a.HasField("lift_time")) == ("active", "case 7", "tenant", False)
    ),
    "SetRetentionPolicy": lambda a: (
        (a.ended_retention.seconds, a.effective_ended_retention.seconds, a.actor) == (90, 90, "tenant")
    ),
    "GetRetentionPolicy": lambda a: (a.HasField("ended_retention"), a.effective_ended_retention.seconds) == (False, 0),
    "ListErasures": lambda a: [x.user_id for x in a.erasures] == ["gone"] and not a.next_page_token,
    "VerifyErasureReport": lambda a: not a.valid,
    "LiftHold": lambda a: (a.user_id, a.lift_reason, a.lift_actor) == ("held", "closed", "tenant"),
    "ListHolds": lambda a: [x.user_id for x in a.holds] == ["held"] and not a.next_page_token,
    "ListSummaries": lambda a: ([*a.summaries], a.next_page_token, a.version) == ([], "", 6),
}


@pytest.mark.parametrize("rpc", RPCS)
async def test_a_valid_request_is_answered_where_a_large_one_and_one_without_the_scope_were_refused(
    stocked: Wire, rpc: str
) -> None:
    # An unknown field, so that no known one is at fault.
    large = VALID[rpc].SerializeToString() + unknown_field(4 * 1024 * 1024)
    failure = await stocked.failure(rpc, large)
    assert (failure.code, failure.reason) == (INVALID, "REQUEST_TOO_LARGE")
    assert failure.metadata == {"size_bytes": str(len(large)), "limit_bytes": str(4 * 1024 * 1024)}

    enough, lacking, scope = (WRITER, READER, "sessions:write") if rpc in WRITES else (READER, WRITER, "sessions:read")
    if rpc in OFFICE:
        enough, lacking, scope = TENANT, WRITER, OFFICE[rpc]
    failure = await stocked.failure(rpc, VALID[rpc], key=lacking)
    assert (failure.code, failure.reason) == (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert failure.metadata == {"scope": scope}

    answer = await stocked.call(rpc, VALID[rpc], key=enough)
    assert ANSWERS[rpc](answer), answer


def unknown_field(size: int) -> bytes:
    return encoding.tag(2047) + encoding.varint(size) + bytes(size)


Refusal = tuple[str, ProtoMessage, StatusCode, str, dict[str, str]]
INVALID, PRECONDITION = StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION
MISMATCH = {"session_id": "active", "current_version": "2"}
STALE = RunFence(run_id="r0", fence=2)
FENCED = {"session_id": "busy", "run_id": "r0", "live_run_id": "r1"}
CALL = {"session_id": "busy", "tool_call_id": "asked"}
OF_SESSION = DocumentScope.DOCUMENT_SCOPE_SESSION
ANN = (DocumentScope.DOCUMENT_SCOPE_USER, "ann")
SETTINGS = Document(scope=DocumentScope.DOCUMENT_SCOPE_TENANT, key="settings", json="{}")
NAMED = {"scope": "TENANT", "scope_id": "", "key": "settings"}

ID = [("x-request-id", "given")]

REFUSALS: list[Refusal] = [
    ("CreateSession", s.CreateSessionRequest(session=Session(session_id="active")), StatusCode.ALREADY_EXISTS,
     "SESSION_ALREADY_EXISTS", {"session_id": "active"}),
    ("GetSession", s.GetSessionRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("GetSession", s.GetSessionRequest(session_id="active", min_version=3), PRECONDITION, "VERSION_NOT_REACHED",
     MISMATCH),
    ("BatchGetSessions", s.BatchGetSessionsRequest(), INVALID, "INVALID_FIELD", {}),
    ("ListSessions", s.ListSessionsRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("CountSessions", s.CountSessionsRequest(filter=s.SessionFilter(type=cast("Any", 99))), INVALID,
     "INVALID_FIELD", {}),
    ("UpdateSession", s.UpdateSessionRequest(session=Session(session_id="ended", name="x")), PRECONDITION,
     "SESSION_ENDED", {"session_id": "ended", "end_reason": "CLIENT"}),
    ("UpdateSession", s.UpdateSessionRequest(session=Session(session_id="active", name="x"), expected_version=1),
     StatusCode.ABORTED, "VERSION_MISMATCH", MISMATCH),
    ("ActivateSession", s.ActivateSessionRequest(session_id="active"), PRECONDITION, "ILLEGAL_TRANSITION",
     {"session_id": "active", "status": "ACTIVE", "action": "activate"}),
    ("SuspendSession", s.SuspendSessionRequest(session_id="created"), PRECONDITION, "ILLEGAL_TRANSITION",
     {"session_id": "created", "status": "CREATED", "action": "suspend"}),
    ("ResumeSession", s.ResumeSessionRequest(session_id="active"), PRECONDITION, "ILLEGAL_TRANSITION",
     {"session_id": "active", "status": "ACTIVE", "action": "resume"}),
    ("EndSession", s.EndSessionRequest(session_id="active", expected_version=9), StatusCode.ABORTED,
     "VERSION_MISMATCH", MISMATCH),
    ("TouchSession", s.TouchSessionRequest(session_id="ended"), PRECONDITION, "SESSION_ENDED",
     {"session_id": "ended", "end_reason": "CLIENT"}),
    ("DeleteSession", s.DeleteSessionRequest(session_id="active", expected_version=1), StatusCode.ABORTED,
     "VERSION_MISMATCH", MISMATCH),
    ("EraseUser", s.EraseUserRequest(), INVALID, "INVALID_FIELD", {}),
    ("GetErasure", s.GetErasureRequest(user_id="none"), StatusCode.NOT_FOUND, "ERASURE_NOT_FOUND", {"user_id": "none"}),
    ("EraseUser", s.EraseUserRequest(user_id="held"), PRECONDITION, "LEGAL_HOLD", {"user_id": "held"}),
    ("PlaceHold", h.PlaceHoldRequest(session_id="none", reason="x"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("PlaceHold", h.PlaceHoldRequest(session_id="active", user_id="ann", reason="x"), INVALID, "INVALID_FIELD", {}),
    ("SetRetentionPolicy", h.SetRetentionPolicyRequest(), INVALID, "INVALID_FIELD", {}),
    ("ListErasures", s.ListErasuresRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("VerifyErasureReport", h.VerifyErasureReportRequest(), INVALID, "INVALID_FIELD", {}),
    ("LiftHold", h.LiftHoldRequest(hold_id="none"), StatusCode.NOT_FOUND, "HOLD_NOT_FOUND", {"hold_id": "none"}),
    ("ListHolds", h.ListHoldsRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("BatchDeleteSessions", s.BatchDeleteSessionsRequest(session_ids=["a", "a"]), INVALID, "INVALID_FIELD", {}),
    ("GetSessionMetrics", s.GetSessionMetricsRequest(session_id="active", min_version=3), PRECONDITION,
     "VERSION_NOT_REACHED", MISMATCH),
    ("CreateSessionToken", s.CreateSessionTokenRequest(session_id="none"), StatusCode.NOT_FOUND,
     "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("BatchCreateSessions", s.BatchCreateSessionsRequest(), INVALID, "INVALID_FIELD", {}),
    ("BatchUpdateSessions", s.BatchUpdateSessionsRequest(), INVALID, "INVALID_FIELD", {}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="suspended", messages=[said("x")]), PRECONDITION,
     "SESSION_NOT_ACTIVE", {"session_id": "suspended", "status": "SUSPENDED"}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="active", messages=[said("x", message_id="m1")]),
     StatusCode.ALREADY_EXISTS, "MESSAGE_ALREADY_EXISTS", {"session_id": "active", "message_id": "m1"}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="small", messages=[said("x"), said("y")]), PRECONDITION,
     "MESSAGE_LIMIT_REACHED", {"session_id": "small", "limit": "1"}),
    ("GetMessage", m.GetMessageRequest(session_id="active", message_id="m2"), StatusCode.NOT_FOUND,
     "MESSAGE_NOT_FOUND", {"session_id": "active", "message_id": "m2"}),
    ("GetMessage", m.GetMessageRequest(session_id="active", message_id="m1", min_version=3), PRECONDITION,
     "VERSION_NOT_REACHED", MISMATCH),
    ("ListMessages", m.ListMessagesRequest(session_id="active", min_version=3), PRECONDITION, "VERSION_NOT_REACHED",
     MISMATCH),
    ("ListMessages", m.ListMessagesRequest(session_id="active", page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("RedactMessage", m.RedactMessageRequest(session_id="active", message_id="m2"), StatusCode.NOT_FOUND,
     "MESSAGE_NOT_FOUND", {"session_id": "active", "message_id": "m2"}),
    ("DeleteMessages",
     m.DeleteMessagesRequest(session_id="active", ids=m.MessageIds(message_ids=["m1", "m2"])), StatusCode.NOT_FOUND,
     "MESSAGE_NOT_FOUND", {"session_id": "active", "message_id": "m2"}),
    ("WatchSession", e.WatchSessionRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("WatchSession", e.WatchSessionRequest(session_id="active", position="x"), INVALID, "INVALID_POSITION", {}),
    ("WatchEvents", e.WatchEventsRequest(position="x"), INVALID, "INVALID_POSITION", {}),
    ("WatchEvents", e.WatchEventsRequest(start=cast("Any", 9)), INVALID, "INVALID_FIELD", {}),
    ("ListEvents", e.ListEventsRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("ListEvents", e.ListEventsRequest(session_id="active", position="x"), INVALID, "INVALID_POSITION", {}),
    ("PublishDelta", e.PublishDeltaRequest(session_id="active"), INVALID, "INVALID_FIELD", {}),
    ("PublishDelta", e.PublishDeltaRequest(session_id="none", deltas=[e.Delta(message_id="m", typing=True)]),
     StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("PublishDelta", e.PublishDeltaRequest(session_id="suspended", deltas=[e.Delta(message_id="m", typing=True)]),
     PRECONDITION, "SESSION_NOT_ACTIVE", {"session_id": "suspended", "status": "SUSPENDED"}),
    ("PublishDelta", e.PublishDeltaRequest(session_id="ended", deltas=[e.Delta(message_id="m", typing=True)]),
     PRECONDITION, "SESSION_ENDED", {"session_id": "ended", "end_reason": "CLIENT"}),
    ("ExportSession", ex.ExportSessionRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("ExportSession", ex.ExportSessionRequest(session_id="active", after=PLACE), StatusCode.ABORTED, "EXPORT_OUTDATED",
     {"session_id": "active"}),
    ("ExportSession", ex.ExportSessionRequest(session_id="active", after=ex.ExportPlace()), INVALID,
     "INVALID_FIELD", {}),
    ("ImportSession", ex.ImportSessionRequest(), INVALID, "INVALID_FIELD", {}),
    ("ImportSession", beginning("a\0"), INVALID, "INVALID_FIELD", {}),
    ("ImportSession", beginning("active"), StatusCode.ALREADY_EXISTS, "SESSION_ALREADY_EXISTS",
     {"session_id": "active"}),
    ("ImportSession", beginning("x", user_id="eve"), INVALID, "IMPORT_REFUSED", {"line": "2"}),
    ("UploadAttachment", header("none", "x"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("UploadAttachment", header("ended", "x"), PRECONDITION, "SESSION_ENDED",
     {"session_id": "ended", "end_reason": "CLIENT"}),
    ("UploadAttachment", header("small", "a1"), StatusCode.ALREADY_EXISTS, "ATTACHMENT_ALREADY_EXISTS",
     {"session_id": "small", "attachment_id": "a1"}),
    ("UploadAttachment", header("small", "x"), PRECONDITION, "ATTACHMENT_LIMIT_REACHED",
     {"session_id": "small", "limit": "1"}),
    ("GetUploadStatus", a.GetUploadStatusRequest(session_id="small", attachment_id="x"), StatusCode.NOT_FOUND,
     "UPLOAD_NOT_FOUND", {"session_id": "small", "attachment_id": "x"}),
    ("DownloadAttachment", a.DownloadAttachmentRequest(session_id="small", attachment_id="x"), StatusCode.NOT_FOUND,
     "ATTACHMENT_NOT_FOUND", {"session_id": "small", "attachment_id": "x"}),
    ("DownloadAttachment", a.DownloadAttachmentRequest(session_id="small", attachment_id="a1", offset=8), INVALID,
     "INVALID_FIELD", {}),
    ("GetAttachment", a.GetAttachmentRequest(session_id="small", attachment_id="x"), StatusCode.NOT_FOUND,
     "ATTACHMENT_NOT_FOUND", {"session_id": "small", "attachment_id": "x"}),
    ("ListAttachments", a.ListAttachmentsRequest(session_id="small", page_token="x"), INVALID, "INVALID_PAGE_TOKEN",
     {}),
    ("DeleteAttachment", a.DeleteAttachmentRequest(session_id="small", attachment_id="x"), StatusCode.NOT_FOUND,
     "ATTACHMENT_NOT_FOUND", {"session_id": "small", "attachment_id": "x"}),
    ("DeleteAttachment", a.DeleteAttachmentRequest(session_id="small", attachment_id="a1", expected_version=1),
     StatusCode.ABORTED, "VERSION_MISMATCH", {"session_id": "small", "current_version": "2"}),
    ("BeginRun", r.BeginRunRequest(session_id="busy"), PRECONDITION, "RUN_IN_PROGRESS",
     {"session_id": "busy", "run_id": "r1"}),
    ("BeginRun", r.BeginRunRequest(session_id="busy", run=Run(run_id="r1")), StatusCode.ALREADY_EXISTS,
     "RUN_ALREADY_EXISTS", {"session_id": "busy", "run_id": "r1"}),
    ("BeginRun", r.BeginRunRequest(session_id="suspended"), PRECONDITION, "SESSION_NOT_ACTIVE",
     {"session_id": "suspended", "status": "SUSPENDED"}),
    ("HeartbeatRun", r.HeartbeatRunRequest(session_id="busy", run=STALE), StatusCode.ABORTED, "RUN_FENCED", FENCED),
    ("HeartbeatRun", r.HeartbeatRunRequest(session_id="busy"), INVALID, "INVALID_FIELD", {}),
    ("FinishRun", r.FinishRunRequest(session_id="busy", run=STALE, status=RunStatus.RUN_STATUS_FAILED),
     StatusCode.ABORTED, "RUN_FENCED", FENCED),
    ("FinishRun", r.FinishRunRequest(session_id="busy", run=LIVE), INVALID, "INVALID_FIELD", {}),
    ("CancelRun", r.CancelRunRequest(session_id="busy", run_id="r9"), StatusCode.NOT_FOUND, "RUN_NOT_FOUND",
     {"session_id": "busy", "run_id": "r9"}),
    ("GetRun", r.GetRunRequest(session_id="busy", run_id="r9"), StatusCode.NOT_FOUND, "RUN_NOT_FOUND",
     {"session_id": "busy", "run_id": "r9"}),
    ("GetRun", r.GetRunRequest(session_id="busy", run_id="r1", min_version=7), PRECONDITION, "VERSION_NOT_REACHED",
     {"session_id": "busy", "current_version": "6"}),
    ("ListRuns", r.ListRunsRequest(session_id="busy", page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("ListRuns", r.ListRunsRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="busy", messages=[said("x")], run=STALE), StatusCode.ABORTED,
     "RUN_FENCED", FENCED),
    ("UpdateSession", s.UpdateSessionRequest(session=Session(session_id="busy", name="x"), run=STALE),
     StatusCode.ABORTED, "RUN_FENCED", FENCED),
    ("RequestToolCall", t.RequestToolCallRequest(session_id="busy", tool_call=ToolCall(name="x"), run=STALE),
     StatusCode.ABORTED, "RUN_FENCED", FENCED),
    ("RequestToolCall", t.RequestToolCallRequest(session_id="busy", tool_call=ToolCall(name="rm")), PRECONDITION,
     "TOOL_BLOCKED", {"session_id": "busy", "tool": "rm"}),
    ("RequestToolCall",
     t.RequestToolCallRequest(session_id="busy", tool_call=ToolCall(tool_call_id="asked", name="search")),
     StatusCode.ALREADY_EXISTS, "TOOL_CALL_ALREADY_EXISTS", CALL),
    ("ApproveToolCall", t.ApproveToolCallRequest(session_id="busy", tool_call_id="running"), PRECONDITION,
     "ILLEGAL_TOOL_CALL_TRANSITION",
     {"session_id": "busy", "tool_call_id": "running", "status": "RUNNING", "action": "approve"}),
    ("RejectToolCall", t.RejectToolCallRequest(session_id="busy", tool_call_id="none"), StatusCode.NOT_FOUND,
     "TOOL_CALL_NOT_FOUND", {"session_id": "busy", "tool_call_id": "none"}),
    ("StartToolCall", t.StartToolCallRequest(session_id="busy", tool_call_id="asked"), PRECONDITION,
     "APPROVAL_REQUIRED", CALL),
    ("CompleteToolCall", t.CompleteToolCallRequest(session_id="busy", tool_call_id="asked"), PRECONDITION,
     "ILLEGAL_TOOL_CALL_TRANSITION", {**CALL, "status": "PENDING", "action": "complete"}),
    ("FailToolCall", t.FailToolCallRequest(session_id="busy", tool_call_id="running"), INVALID, "INVALID_FIELD", {}),
    ("CancelToolCall", t.CancelToolCallRequest(session_id="busy", tool_call_id="asked", run=STALE), StatusCode.ABORTED,
     "RUN_FENCED", FENCED),
    ("GetToolCall", t.GetToolCallRequest(session_id="busy", tool_call_id="none"), StatusCode.NOT_FOUND,
     "TOOL_CALL_NOT_FOUND", {"session_id": "busy", "tool_call_id": "none"}),
    ("ListToolCalls", t.ListToolCallsRequest(session_id="busy", statuses=cast("Any", [8])), INVALID, "INVALID_FIELD",
     {}),
    ("ListPendingApprovals", t.ListPendingApprovalsRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("CreateSummary", x.CreateSummaryRequest(session_id="ended", summary=Summary(through_seq=1, text="x")),
     PRECONDITION, "SESSION_ENDED", {"session_id": "ended", "end_reason": "CLIENT"}),
    ("CreateSummary", x.CreateSummaryRequest(session_id="active", summary=Summary(through_seq=3, text="x")), INVALID,
     "INVALID_FIELD", {}),
    ("CreateSummary",
     x.CreateSummaryRequest(session_id="busy", summary=Summary(through_seq=1, text="x"), run=STALE), StatusCode.ABORTED,
     "RUN_FENCED", FENCED),
    ("RequestSummary", x.RequestSummaryRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("GetContext", x.GetContextRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("GetContext", x.GetContextRequest(session_id="active", max_tokens=1), PRECONDITION, "CONTEXT_BUDGET_TOO_SMALL",
     {"session_id": "active", "field": "max_tokens", "needed_tokens": "6", "needed_messages": "1"}),
    ("GetContext", x.GetContextRequest(session_id="busy", max_messages=-1), INVALID, "INVALID_FIELD", {}),
    ("GetContext", x.GetContextRequest(session_id="busy", max_tool_result_tokens=-1), INVALID, "INVALID_FIELD", {}),
    ("GetContext", x.GetContextRequest(session_id="busy", min_version=7), PRECONDITION, "VERSION_NOT_REACHED",
     {"session_id": "busy", "current_version": "6"}),
    ("GetContext", x.GetContextRequest(session_id="busy", max_tokens=-1), INVALID, "INVALID_FIELD", {}),
    ("GetContext", x.GetContextRequest(session_id="busy", as_of_seq=-1), INVALID, "INVALID_FIELD", {}),
    ("GetContext", x.GetContextRequest(session_id="busy", as_of_seq=7), INVALID, "INVALID_FIELD", {}),
    ("ForkSession", s.ForkSessionRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("ForkSession", s.ForkSessionRequest(session_id="active", message_id="m9"), StatusCode.NOT_FOUND,
     "MESSAGE_NOT_FOUND", {"session_id": "active", "message_id": "m9"}),
    ("ForkSession", s.ForkSessionRequest(session_id="active", seq=3), INVALID, "INVALID_FIELD", {}),
    ("ForkSession", s.ForkSessionRequest(session_id="active", expected_version=1), StatusCode.ABORTED,
     "VERSION_MISMATCH", MISMATCH),
    ("ForkSession", s.ForkSessionRequest(session_id="active", fork_session_id="ended"), StatusCode.ALREADY_EXISTS,
     "SESSION_ALREADY_EXISTS", {"session_id": "ended"}),
    ("RewindSession", s.RewindSessionRequest(session_id="none", seq=1), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("RewindSession", s.RewindSessionRequest(session_id="active"), INVALID, "INVALID_FIELD", {}),
    ("RewindSession", s.RewindSessionRequest(session_id="active", seq=3), INVALID, "INVALID_FIELD", {}),
    ("RewindSession", s.RewindSessionRequest(session_id="active", before_message_id="m9"), StatusCode.NOT_FOUND,
     "MESSAGE_NOT_FOUND", {"session_id": "active", "message_id": "m9"}),
    ("RewindSession", s.RewindSessionRequest(session_id="active", seq=1, expected_version=1), StatusCode.ABORTED,
     "VERSION_MISMATCH", MISMATCH),
    ("RewindSession", s.RewindSessionRequest(session_id="busy", seq=1), PRECONDITION, "RUN_IN_PROGRESS",
     {"session_id": "busy", "run_id": "r1"}),
    ("RewindSession", s.RewindSessionRequest(session_id="ended", seq=1), PRECONDITION, "SESSION_ENDED",
     {"session_id": "ended", "end_reason": "CLIENT"}),
    ("ListForks", s.ListForksRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("ListForks", s.ListForksRequest(session_id="active", page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("ListSummaries", x.ListSummariesRequest(session_id="none"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND",
     {"session_id": "none"}),
    ("ListSummaries", x.ListSummariesRequest(session_id="busy", min_version=7), PRECONDITION, "VERSION_NOT_REACHED",
     {"session_id": "busy", "current_version": "6"}),
    ("ListSummaries", x.ListSummariesRequest(session_id="busy", page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("GetDocument", d.GetDocumentRequest(scope=ANN[0], scope_id="ann", key="x"), StatusCode.NOT_FOUND,
     "DOCUMENT_NOT_FOUND", {"scope": "USER", "scope_id": "ann", "key": "x"}),
    ("BatchGetDocuments", d.BatchGetDocumentsRequest(), INVALID, "INVALID_FIELD", {}),
    ("PutDocument", d.PutDocumentRequest(document=SETTINGS, expected_version=2), StatusCode.ABORTED,
     "DOCUMENT_VERSION_MISMATCH", {**NAMED, "current_version": "1", "expected_version": "2"}),
    ("PutDocument", d.PutDocumentRequest(document=Document(scope=OF_SESSION, scope_id="none", key="x", json="1")),
     StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("PutDocument", d.PutDocumentRequest(document=Document(scope=OF_SESSION, scope_id="ended", key="x", json="1")),
     PRECONDITION, "SESSION_ENDED", {"session_id": "ended", "end_reason": "CLIENT"}),
    ("PutDocument", d.PutDocumentRequest(), INVALID, "INVALID_FIELD", {}),
    ("ListDocuments", d.ListDocumentsRequest(scope=OF_SESSION, scope_id="none"), StatusCode.NOT_FOUND,
     "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("ListDocuments", d.ListDocumentsRequest(scope=SETTINGS.scope, page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("SearchMessages", q.SearchMessagesRequest(query="..."), INVALID, "INVALID_FIELD", {}),
    ("SearchMessages", q.SearchMessagesRequest(query="x", page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("SearchMessages", q.SearchMessagesRequest(query="x", wait_for=q.SeenVersion(session_id="active", version=9)),
     PRECONDITION, "VERSION_NOT_REACHED", {"session_id": "active", "current_version": "2"}),
    ("SearchSessions", q.SearchSessionsRequest(query="x", wait_for=q.SeenVersion(session_id="none", version=1)),
     StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", {"session_id": "none"}),
    ("GetTemplate", tp.GetTemplateRequest(template_id="x"), StatusCode.NOT_FOUND, "TEMPLATE_NOT_FOUND",
     {"template_id": "x"}),
    ("PutTemplate", tp.PutTemplateRequest(template=tp.Template(template_id="kept"), expected_version=0),
     StatusCode.ABORTED, "TEMPLATE_VERSION_MISMATCH",
     {"template_id": "kept", "current_version": "1", "expected_version": "0"}),
    ("PutTemplate", tp.PutTemplateRequest(), INVALID, "INVALID_FIELD", {}),
    ("ListTemplates", tp.ListTemplatesRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("DeleteTemplate", tp.DeleteTemplateRequest(template_id="x"), StatusCode.NOT_FOUND, "TEMPLATE_NOT_FOUND",
     {"template_id": "x"}),
    ("CreateSession", s.CreateSessionRequest(session=Session(session_id="n"), template_id="x"), StatusCode.NOT_FOUND,
     "TEMPLATE_NOT_FOUND", {"template_id": "x"}),
    ("GetUsage", u.GetUsageRequest(page_token="x"), INVALID, "INVALID_PAGE_TOKEN", {}),
    ("GetUsage", u.GetUsageRequest(first_day="x"), INVALID, "INVALID_FIELD", {}),
    ("DeleteDocument", d.DeleteDocumentRequest(scope=SETTINGS.scope, key="x"), StatusCode.NOT_FOUND,
     "DOCUMENT_NOT_FOUND", {**NAMED, "key": "x"}),
    ("DeleteDocument", d.DeleteDocumentRequest(scope=SETTINGS.scope, key="settings", expected_version=2),
     StatusCode.ABORTED, "DOCUMENT_VERSION_MISMATCH", {**NAMED, "current_version": "1", "expected_version": "2"}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="active", messages=[said("x")], documents=[
        DocumentWrite(put=SETTINGS, expected_version=0)]), StatusCode.ABORTED, "DOCUMENT_VERSION_MISMATCH",
     {**NAMED, "current_version": "1", "expected_version": "0"}),
    ("AppendMessages", m.AppendMessagesRequest(session_id="active", messages=[said("x")], documents=[
        DocumentWrite(delete=DocumentName(scope=ANN[0], scope_id="ann", key="k"))]), INVALID, "INVALID_FIELD", {}),
]  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("rpc", "request_", "code", "reason", "metadata"), REFUSALS, ids=lambda value: str(value)[:30])
async def test_a_refusal_has_its_code_reason_and_details(
    untouched: Wire, rpc: str, request_: ProtoMessage, code: StatusCode, reason: str, metadata: dict[str, str]
) -> None:
    failure = await untouched.failure(rpc, request_)
    assert (failure.code, failure.reason, failure.metadata) == (code, reason, metadata)
    assert bool(failure.violations) == (code is INVALID)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_pipe_refuses_what_a_plain_call_is_refused_in_the_same_way(untouched: Wire) -> None:
    async with opened(untouched) as pipe:
        with table() as rows:
            for rpc, request, *_ in REFUSALS:
                if rpc in UNARY:
                    with rows.row(rpc, request):
                        plain = await untouched.failure(rpc, request, metadata=ID)
                        assert await pipe.failure(rpc, request, metadata=dict(ID)) == plain


async def test_a_pipe_answers_what_a_plain_call_gets() -> None:
    with table() as rows:
        for rpc in UNARY:
            with rows.row(rpc):
                async with serving() as wire:
                    await stock(wire)
                    async with opened(wire) as pipe:
                        answer = await pipe.call(rpc, VALID[rpc])
                assert ANSWERS[rpc](answer), answer


async def test_a_blocked_tool_is_named(stocked: Wire) -> None:
    call = said("x")
    call.parts.add().tool_call.name = "rm"
    failure = await stocked.failure("AppendMessages", m.AppendMessagesRequest(session_id="small", messages=[call]))
    assert (failure.code, failure.reason, failure.metadata["tool"]) == (PRECONDITION, "TOOL_BLOCKED", "rm")
    assert failure.text.startswith("messages[0].parts[1].tool_call.name: ")


async def test_a_quota_is_exhausted() -> None:
    async with serving(MemoryStore(policy=Policy(max_live_sessions=1))) as wire:
        await wire.create()
        failure = await wire.failure("CreateSession", s.CreateSessionRequest(session=Session()))
    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "SESSION_QUOTA_REACHED")
    assert failure.metadata == {"limit": "1"}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("rpc", RPCS)
async def test_no_key_and_an_unknown_key_are_unauthenticated(common_wire: Wire, rpc: str) -> None:
    for key in ("", "unknown"):
        failure = await common_wire.failure(rpc, b"\xff", key=key)
        assert (failure.code, failure.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("rpc", RPCS)
async def test_bytes_that_are_no_request_are_malformed(common_wire: Wire, rpc: str) -> None:
    # Field 1 with the reserved wire type 7; then a length that passes the end.
    for data in (b"\x0f", b"\x0a\x7fabc"):
        failure = await common_wire.failure(rpc, data)
        assert (failure.code, failure.reason) == (INVALID, "MALFORMED_REQUEST")
        assert RPCS[rpc].input_type.full_name in failure.text


@pytest.mark.parametrize("rpc", COMMITS)
async def test_a_retry_gets_the_first_outcome_and_another_content_is_refused(stocked: Wire, rpc: str) -> None:
    request = type(WRITES[rpc]).FromString(WRITES[rpc].SerializeToString())
    request.request_id = "r-1"  # type: ignore[attr-defined]
    if rpc == "CreateSession":
        request.session.session_id = ""  # type: ignore[attr-defined]
    first = await stocked.call(rpc, request)
    assert await stocked.call(rpc, request) == first
    if rpc.startswith("Batch"):
        return  # its items are each decided on their own
    if rpc == "CreateSession":
        request.session.name = "another"  # type: ignore[attr-defined]
    else:
        request.expected_version = 1  # type: ignore[attr-defined]
    failure = await stocked.failure(rpc, request)
    assert (failure.code, failure.reason) == (INVALID, "REQUEST_ID_REUSED")
    assert failure.violations.keys() == {"request_id"}


async def test_the_same_request_id_in_another_rpc_is_refused(stocked: Wire) -> None:
    await stocked.call("SuspendSession", s.SuspendSessionRequest(session_id="active", request_id="r-1"))
    failure = await stocked.failure("ResumeSession", s.ResumeSessionRequest(session_id="active", request_id="r-1"))
    assert failure.reason == "REQUEST_ID_REUSED"


async def test_order_of_map_entries_does_not_change_the_request(wire: Wire) -> None:
    def request(labels: list[str]) -> bytes:
        """As written by clients whose maps have no order."""
        head = s.CreateSessionRequest(session=Session(session_id="s"), request_id="r-1")
        return b"".join(
            [head.SerializeToString()]
            + [s.CreateSessionRequest(session=Session(labels={label: "1"})).SerializeToString() for label in labels]
        )

    labels = [f"label-{number}" for number in range(60)]
    first = await wire.call("CreateSession", request(labels))
    assert await wire.call("CreateSession", request(labels[::-1])) == first


async def test_views_leave_content_out(stocked: Wire) -> None:
    basic = await stocked.call("GetSession", s.GetSessionRequest(session_id="active", view=BASIC))
    assert (basic.session_id, basic.summary) == ("active", "")
    listed = await stocked.call("ListSessions", s.ListSessionsRequest(view=SessionView.SESSION_VIEW_FULL))
    assert {x.session_id: x.summary for x in listed.sessions}["active"] == "so far"


async def test_a_key_of_a_user_creates_that_users_sessions(wire: Wire) -> None:
    assert (await wire.create("alice~mine", key=ALICE)).user_id == "alice"
    request = s.CreateSessionRequest(session=Session(user_id="bob"))
    failure = await wire.failure("CreateSession", request, key=ALICE)
    assert failure.violations.keys() == {"session.user_id"}


async def test_a_batch_ends_early_and_names_what_is_left(wire: Wire) -> None:
    state = {"text": "x" * 900_000}
    for number in range(5):
        session = Session(session_id=f"s{number}")
        session.state.update(state)
        await wire.call("CreateSession", s.CreateSessionRequest(session=session))
    ids = ["s0", "none", "s1", "s2", "s3", "also-none", "s4"]
    request = s.BatchGetSessionsRequest(session_ids=ids, view=SessionView.SESSION_VIEW_FULL)
    answer = await wire.call("BatchGetSessions", request)
    assert [x.session_id for x in answer.sessions] == ["s0", "s1", "s2"]
    assert (answer.omitted, answer.not_found) == (["s3", "s4"], ["none", "also-none"])


class Behind(MemoryStore):
    """Reads that may be served from copies are: of each session, what it was when it was first read."""

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[str, SessionSnapshot | None] = {}

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        now = await super().get_sessions(scope, session_ids, content=content)
        if freshness.strong:
            return now
        return [self._copies.setdefault(one, had) for one, had in zip(session_ids, now, strict=True)]


async def test_every_session_of_a_batch_has_its_min_version() -> None:
    async with serving(Behind()) as wire:

        async def versions(*least: int, consistency: Consistency.ValueType = Consistency.CONSISTENCY_CACHED) -> Any:
            request = s.BatchGetSessionsRequest(
                session_ids=["a", "none", "b"], min_versions=least, consistency=consistency
            )
            answer = await wire.call("BatchGetSessions", request)
            assert answer.not_found == ["none"]
            return [(session.session_id, session.version) for session in answer.sessions]

        for session_id in ("a", "b"):
            await wire.create(session_id)
        assert await versions() == [("a", 1), ("b", 1)]
        for session_id in ("a", "b"):
            await wire.call("TouchSession", s.TouchSessionRequest(session_id=session_id))
        assert await versions() == await versions(0, 0, 1) == [("a", 1), ("b", 1)], "copies will do"
        assert await versions(0, 9, 2) == [("a", 1), ("b", 2)]
        assert await versions(2, 0, 2) == [("a", 2), ("b", 2)]
        for consistency in (Consistency.CONSISTENCY_CACHED, Consistency.CONSISTENCY_STRONG):
            with pytest.raises(WireFailure) as caught:
                await versions(2, 0, 3, consistency=consistency)
            assert caught.value.reason == "VERSION_NOT_REACHED"
            assert caught.value.metadata["session_id"] == "b"


class Failing:
    """A writer that refuses everything."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def write(self, command: object) -> Any:
        raise self._error


async def test_a_full_queue_says_when_to_come_back() -> None:
    async with serving(writer=Failing(QueueFull(0.25))) as wire:
        with table() as rows:
            for rpc in COMMITS:
                with rows.row(rpc):
                    failure = await wire.failure(rpc, VALID[rpc])
                    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
                    assert failure.trailers["grpc-retry-pushback-ms"] == "250"


async def test_a_database_out_of_reach_is_unavailable() -> None:
    async with serving(writer=Failing(StoreUnavailable())) as wire:
        with table() as rows:
            for rpc in COMMITS:
                with rows.row(rpc):
                    failure = await wire.failure(rpc, VALID[rpc])
                    assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
