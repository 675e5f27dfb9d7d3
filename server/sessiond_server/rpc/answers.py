"""Builds responses as bytes, from stored bytes wherever nothing needs to be parsed."""

from collections.abc import Sequence
from typing import TypeVar

from sessiond.v1.context_service_pb2 import ListSummariesResponse
from sessiond.v1.document_pb2 import DocumentChange, DocumentName
from sessiond.v1.document_service_pb2 import BatchGetDocumentsResponse, ListDocumentsResponse
from sessiond.v1.message_service_pb2 import AppendMessagesResponse, DeleteMessagesResponse, ListMessagesResponse
from sessiond.v1.run_service_pb2 import HeartbeatRunResponse, ListRunsResponse
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import (
    BatchGetSessionsResponse,
    ListSessionsResponse,
    RunMetrics,
    SessionMetrics,
)
from sessiond.v1.tool_call_service_pb2 import ListPendingApprovalsResponse, ListToolCallsResponse
from sessiond_server.domain import encoding
from sessiond_server.domain.commands import LeaseExtended, MessagesAppended, MessagesDeleted, Outcome, SessionSnapshot
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.domain.times import microseconds, set_duration, set_timestamp
from sessiond_server.errors import VersionNotReached
from sessiond_server.store.session_reads import PAGE_BYTES

_BATCHED_SESSION = encoding.tag(BatchGetSessionsResponse.SESSIONS_FIELD_NUMBER)
_BATCHED_DOCUMENT = encoding.tag(BatchGetDocumentsResponse.DOCUMENTS_FIELD_NUMBER)
_LISTED_DOCUMENT = encoding.tag(ListDocumentsResponse.DOCUMENTS_FIELD_NUMBER)
_LISTED_RUN = encoding.tag(ListRunsResponse.RUNS_FIELD_NUMBER)
_LISTED_SUMMARY = encoding.tag(ListSummariesResponse.SUMMARIES_FIELD_NUMBER)
_LISTED_TOOL_CALL = encoding.tag(ListToolCallsResponse.TOOL_CALLS_FIELD_NUMBER)
_PENDING_TOOL_CALL = encoding.tag(ListPendingApprovalsResponse.TOOL_CALLS_FIELD_NUMBER)

O = TypeVar("O", bound=Outcome)  # noqa: E741 - an outcome


def outcome(kind: type[O], value: Outcome) -> O:
    """The outcome, checked to be of the expected kind. Raises TypeError for another kind, which is a defect."""
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def not_before(min_version: int, session_id: str, version: int) -> None:
    """Raises VersionNotReached if `version` is below `min_version`."""
    if version < min_version:
        raise VersionNotReached(session_id, version, min_version)


def older(snapshots: Sequence[SessionSnapshot | None], least: Sequence[int]) -> list[int]:
    """Indexes of snapshots below their least version. `least` is empty if the request has no least versions."""
    pairs = zip(snapshots, least, strict=False)
    return [place for place, (had, version) in enumerate(pairs) if had is not None and had.version < version]


def session(snapshot: SessionSnapshot) -> bytes:
    """A serialised Session, with its content if the snapshot has it."""
    return snapshot.core + snapshot.content


def listed_sessions(snapshots: Sequence[SessionSnapshot], next_page_token: str) -> bytes:
    rest = ListSessionsResponse(next_page_token=next_page_token).SerializeToString()
    return encoding.repeated(encoding.LISTED_SESSION, map(session, snapshots), rest)


def batch_of_sessions(session_ids: Sequence[str], snapshots: Sequence[SessionSnapshot | None]) -> bytes:
    """Stops before the session that would exceed PAGE_BYTES, but has at least one; all later ids are `omitted`."""
    rest = BatchGetSessionsResponse()
    items: list[bytes] = []
    size = 0
    for session_id, snapshot in zip(session_ids, snapshots, strict=True):
        if snapshot is None:
            rest.not_found.append(session_id)
            continue
        item = session(snapshot)
        if rest.omitted or (items and size + len(item) > PAGE_BYTES):
            rest.omitted.append(session_id)
            continue
        items.append(item)
        size += len(item)
    return encoding.repeated(_BATCHED_SESSION, items, rest.SerializeToString())


