"""A request of every RPC that names a session, and bob's sessions that they name."""

from google.protobuf.message import Message as ProtoMessage

from sessiond.v1 import attachment_service_pb2 as a
from sessiond.v1 import context_service_pb2 as x
from sessiond.v1 import document_service_pb2 as d
from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import export_service_pb2 as ex
from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import run_pb2
from sessiond.v1 import run_service_pb2 as r
from sessiond.v1 import search_service_pb2 as q
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1 import tool_call_service_pb2 as t
from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope
from sessiond.v1.run_pb2 import Run, RunFence, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall
from tests.support.wire import BOB, Wire, header, said

SESSION = DocumentScope.DOCUMENT_SCOPE_SESSION

LIVE = RunFence(run_id="r1", fence=4)
"""The run that is live in bob's sessions."""


def named(session_id: str) -> dict[str, ProtoMessage]:
    """One request for every RPC that names a session."""
    return {
        "GetSession": s.GetSessionRequest(session_id=session_id, min_version=1000),
        "BatchGetSessions": s.BatchGetSessionsRequest(session_ids=[session_id]),
        "ForkSession": s.ForkSessionRequest(
            session_id=session_id, seq=99, fork_session_id="alice~new", expected_version=77
        ),
        "ListForks": s.ListForksRequest(session_id=session_id),
        "RewindSession": s.RewindSessionRequest(session_id=session_id, seq=99, expected_version=77),
        "UpdateSession": s.UpdateSessionRequest(session=Session(session_id=session_id, name="x"), expected_version=77),
        "ActivateSession": s.ActivateSessionRequest(session_id=session_id),
        "SuspendSession": s.SuspendSessionRequest(session_id=session_id, request_id="used"),
        "ResumeSession": s.ResumeSessionRequest(session_id=session_id),
        "EndSession": s.EndSessionRequest(session_id=session_id, expected_version=77),
        "TouchSession": s.TouchSessionRequest(session_id=session_id),
        "DeleteSession": s.DeleteSessionRequest(session_id=session_id, expected_version=77),
        "BatchDeleteSessions": s.BatchDeleteSessionsRequest(session_ids=[session_id]),
        "BatchUpdateSessions": s.BatchUpdateSessionsRequest(
            updates=[s.SessionUpdate(session=Session(session_id=session_id, name="x"))], expected_versions=[77]
        ),
        "GetSessionMetrics": s.GetSessionMetricsRequest(session_id=session_id, min_version=1000),
        "CreateSessionToken": s.CreateSessionTokenRequest(session_id=session_id),
        "AppendMessages": m.AppendMessagesRequest(session_id=session_id, messages=[said("x", message_id="m1")]),
        "GetMessage": m.GetMessageRequest(session_id=session_id, message_id="m1"),
        "CreateSummary": x.CreateSummaryRequest(
            session_id=session_id, summary=Summary(through_seq=1, text="x"), request_id="used", expected_version=77
        ),
        "RequestSummary": x.RequestSummaryRequest(session_id=session_id),
        "GetContext": x.GetContextRequest(session_id=session_id, min_version=1000),
        "ListSummaries": x.ListSummariesRequest(session_id=session_id, min_version=1000),
        "ListMessages": m.ListMessagesRequest(session_id=session_id, min_version=1000),
        "RedactMessage": m.RedactMessageRequest(session_id=session_id, message_id="m1"),
        "DeleteMessages": m.DeleteMessagesRequest(session_id=session_id, last_n=1),
        "WatchSession": e.WatchSessionRequest(session_id=session_id),
        "ListEvents": e.ListEventsRequest(session_id=session_id),
        "PublishDelta": e.PublishDeltaRequest(session_id=session_id, deltas=[e.Delta(message_id="m", typing=True)]),
        "UploadAttachment": header(session_id, "a1"),
        "GetUploadStatus": a.GetUploadStatusRequest(session_id=session_id, attachment_id="a1"),
        "DownloadAttachment": a.DownloadAttachmentRequest(session_id=session_id, attachment_id="a1", offset=1000),
        "GetAttachment": a.GetAttachmentRequest(session_id=session_id, attachment_id="a1"),
        "ListAttachments": a.ListAttachmentsRequest(session_id=session_id),
        "DeleteAttachment": a.DeleteAttachmentRequest(
            session_id=session_id, attachment_id="a1", request_id="used", expected_version=77
        ),
        "BeginRun": r.BeginRunRequest(session_id=session_id, run=Run(run_id="r1"), request_id="used"),
        "HeartbeatRun": r.HeartbeatRunRequest(session_id=session_id, run=LIVE),
        "FinishRun": r.FinishRunRequest(session_id=session_id, run=LIVE, status=RunStatus.RUN_STATUS_COMPLETED),
        "CancelRun": r.CancelRunRequest(session_id=session_id, run_id="r1"),
        "GetRun": r.GetRunRequest(session_id=session_id, run_id="r1", min_version=1000),
        "ListRuns": r.ListRunsRequest(session_id=session_id),
        "RequestToolCall": t.RequestToolCallRequest(
            session_id=session_id, tool_call=ToolCall(tool_call_id="t1", name="x"), run=LIVE
        ),
        "ApproveToolCall": t.ApproveToolCallRequest(session_id=session_id, tool_call_id="t1", expected_version=77),
        "RejectToolCall": t.RejectToolCallRequest(session_id=session_id, tool_call_id="t1"),
        "StartToolCall": t.StartToolCallRequest(session_id=session_id, tool_call_id="t1", run=LIVE),
        "CompleteToolCall": t.CompleteToolCallRequest(session_id=session_id, tool_call_id="t1"),
        "FailToolCall": t.FailToolCallRequest(session_id=session_id, tool_call_id="t1", error=run_pb2.Failure()),
        "CancelToolCall": t.CancelToolCallRequest(session_id=session_id, tool_call_id="t1"),
        "GetToolCall": t.GetToolCallRequest(session_id=session_id, tool_call_id="t1"),
        "ListToolCalls": t.ListToolCallsRequest(session_id=session_id, min_version=1000),
        "GetDocument": d.GetDocumentRequest(scope=SESSION, scope_id=session_id, key="d1"),
        "BatchGetDocuments": d.BatchGetDocumentsRequest(
            names=[DocumentName(scope=SESSION, scope_id=session_id, key="d1")]
        ),
        "SearchMessages": q.SearchMessagesRequest(
            query="secret", wait_for=q.SeenVersion(session_id=session_id, version=1)
        ),
        "SearchSessions": q.SearchSessionsRequest(
            query="secret", wait_for=q.SeenVersion(session_id=session_id, version=1)
        ),
        "ListDocuments": d.ListDocumentsRequest(scope=SESSION, scope_id=session_id),
        "PutDocument": d.PutDocumentRequest(
            document=Document(scope=SESSION, scope_id=session_id, key="d1", json="2"),
            request_id="used",
            expected_version=77,
        ),
        "ExportSession": ex.ExportSessionRequest(session_id=session_id),
        "DeleteDocument": d.DeleteDocumentRequest(scope=SESSION, scope_id=session_id, key="d1", expected_version=77),
    }


async def use(wire: Wire) -> None:
    for session_id in ("bobs", "gone"):
        await wire.create(session_id, user_id="bob", name="secret")
        request = m.AppendMessagesRequest(session_id=session_id, messages=[said("secret", message_id="m1")])
        await wire.call("AppendMessages", request, key=BOB)
        await wire.call("UploadAttachment", header(session_id, "a1"), key=BOB)
        await wire.call("BeginRun", r.BeginRunRequest(session_id=session_id, run=Run(run_id="r1")), key=BOB)
        asked = ToolCall(tool_call_id="t1", name="secret", requires_approval=True)
        await wire.call("RequestToolCall", t.RequestToolCallRequest(session_id=session_id, tool_call=asked), key=BOB)
        document = Document(scope=SESSION, scope_id=session_id, key="d1", json='"secret"')
        await wire.call("PutDocument", d.PutDocumentRequest(document=document), key=BOB)
    await wire.call("TouchSession", s.TouchSessionRequest(session_id="bobs", request_id="used"), key=BOB)
    await wire.call("DeleteSession", s.DeleteSessionRequest(session_id="gone"), key=BOB)
