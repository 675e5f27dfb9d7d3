"""The table of the HTTP interface: which method and path stand for which RPC.

The requests, the OpenAPI document and docs/http.md follow from it. A test compares it with the services: every RPC has
a row, but those of exports and imports, which stream records.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from sessiond.v1 import (
    attachment_service_pb2,
    context_service_pb2,
    document_service_pb2,
    event_service_pb2,
    export_service_pb2,
    message_service_pb2,
    retention_service_pb2,
    run_service_pb2,
    search_service_pb2,
    session_service_pb2,
    template_service_pb2,
    tool_call_service_pb2,
    usage_service_pb2,
)

AI_SDK: Final = "ai-sdk"
AG_UI: Final = "ag-ui"
"""As `Rule.form`: a run as a stream of Vercel's AI SDK, or of AG-UI."""
WHOLE: Final = "*"
"""As `Rule.body`: the body is the request message, without what the path has."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: an RPC by a method and a path."""

    rpc: str
    """Name of the RPC, which no two services share."""
    method: str
    path: str
    """`{a.b}` is a field of the request, one segment of the path, percent-encoded."""
    body: str = ""
    """WHOLE, or the field of the request that the body is; empty: there is no body. Every field that neither path nor
    body has is a query parameter."""
    flat: tuple[str, ...] = ()
    """Fields whose own fields are query parameters without a prefix: `user_id` in place of `filter.user_id`."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Fields of the request that the path says by itself."""
    made: str = ""
    """The field of the answer that names what was made: the status is 201, and `Location` says where it is."""
    form: str = ""
    """AI_SDK or AG_UI, where the answer is not that of the RPC: see run_streams.py."""
    elsewhere: tuple[str, ...] = ()
    """Fields that are neither in the path nor parameters: of a file, what its headers and its body say."""


_SESSION: Final = "/v1/sessions/{session_id}"
_MESSAGE: Final = f"{_SESSION}/messages/{{message_id}}"
_RUN: Final = f"{_SESSION}/runs/{{run_id}}"
_LIVE_RUN: Final = f"{_SESSION}/runs/{{run.run_id}}"
_TOOL_CALL: Final = f"{_SESSION}/toolCalls/{{tool_call_id}}"
_ATTACHMENT: Final = f"{_SESSION}/attachments/{{attachment_id}}"
_UPLOAD: Final = "/v1/sessions/{header.session_id}/attachments/{header.attachment_id}"
_OF_FILE: Final = (
    "chunk",
    *(f"header.{name}" for name in ("media_type", "size_bytes", "sha256", "offset", "request_id")),
)

_OWNERS: Final = {
    "DOCUMENT_SCOPE_TENANT": "/v1/documents",
    "DOCUMENT_SCOPE_AGENT": "/v1/agents/{scope_id}/documents",
    "DOCUMENT_SCOPE_USER": "/v1/users/{scope_id}/documents",
    "DOCUMENT_SCOPE_SESSION": "/v1/sessions/{scope_id}/documents",
}


def _documents() -> Iterator[Rule]:
    """Documents lie below what they belong to."""
    for scope, path in _OWNERS.items():
        fixed = (("scope", scope), *((("scope_id", ""),) if "{" not in path else ()))
        yield Rule("ListDocuments", "GET", path, fixed=fixed)
        yield Rule("GetDocument", "GET", f"{path}/{{key}}", fixed=fixed)
        put = f"{path.replace('scope_id', 'document.scope_id')}/{{document.key}}"
        yield Rule(
            "PutDocument",
            "PUT",
            put,
            body="document",
            fixed=tuple((f"document.{name}", value) for name, value in fixed),
        )
        yield Rule("DeleteDocument", "DELETE", f"{path}/{{key}}", fixed=fixed)


