"""One call of each RPC, by the method of the client that makes it."""

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import sessiond
from sessiond.export_lines import line_of
from tests.support.export_records import small_export
from tests.support.scripted_server import METHODS

Call = Callable[..., Awaitable[Any]]

FENCE = sessiond.RunFence(run_id="r", fence=3)

READS: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "GetSession": lambda client: lambda **kw: client.get_session("s", **kw),
    "BatchGetSessions": lambda client: lambda **kw: client.batch_get_sessions(["s"], **kw),
    "ListSessions": lambda client: lambda **kw: client.list_sessions(**kw).page(),
    "CountSessions": lambda client: lambda **kw: client.count_sessions(**kw),
    "GetSessionMetrics": lambda client: lambda **kw: client.get_session_metrics("s", **kw),
    "GetMessage": lambda client: lambda **kw: client.get_message("s", "m", **kw),
    "ListMessages": lambda client: lambda **kw: client.list_messages("s", **kw).page(),
    "GetContext": lambda client: lambda **kw: client.get_context("s", **kw),
    "ListSummaries": lambda client: lambda **kw: client.list_summaries("s", **kw).page(),
    "GetRun": lambda client: lambda **kw: client.get_run("s", "r", **kw),
    "ListRuns": lambda client: lambda **kw: client.list_runs("s", **kw).page(),
    "GetToolCall": lambda client: lambda **kw: client.get_tool_call("s", "t", **kw),
    "ListToolCalls": lambda client: lambda **kw: client.list_tool_calls("s", **kw).page(),
}

WRITES: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "CreateSession": lambda client: lambda **kw: client.create_session("s", **kw),
    "ForkSession": lambda client: lambda **kw: client.fork_session("s", at=3, name="n", **kw),
    "RewindSession": lambda client: lambda **kw: client.rewind_session("s", to=3, **kw),
    "UpdateSession": lambda client: lambda **kw: client.update_session("s", name="n", **kw),
    "ActivateSession": lambda client: lambda **kw: client.activate_session("s", **kw),
    "SuspendSession": lambda client: lambda **kw: client.suspend_session("s", **kw),
    "ResumeSession": lambda client: lambda **kw: client.resume_session("s", **kw),
    "EndSession": lambda client: lambda **kw: client.end_session("s", **kw),
    "TouchSession": lambda client: lambda **kw: client.touch_session("s", **kw),
    "DeleteSession": lambda client: lambda **kw: client.delete_session("s", **kw),
    "EraseUser": lambda client: lambda **kw: client.erase_user("u", **kw),
    "PlaceHold": lambda client: lambda **kw: client.place_hold(user_id="u", reason="r", **kw),
    "BatchDeleteSessions": lambda client: lambda **kw: client.batch_delete_sessions(["s"], **kw),
    "BatchCreateSessions": lambda client: lambda **kw: client.batch_create_sessions([{"session_id": "s"}], **kw),
    "BatchUpdateSessions": lambda client: (
        lambda **kw: client.batch_update_sessions([{"session_id": "s", "name": "n"}], **kw)
    ),
    "AppendMessages": lambda client: lambda **kw: client.append_messages("s", [sessiond.user("hi")], **kw),
    "RedactMessage": lambda client: lambda **kw: client.redact_message("s", "m", **kw),
    "DeleteMessages": lambda client: lambda **kw: client.delete_messages("s", last_n=1, **kw),
    "CreateSummary": lambda client: lambda **kw: client.create_summary("s", "text", 1, **kw),
    "BeginRun": lambda client: lambda **kw: client.begin_run("s", **kw),
    "FinishRun": lambda client: lambda **kw: client.finish_run("s", FENCE, **kw),
    "CancelRun": lambda client: lambda **kw: client.cancel_run("s", "r", **kw),
    "RequestToolCall": lambda client: lambda **kw: client.request_tool_call("s", "tool", **kw),
    "ApproveToolCall": lambda client: lambda **kw: client.approve_tool_call("s", "t", **kw),
    "RejectToolCall": lambda client: lambda **kw: client.reject_tool_call("s", "t", **kw),
    "StartToolCall": lambda client: lambda **kw: client.start_tool_call("s", "t", **kw),
    "CompleteToolCall": lambda client: lambda **kw: client.complete_tool_call("s", "t", **kw),
    "FailToolCall": lambda client: lambda **kw: client.fail_tool_call("s", "t", "code", **kw),
    "CancelToolCall": lambda client: lambda **kw: client.cancel_tool_call("s", "t", **kw),
    "DeleteAttachment": lambda client: lambda **kw: client.delete_attachment("s", "a", **kw),
    "PutDocument": lambda client: lambda **kw: client.put_document("k", {"a": 1}, user_id="u", **kw),
    "PutTemplate": lambda client: lambda **kw: client.put_template("t", sessiond.Session(name="n"), **kw),
    "DeleteTemplate": lambda client: lambda **kw: client.delete_template("t", **kw),
    "DeleteDocument": lambda client: lambda **kw: client.delete_document("k", user_id="u", **kw),
}

