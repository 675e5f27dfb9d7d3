"""A valid request of each RPC, and the sessions that it needs."""

from typing import cast

from google.protobuf.duration_pb2 import Duration

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
from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope
from sessiond.v1.erasure_pb2 import ErasureReport
from sessiond.v1.retention_pb2 import RetentionPolicy
from sessiond.v1.run_pb2 import Failure, Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionStatus
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from tests.support.export_records import beginning
from tests.support.wire import Wire, header, said

ENDED = SessionStatus.SESSION_STATUS_ENDED


TENANT_WIDE = DocumentScope.DOCUMENT_SCOPE_TENANT
USER = DocumentScope.DOCUMENT_SCOPE_USER

LIVE = RunFence(run_id="r1", fence=2)
"""The live run of the session `busy`."""


WRITES = {
    "CreateSession": s.CreateSessionRequest(session=Session(session_id="new")),
    "ForkSession": s.ForkSessionRequest(session_id="active", message_id="m1", fork_session_id="branch"),
    "RewindSession": s.RewindSessionRequest(session_id="active", seq=1),
    "UpdateSession": s.UpdateSessionRequest(session=Session(session_id="active", name="Renamed")),
    "ActivateSession": s.ActivateSessionRequest(session_id="created"),
    "SuspendSession": s.SuspendSessionRequest(session_id="active"),
    "ResumeSession": s.ResumeSessionRequest(session_id="suspended"),
    "EndSession": s.EndSessionRequest(session_id="active"),
    "TouchSession": s.TouchSessionRequest(session_id="active"),
    "DeleteSession": s.DeleteSessionRequest(session_id="active"),
    "EraseUser": s.EraseUserRequest(user_id="ann"),
    "PutTemplate": tp.PutTemplateRequest(template=tp.Template(template_id="t", session=Session(name="n"))),
    "DeleteTemplate": tp.DeleteTemplateRequest(template_id="kept"),
    "BatchDeleteSessions": s.BatchDeleteSessionsRequest(session_ids=["active", "none", "ended"]),
    "BatchCreateSessions": s.BatchCreateSessionsRequest(
        sessions=[s.NewSession(session=Session(session_id=name)) for name in ("fresh", "active")]
    ),
    "BatchUpdateSessions": s.BatchUpdateSessionsRequest(
        updates=[
            s.SessionUpdate(session=Session(session_id=name, name="Renamed")) for name in ("active", "none", "ended")
        ]
    ),
    "AppendMessages": m.AppendMessagesRequest(session_id="active", messages=[said("a"), said("b", message_id="given")]),
    "RedactMessage": m.RedactMessageRequest(session_id="active", message_id="m1", reason="asked"),
    "DeleteMessages": m.DeleteMessagesRequest(
        session_id="active", ids=m.MessageIds(message_ids=["m1"]), return_messages=True
    ),
    "PublishDelta": e.PublishDeltaRequest(session_id="active", deltas=[e.Delta(message_id="m2", text="so")]),
    "UploadAttachment": header("active", "new"),
    "DeleteAttachment": a.DeleteAttachmentRequest(session_id="small", attachment_id="a1"),
    "BeginRun": r.BeginRunRequest(session_id="active", run=Run(run_id="r2")),
    "HeartbeatRun": r.HeartbeatRunRequest(session_id="busy", run=LIVE),
    "FinishRun": r.FinishRunRequest(session_id="busy", run=LIVE, status=RunStatus.RUN_STATUS_COMPLETED),
    "CancelRun": r.CancelRunRequest(session_id="busy", run_id="r1"),
    "RequestToolCall": t.RequestToolCallRequest(session_id="active", tool_call=ToolCall(name="search")),
    "ApproveToolCall": t.ApproveToolCallRequest(session_id="busy", tool_call_id="asked", approver="Ada", reason="ok"),
    "RejectToolCall": t.RejectToolCallRequest(session_id="busy", tool_call_id="asked", run=LIVE),
    "StartToolCall": t.StartToolCallRequest(session_id="busy", tool_call_id="plain", run=LIVE),
    "CompleteToolCall": t.CompleteToolCallRequest(
        session_id="busy", tool_call_id="running", result=ToolData(text="found")
    ),
    "FailToolCall": t.FailToolCallRequest(session_id="busy", tool_call_id="running", error=Failure(code="broken")),
    "CancelToolCall": t.CancelToolCallRequest(session_id="busy", tool_call_id="running"),
    "PutDocument": d.PutDocumentRequest(document=Document(scope=USER, scope_id="ann", key="likes", json='["tea"]')),
    "DeleteDocument": d.DeleteDocumentRequest(scope=TENANT_WIDE, key="settings"),
    "CreateSummary": x.CreateSummaryRequest(session_id="active", summary=Summary(through_seq=2, text="Greetings.")),
    "RequestSummary": x.RequestSummaryRequest(session_id="active"),
    "ImportSession": beginning("imported"),
    "PlaceHold": h.PlaceHoldRequest(session_id="active", reason="case 7"),
    "LiftHold": h.LiftHoldRequest(hold_id="of stock", reason="closed"),
    "SetRetentionPolicy": h.SetRetentionPolicyRequest(policy=RetentionPolicy(ended_retention=Duration(seconds=90))),
}
"""LiftHold names the hold that `stock` places: `stock` puts its id here, which the server makes."""