RULES: Final = (
    Rule("CreateSession", "POST", "/v1/sessions", body="session", made="session_id"),
    Rule("ListSessions", "GET", "/v1/sessions", flat=("filter",)),
    Rule("CountSessions", "GET", "/v1/sessions:count", flat=("filter",)),
    Rule("BatchGetSessions", "POST", "/v1/sessions:batchGet", body=WHOLE),
    Rule("BatchCreateSessions", "POST", "/v1/sessions:batchCreate", body=WHOLE),
    Rule("BatchUpdateSessions", "POST", "/v1/sessions:batchUpdate", body=WHOLE),
    Rule("ListTemplates", "GET", "/v1/templates"),
    Rule("GetTemplate", "GET", "/v1/templates/{template_id}"),
    Rule("PutTemplate", "PUT", "/v1/templates/{template.template_id}", body="template"),
    Rule("DeleteTemplate", "DELETE", "/v1/templates/{template_id}"),
    Rule("GetUsage", "GET", "/v1/usage"),
    Rule("EraseUser", "POST", "/v1/users/{user_id}:erase", body=WHOLE),
    Rule("GetErasure", "GET", "/v1/users/{user_id}/erasure"),
    Rule("ListErasures", "GET", "/v1/erasures"),
    Rule("VerifyErasureReport", "POST", "/v1/erasures:verifyReport", body="report"),
    Rule("BatchDeleteSessions", "POST", "/v1/sessions:batchDelete", body=WHOLE),
    Rule("GetSession", "GET", _SESSION),
    Rule("UpdateSession", "PATCH", "/v1/sessions/{session.session_id}", body="session"),
    Rule("DeleteSession", "DELETE", _SESSION),
    Rule("ActivateSession", "POST", f"{_SESSION}:activate", body=WHOLE),
    Rule("SuspendSession", "POST", f"{_SESSION}:suspend", body=WHOLE),
    Rule("ResumeSession", "POST", f"{_SESSION}:resume", body=WHOLE),
    Rule("EndSession", "POST", f"{_SESSION}:end", body=WHOLE),
    Rule("TouchSession", "POST", f"{_SESSION}:touch", body=WHOLE),
    Rule("CreateSessionToken", "POST", f"{_SESSION}:createToken", body=WHOLE),
    Rule("ForkSession", "POST", f"{_SESSION}:fork", body=WHOLE),
    Rule("RewindSession", "POST", f"{_SESSION}:rewind", body=WHOLE),
    Rule("ListForks", "GET", f"{_SESSION}/forks"),
    Rule("GetSessionMetrics", "GET", f"{_SESSION}/metrics"),
    Rule("AppendMessages", "POST", f"{_SESSION}/messages", body=WHOLE),
    Rule("ListMessages", "GET", f"{_SESSION}/messages", flat=("filter",)),
    Rule("GetMessage", "GET", _MESSAGE),
    Rule("RedactMessage", "POST", f"{_MESSAGE}:redact", body=WHOLE),
    Rule("DeleteMessages", "POST", f"{_SESSION}/messages:delete", body=WHOLE),
    Rule("CreateSummary", "POST", f"{_SESSION}/summaries", body=WHOLE),
    Rule("RequestSummary", "POST", f"{_SESSION}/summaries:request", body=WHOLE),
    Rule("GetContext", "GET", f"{_SESSION}/context"),
    Rule("ListSummaries", "GET", f"{_SESSION}/summaries"),
    Rule("BeginRun", "POST", f"{_SESSION}/runs", body=WHOLE, made="run_id"),
    Rule("ListRuns", "GET", f"{_SESSION}/runs"),
    Rule("GetRun", "GET", _RUN),
    *(
        Rule("GetRun", method, f"{_RUN}/{name}", form=form, elsewhere=("min_version", "consistency"))
        for method, name, form in (("GET", "aiSdk", AI_SDK), ("GET", "agUi", AG_UI), ("POST", "agUi", AG_UI))
    ),
    Rule("HeartbeatRun", "POST", f"{_LIVE_RUN}:heartbeat", body=WHOLE),
    Rule("FinishRun", "POST", f"{_LIVE_RUN}:finish", body=WHOLE),
    Rule("CancelRun", "POST", f"{_RUN}:cancel", body=WHOLE),
    Rule("RequestToolCall", "POST", f"{_SESSION}/toolCalls", body=WHOLE, made="tool_call_id"),
    Rule("ListToolCalls", "GET", f"{_SESSION}/toolCalls"),
    Rule("GetToolCall", "GET", _TOOL_CALL),
    Rule("ApproveToolCall", "POST", f"{_TOOL_CALL}:approve", body=WHOLE),
    Rule("RejectToolCall", "POST", f"{_TOOL_CALL}:reject", body=WHOLE),
    Rule("StartToolCall", "POST", f"{_TOOL_CALL}:start", body=WHOLE),
    Rule("CompleteToolCall", "POST", f"{_TOOL_CALL}:complete", body=WHOLE),
    Rule("FailToolCall", "POST", f"{_TOOL_CALL}:fail", body=WHOLE),
    Rule("CancelToolCall", "POST", f"{_TOOL_CALL}:cancel", body=WHOLE),
    Rule("ListPendingApprovals", "GET", "/v1/toolCalls:pending"),
    Rule("WatchSession", "GET", f"{_SESSION}/events", flat=("filter",)),
    Rule("WatchEvents", "GET", "/v1/events", flat=("filter",)),
    Rule("ListEvents", "GET", f"{_SESSION}/log", flat=("filter",)),
    Rule("PublishDelta", "POST", f"{_SESSION}/deltas", body=WHOLE),
    Rule("ListAttachments", "GET", f"{_SESSION}/attachments"),
    Rule("GetAttachment", "GET", _ATTACHMENT),
    Rule("DeleteAttachment", "DELETE", _ATTACHMENT),
    Rule("UploadAttachment", "PUT", f"{_UPLOAD}/content", flat=("header",), elsewhere=_OF_FILE),
    Rule("DownloadAttachment", "GET", f"{_ATTACHMENT}/content", elsewhere=("offset", "length")),
    Rule("GetUploadStatus", "GET", f"{_ATTACHMENT}/upload"),
    *_documents(),
    Rule("BatchGetDocuments", "POST", "/v1/documents:batchGet", body=WHOLE),
    Rule("SearchMessages", "POST", "/v1/messages:search", body=WHOLE),
    Rule("SearchSessions", "POST", "/v1/sessions:search", body=WHOLE),
    Rule("PlaceHold", "POST", "/v1/holds", body=WHOLE),
    Rule("ListHolds", "GET", "/v1/holds"),
    Rule("SetRetentionPolicy", "PUT", "/v1/retentionPolicy", body="policy"),
    Rule("GetRetentionPolicy", "GET", "/v1/retentionPolicy"),
    Rule("LiftHold", "POST", "/v1/holds/{hold_id}:lift", body=WHOLE),
)

SERVICES: Final[tuple[ServiceDescriptor, ...]] = tuple(
    service
    for module in (
        session_service_pb2,
        message_service_pb2,
        run_service_pb2,
        tool_call_service_pb2,
        event_service_pb2,
        attachment_service_pb2,
        document_service_pb2,
        context_service_pb2,
        search_service_pb2,
        usage_service_pb2,
        template_service_pb2,
        export_service_pb2,
        retention_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""In the order of the OpenAPI document."""

RPCS: Final[Mapping[str, MethodDescriptor]] = {method.name: method for each in SERVICES for method in each.methods}


def grpc_path(rpc: MethodDescriptor) -> str:
    """The path of an RPC on gRPC's wire."""
    service = rpc.containing_service
    assert service is not None
    return f"/{service.full_name}/{rpc.name}"