OTHERS: Mapping[str, Callable[[sessiond.Client], Call]] = {
    "ListEvents": lambda client: lambda **kw: client.list_events("s", **kw).page(),
    "PublishDelta": lambda client: lambda **kw: client.publish_delta("s", [sessiond.Delta(text="t")], **kw),
    "HeartbeatRun": lambda client: lambda **kw: client.heartbeat_run("s", FENCE, **kw),
    "RequestSummary": lambda client: lambda **kw: client.request_summary("s", **kw),
    "ListPendingApprovals": lambda client: lambda **kw: client.list_pending_approvals(**kw).page(),
    "GetErasure": lambda client: lambda **kw: client.get_erasure("u", **kw),
    "LiftHold": lambda client: lambda **kw: client.lift_hold("h", **kw),
    "ListHolds": lambda client: lambda **kw: client.list_holds(**kw).page(),
    "ListErasures": lambda client: lambda **kw: client.list_erasures(**kw).page(),
    "VerifyErasureReport": lambda client: lambda **kw: client.verify_erasure_report(sessiond.ErasureReport(), **kw),
    "SetRetentionPolicy": lambda client: lambda **kw: client.set_retention_policy(None, **kw),
    "GetRetentionPolicy": lambda client: lambda **kw: client.get_retention_policy(**kw),
    "CreateSessionToken": lambda client: lambda **kw: client.create_session_token("s", **kw),
    "GetUploadStatus": lambda client: lambda **kw: client.get_upload_status("s", "a", **kw),
    "GetAttachment": lambda client: lambda **kw: client.get_attachment("s", "a", **kw),
    "ListAttachments": lambda client: lambda **kw: client.list_attachments("s", **kw).page(),
    "ListForks": lambda client: lambda **kw: client.list_forks("s", **kw).page(),
    "GetDocument": lambda client: lambda **kw: client.get_document("k", user_id="u", **kw),
    "BatchGetDocuments": lambda client: lambda **kw: client.batch_get_documents([sessiond.document_name("k")], **kw),
    "SearchMessages": lambda client: lambda **kw: client.search_messages("hello", **kw).page(),
    "SearchSessions": lambda client: lambda **kw: client.search_sessions("hello", **kw).page(),
    "ListDocuments": lambda client: lambda **kw: client.list_documents(user_id="u", **kw).page(),
    "GetTemplate": lambda client: lambda **kw: client.get_template("t", **kw),
    "ListTemplates": lambda client: lambda **kw: client.list_templates(**kw).page(),
    "GetUsage": lambda client: lambda **kw: client.get_usage(group_by=["day", "model"], **kw).page(),
}
"""Neither with a freshness of one's choice nor with a request id."""

ALL = {**READS, **WRITES, **OTHERS}
"""That have one answer."""

STREAMS: Mapping[str, Callable[[sessiond.Client], Any]] = {
    "WatchSession": lambda client: client.watch("s"),
    "WatchEvents": lambda client: client.watch_events(),
}
"""Read as async iterators."""


def exported(client: sessiond.Client) -> Awaitable[Any]:
    return client.export_session("s", Path(tempfile.mkdtemp()) / "s")


def imported(client: sessiond.Client) -> Awaitable[Any]:
    path = Path(tempfile.mkdtemp()) / "s"
    path.write_bytes(b"".join(map(line_of, small_export())))
    return client.import_session(path)


TRANSFERS: Mapping[str, Callable[[sessiond.Client], Awaitable[Any]]] = {
    "UploadAttachment": lambda client: client.upload("s", b"content"),
    "DownloadAttachment": lambda client: client.download("s", "a").read(),
    "ExportSession": exported,
    "ImportSession": imported,
}
"""Without a deadline, and resumed."""


def takes(rpc: str, field: str) -> bool:
    """Whether the RPC's request has the field."""
    return field in METHODS[rpc].input_type.fields_by_name