UNSTORED = frozenset(["PublishDelta", "HeartbeatRun", "RequestSummary"])
"""Need the scope of a write, and make no event: there is no request id."""


STREAMED = frozenset(["UploadAttachment", "ImportSession"])
"""The request id of an upload is that of the first message of its stream; see test_uploads.py. An import has none."""


BESIDE = frozenset(["EraseUser", "PlaceHold", "LiftHold", "SetRetentionPolicy", "PutTemplate", "DeleteTemplate"])
"""Writes to no session and by no command: see test_erasures.py, test_holds.py and test_templates.py of
tests/conformance."""


COMMITS = [rpc for rpc in WRITES if rpc not in UNSTORED | STREAMED | BESIDE]


READS = {
    "GetSession": s.GetSessionRequest(session_id="active"),
    "BatchGetSessions": s.BatchGetSessionsRequest(session_ids=["ended", "none", "active"]),
    "ListSessions": s.ListSessionsRequest(filter=s.SessionFilter(statuses=[ENDED])),
    "CountSessions": s.CountSessionsRequest(),
    "CreateSessionToken": s.CreateSessionTokenRequest(session_id="active"),
    "GetErasure": s.GetErasureRequest(user_id="gone"),
    "ListForks": s.ListForksRequest(session_id="active"),
    "GetSessionMetrics": s.GetSessionMetricsRequest(session_id="active"),
    "GetMessage": m.GetMessageRequest(session_id="active", message_id="m1"),
    "ListMessages": m.ListMessagesRequest(session_id="active"),
    "WatchSession": e.WatchSessionRequest(session_id="active"),
    "WatchEvents": e.WatchEventsRequest(),
    "ListEvents": e.ListEventsRequest(session_id="active"),
    "GetUploadStatus": a.GetUploadStatusRequest(session_id="small", attachment_id="a1"),
    "DownloadAttachment": a.DownloadAttachmentRequest(session_id="small", attachment_id="a1"),
    "GetAttachment": a.GetAttachmentRequest(session_id="small", attachment_id="a1"),
    "ListAttachments": a.ListAttachmentsRequest(session_id="small"),
    "GetRun": r.GetRunRequest(session_id="busy", run_id="r1"),
    "ListRuns": r.ListRunsRequest(session_id="busy"),
    "GetToolCall": t.GetToolCallRequest(session_id="busy", tool_call_id="asked"),
    "ListToolCalls": t.ListToolCallsRequest(session_id="busy", run_id="r1"),
    "ListPendingApprovals": t.ListPendingApprovalsRequest(),
    "GetDocument": d.GetDocumentRequest(scope=TENANT_WIDE, key="settings"),
    "BatchGetDocuments": d.BatchGetDocumentsRequest(
        names=[DocumentName(scope=TENANT_WIDE, key=key) for key in ("none", "settings")]
    ),
    "SearchMessages": q.SearchMessagesRequest(query="hello"),
    "SearchSessions": q.SearchSessionsRequest(query="far"),
    "GetTemplate": tp.GetTemplateRequest(template_id="kept"),
    "ListTemplates": tp.ListTemplatesRequest(),
    "GetUsage": u.GetUsageRequest(group_by=[u.UsageDimension.USAGE_DIMENSION_AGENT]),
    "ListDocuments": d.ListDocumentsRequest(scope=TENANT_WIDE, key_prefix="set"),
    "GetContext": x.GetContextRequest(session_id="active", max_tokens=1000),
    "ListSummaries": x.ListSummariesRequest(session_id="busy"),
    "ExportSession": ex.ExportSessionRequest(session_id="active"),
    "ListHolds": h.ListHoldsRequest(),
    "GetRetentionPolicy": h.GetRetentionPolicyRequest(),
    "ListErasures": s.ListErasuresRequest(),
    "VerifyErasureReport": h.VerifyErasureReportRequest(report=ErasureReport(json="{}", signature=bytes(32))),
}