def metrics(snapshot: SessionSnapshot, run_counters: bytes) -> bytes:
    core = Session.FromString(snapshot.core)
    answer = SessionMetrics(
        session_id=core.session_id,
        version=snapshot.version,
        request_count=core.request_count,
        message_count=core.message_count,
        run_count=core.run_count,
        usage=core.usage,
    )
    active = max(microseconds(core.last_activity_time) - microseconds(core.create_time), 0)
    set_duration(answer.active_duration, active)
    answer.runs.CopyFrom(_run_metrics(core, RunCounters.decoded(run_counters)))
    return answer.SerializeToString()


def _run_metrics(core: Session, ended: RunCounters) -> RunMetrics:
    metrics = RunMetrics(
        queued_count=core.queued_run_count,
        running_count=1 if core.live_run_id else 0,
        completed_count=ended.completed,
        failed_count=ended.failed,
        cancelled_count=ended.cancelled,
        success_rate=ended.success_rate,
    )
    p95_us = ended.quantile_us(0.95)
    if p95_us is not None:
        set_duration(metrics.average_duration, ended.total_us // ended.timed)
        set_duration(metrics.p95_duration, p95_us)
    return metrics


def listed_summaries(summaries: Sequence[bytes], rest: ListSummariesResponse) -> bytes:
    return encoding.repeated(_LISTED_SUMMARY, summaries, rest.SerializeToString())


def lease(extended: LeaseExtended) -> bytes:
    response = HeartbeatRunResponse()
    set_timestamp(response.lease_expire_time, extended.lease_expire_time_us)
    set_duration(response.lease, extended.lease_us)
    return response.SerializeToString()


def listed_runs(runs: Sequence[bytes], rest: ListRunsResponse) -> bytes:
    return encoding.repeated(_LISTED_RUN, runs, rest.SerializeToString())


def listed_tool_calls(tool_calls: Sequence[bytes], rest: ListToolCallsResponse) -> bytes:
    return encoding.repeated(_LISTED_TOOL_CALL, tool_calls, rest.SerializeToString())


def pending(tool_calls: Sequence[bytes], rest: ListPendingApprovalsResponse) -> bytes:
    return encoding.repeated(_PENDING_TOOL_CALL, tool_calls, rest.SerializeToString())


def appended(done: MessagesAppended) -> bytes:
    response = AppendMessagesResponse(version=done.version, first_seq=done.first_seq, message_ids=done.message_ids)
    set_timestamp(response.create_time, done.create_time_us)
    response.documents.extend(map(DocumentChange.FromString, done.documents))
    return response.SerializeToString()


def listed_messages(messages: Sequence[bytes], rest: ListMessagesResponse) -> bytes:
    return encoding.repeated(encoding.LISTED_MESSAGE, messages, rest.SerializeToString())


def deleted_messages(done: MessagesDeleted) -> bytes:
    response = DeleteMessagesResponse(version=done.version, seqs=done.seqs, message_ids=done.message_ids)
    set_timestamp(response.delete_time, done.delete_time_us)
    return response.SerializeToString() + done.messages


def batch_of_documents(names: Sequence[DocumentName], documents: Sequence[bytes | None]) -> bytes:
    """`documents` as of DocumentReads.get_documents."""
    rest = BatchGetDocumentsResponse(
        not_found=[name for name, document in zip(names, documents, strict=True) if document is None],
        omitted=[name for name, document in zip(names, documents, strict=True) if document == b""],
    )
    return encoding.repeated(_BATCHED_DOCUMENT, filter(None, documents), rest.SerializeToString())


def listed_documents(documents: Sequence[bytes], next_page_token: str) -> bytes:
    rest = ListDocumentsResponse(next_page_token=next_page_token).SerializeToString()
    return encoding.repeated(_LISTED_DOCUMENT, documents, rest)