VALID = {**WRITES, **READS}


OFFICE = {
    **dict.fromkeys(("PlaceHold", "LiftHold", "ListHolds"), "holds:write"),
    "SetRetentionPolicy": "retention:write",
}
"""RPCs that need a scope of their own."""


async def stock(wire: Wire) -> None:
    """Sessions named by their status, `active` at version 2 with the message m1; `small` with the attachment a1; `busy`
    at version 6 with the live run r1 and the tool calls asked, plain and running.
    The tenant has the document `settings`, an erasure of the user `gone` is under way, and the user `held` is under a
    legal hold. The lease of r1 is an hour: the server of a module may live longer than the default."""
    await wire.create("created", active=False)
    await wire.create("active", summary="so far")
    message = said("hello", message_id="m1")
    await wire.call("AppendMessages", m.AppendMessagesRequest(session_id="active", messages=[message]))
    await wire.create("suspended")
    await wire.call("SuspendSession", s.SuspendSessionRequest(session_id="suspended"))
    await wire.create("ended")
    await wire.call("EndSession", s.EndSessionRequest(session_id="ended"))
    await wire.create("small", config=SessionConfig(max_messages=1, blocked_tools=["rm"], max_attachments=1))
    await wire.call("UploadAttachment", header("small", "a1", name="a.csv"))
    await wire.create("busy", config=SessionConfig(blocked_tools=["rm"]))
    await wire.call(
        "BeginRun", r.BeginRunRequest(session_id="busy", run=Run(run_id="r1", lease=Duration(seconds=3600)))
    )
    for name in ("asked", "plain", "running"):
        asked = ToolCall(tool_call_id=name, name="search", requires_approval=name == "asked")
        asked.arguments.text = "{}"
        await wire.call("RequestToolCall", t.RequestToolCallRequest(session_id="busy", tool_call=asked, run=LIVE))
    await wire.call("StartToolCall", t.StartToolCallRequest(session_id="busy", tool_call_id="running"))
    await wire.call("EraseUser", s.EraseUserRequest(user_id="gone"))
    hold = await wire.call("PlaceHold", h.PlaceHoldRequest(user_id="held", reason="case 1"))
    cast("h.LiftHoldRequest", WRITES["LiftHold"]).hold_id = hold.hold_id
    await wire.call("PutTemplate", tp.PutTemplateRequest(template=tp.Template(template_id="kept")))
    document = Document(scope=TENANT_WIDE, key="settings", json="{}", labels={"kind": "x"})
    await wire.call("PutDocument", d.PutDocumentRequest(document=document))
