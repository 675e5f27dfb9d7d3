"""The table from errors to gRPC status codes and reasons, and the status message with its details."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import status_pb2  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)

from sessiond.v1.error_pb2 import ErrorReason, ItemError
from sessiond_server import errors
from sessiond_server.errors import (
    ContextBudgetTooSmall,
    Exhausted,
    InvalidRequest,
    Refused,
    SessiondError,
    SessionQuotaReached,
    ToolBlocked,
    TooManyUploads,
)

DOMAIN: Final = "sessiond"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

MESSAGE_CHARACTERS: Final = 512
VIOLATION_BYTES: Final = 2048
"""Bounds of the text and of the violations, in bytes. With ids they stay below the peers' metadata limit of 8 KiB."""

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The form of one class of errors on the wire."""

    code: grpc.StatusCode
    reason: ErrorReason.ValueType

    @property
    def name(self) -> str:
        """The reason without its prefix, as in ErrorInfo."""
        return ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")


_C = grpc.StatusCode
_R = ErrorReason

TABLE: Final[Mapping[type[SessiondError], Row]] = MappingProxyType(
    {
        errors.MalformedRequest: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_MALFORMED_REQUEST),
        errors.InvalidFields: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_FIELD),
        errors.RequestTooLarge: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_REQUEST_TOO_LARGE),
        errors.InvalidPageToken: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_PAGE_TOKEN),
        errors.InvalidPosition: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_POSITION),
        errors.RequestIdReused: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_REQUEST_ID_REUSED),
        errors.SessionNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_SESSION_NOT_FOUND),
        errors.MessageNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_MESSAGE_NOT_FOUND),
        errors.SessionAlreadyExists: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_SESSION_ALREADY_EXISTS),
        errors.MessageAlreadyExists: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_MESSAGE_ALREADY_EXISTS),
        errors.IllegalTransition: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_ILLEGAL_TRANSITION),
        errors.SessionNotActive: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_SESSION_NOT_ACTIVE),
        errors.SessionEnded: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_SESSION_ENDED),
        errors.ToolBlocked: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_TOOL_BLOCKED),
        errors.MessageLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_MESSAGE_LIMIT_REACHED),
        errors.ContextBudgetTooSmall: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_CONTEXT_BUDGET_TOO_SMALL),
        errors.DeletionTooLarge: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_DELETION_TOO_LARGE),
        errors.ForkLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_FORK_LIMIT_REACHED),
        errors.RewindLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_REWIND_LIMIT_REACHED),
        errors.MessageShared: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_MESSAGE_SHARED),
        errors.VersionNotReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_VERSION_NOT_REACHED),
        errors.SearchOff: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_SEARCH_OFF),
        errors.SummariserOff: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_SUMMARISER_OFF),
        errors.VersionMismatch: Row(_C.ABORTED, _R.ERROR_REASON_VERSION_MISMATCH),
        errors.PositionCompacted: Row(_C.OUT_OF_RANGE, _R.ERROR_REASON_POSITION_COMPACTED),
        errors.PositionLost: Row(_C.DATA_LOSS, _R.ERROR_REASON_POSITION_LOST),
        errors.QueueFull: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_QUEUE_FULL),
        errors.TooManyCalls: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_TOO_MANY_CALLS),
        errors.TooManyWatchers: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_TOO_MANY_WATCHERS),
        errors.WatcherTooSlow: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_WATCHER_TOO_SLOW),
        errors.SessionQuotaReached: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_SESSION_QUOTA_REACHED),
        errors.Unauthenticated: Row(_C.UNAUTHENTICATED, _R.ERROR_REASON_UNAUTHENTICATED),
        errors.ScopeMissing: Row(_C.PERMISSION_DENIED, _R.ERROR_REASON_SCOPE_MISSING),
        errors.TokenForbids: Row(_C.PERMISSION_DENIED, _R.ERROR_REASON_TOKEN_FORBIDS),
        errors.Starting: Row(_C.UNAVAILABLE, _R.ERROR_REASON_STARTING),
        errors.Draining: Row(_C.UNAVAILABLE, _R.ERROR_REASON_DRAINING),
        errors.SessionLocked: Row(_C.UNAVAILABLE, _R.ERROR_REASON_SESSION_LOCKED),
        errors.StoreUnavailable: Row(_C.UNAVAILABLE, _R.ERROR_REASON_STORE_UNAVAILABLE),
        errors.DeadlinePassed: Row(_C.DEADLINE_EXCEEDED, _R.ERROR_REASON_DEADLINE_EXCEEDED),
        errors.AttachmentNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_ATTACHMENT_NOT_FOUND),
        errors.UploadNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_UPLOAD_NOT_FOUND),
        errors.AttachmentAlreadyExists: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_ATTACHMENT_ALREADY_EXISTS),
        errors.UploadDeclaredOtherwise: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_UPLOAD_DECLARED_OTHERWISE),
        errors.AttachmentLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_ATTACHMENT_LIMIT_REACHED),
        errors.AttachmentTooLarge: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_ATTACHMENT_TOO_LARGE),
        errors.AttachmentSpaceExhausted: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_ATTACHMENT_SPACE_EXHAUSTED),
        errors.UploadIncomplete: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_UPLOAD_INCOMPLETE),
        errors.UploadTooLong: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_UPLOAD_TOO_LONG),
        errors.ChecksumMismatch: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_CHECKSUM_MISMATCH),
        errors.UploadOffsetMismatch: Row(_C.ABORTED, _R.ERROR_REASON_UPLOAD_OFFSET_MISMATCH),
        errors.UploadSuperseded: Row(_C.ABORTED, _R.ERROR_REASON_UPLOAD_SUPERSEDED),
        errors.TransferStalled: Row(_C.DEADLINE_EXCEEDED, _R.ERROR_REASON_TRANSFER_STALLED),
        errors.TooManyTransfers: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_TOO_MANY_TRANSFERS),
        errors.TooManyUploads: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_TOO_MANY_UPLOADS),
        errors.TooManySummaries: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_TOO_MANY_SUMMARIES),
        errors.AttachmentLost: Row(_C.DATA_LOSS, _R.ERROR_REASON_ATTACHMENT_LOST),
        errors.StorageUnavailable: Row(_C.UNAVAILABLE, _R.ERROR_REASON_STORAGE_UNAVAILABLE),
        errors.RunNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_RUN_NOT_FOUND),
        errors.ToolCallNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_TOOL_CALL_NOT_FOUND),
        errors.RunAlreadyExists: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_RUN_ALREADY_EXISTS),
        errors.ToolCallAlreadyExists: Row(_C.ALREADY_EXISTS, _R.ERROR_REASON_TOOL_CALL_ALREADY_EXISTS),
        errors.RunInProgress: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_RUN_IN_PROGRESS),
        errors.RunEnded: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_RUN_ENDED),
        errors.IllegalToolCallTransition: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_ILLEGAL_TOOL_CALL_TRANSITION),
        errors.ApprovalRequired: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_APPROVAL_REQUIRED),
        errors.ApprovalExpired: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_APPROVAL_EXPIRED),
        errors.ToolCallLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_TOOL_CALL_LIMIT_REACHED),
        errors.RunFenced: Row(_C.ABORTED, _R.ERROR_REASON_RUN_FENCED),
        errors.RunQueueFull: Row(_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_RUN_QUEUE_FULL),
        errors.DocumentNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_DOCUMENT_NOT_FOUND),
        errors.ErasureNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_ERASURE_NOT_FOUND),
        errors.UnderLegalHold: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_LEGAL_HOLD),
        errors.HoldNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_HOLD_NOT_FOUND),
        errors.TemplateNotFound: Row(_C.NOT_FOUND, _R.ERROR_REASON_TEMPLATE_NOT_FOUND),
        errors.TemplateVersionMismatch: Row(_C.ABORTED, _R.ERROR_REASON_TEMPLATE_VERSION_MISMATCH),
        errors.TemplateLimitReached: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_TEMPLATE_LIMIT_REACHED),
        errors.TemplateReadOnly: Row(_C.PERMISSION_DENIED, _R.ERROR_REASON_TEMPLATE_READ_ONLY),
        errors.DocumentVersionMismatch: Row(_C.ABORTED, _R.ERROR_REASON_DOCUMENT_VERSION_MISMATCH),
        errors.DocumentReadOnly: Row(_C.PERMISSION_DENIED, _R.ERROR_REASON_DOCUMENT_READ_ONLY),
        errors.DocumentLocked: Row(_C.UNAVAILABLE, _R.ERROR_REASON_DOCUMENT_LOCKED),
        errors.ExportOutdated: Row(_C.ABORTED, _R.ERROR_REASON_EXPORT_OUTDATED),
        errors.ImportRefused: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_IMPORT_REFUSED),
        errors.ImportIncomplete: Row(_C.INVALID_ARGUMENT, _R.ERROR_REASON_IMPORT_INCOMPLETE),
        errors.ImportSuperseded: Row(_C.ABORTED, _R.ERROR_REASON_IMPORT_SUPERSEDED),
        errors.TenantKeyDestroyed: Row(_C.FAILED_PRECONDITION, _R.ERROR_REASON_TENANT_KEY_DESTROYED),
        errors.TenantKeyUnavailable: Row(_C.UNAVAILABLE, _R.ERROR_REASON_TENANT_KEY_UNAVAILABLE),
        errors.InternalError: Row(_C.INTERNAL, _R.ERROR_REASON_INTERNAL),
    }
)
"""Error class -> row. Only leaves of the tree have rows; an error without one is answered as an InternalError."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The arguments of `ServicerContext.abort`."""

    code: grpc.StatusCode
    text: str
    trailers: Metadata


def item_error(error: SessiondError) -> ItemError | None:
    """The error as that of one item of a batch; None for one that a retry of the call may mend, and for a defect."""
    row = TABLE.get(type(error))
    retried = isinstance(error, Exhausted) and error.retry_after is not None
    if row is None or retried or row.code in (_C.UNAVAILABLE, _C.DEADLINE_EXCEEDED, _C.INTERNAL):
        return None
    code: int = row.code.value[0]
    item = ItemError(code=code, reason=row.reason, message=_clipped(error.message), metadata=error.metadata)
    if isinstance(error, InvalidRequest):
        for violation in error.violations:
            item.violations.add(field=_clipped(violation.field), description=_clipped(violation.description))
    return item


def answer(error: SessiondError) -> Answer:
    """The status for an error whose class is in TABLE. Raises KeyError for any other."""
    row = TABLE[type(error)]
    text = _clipped(error.message)
    code: int = row.code.value[0]
    status = status_pb2.Status(code=code, message=text, details=[_any(detail) for detail in _details(error, row)])
    trailers: Metadata = ((DETAILS_KEY, status.SerializeToString()),)
    if isinstance(error, Exhausted) and error.retry_after is not None:
        trailers += ((PUSHBACK_KEY, str(math.ceil(error.retry_after * 1000))),)
    return Answer(row.code, text, trailers)


def _details(error: SessiondError, row: Row) -> list[Message]:
    details: list[Message] = [ErrorInfo(reason=row.name, domain=DOMAIN, metadata=error.metadata)]
    if isinstance(error, InvalidRequest) and error.violations:
        details.append(_bad_request(error))
    elif isinstance(error, ToolBlocked | ContextBudgetTooSmall):
        details.append(_precondition(row.name, error.field, error))
    elif isinstance(error, Refused):
        session_id = error.metadata.get("session_id")
        details.append(_precondition(row.name, f"sessions/{session_id}" if session_id else "service", error))
    elif isinstance(error, SessionQuotaReached):
        details.append(QuotaFailure(violations=[QuotaFailure.Violation(subject="tenant", description=error.message)]))
    elif isinstance(error, TooManyUploads):
        details.append(QuotaFailure(violations=[QuotaFailure.Violation(subject="session", description=error.message)]))
    if isinstance(error, Exhausted) and error.retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(error.retry_after * 1000))
        details.append(retry)
    return details


def _bad_request(error: InvalidRequest) -> BadRequest:
    """The violations that fit into VIOLATION_BYTES; always the first."""
    bad = BadRequest()
    for violation in error.violations:
        bad.field_violations.add(field=_clipped(violation.field), description=_clipped(violation.description))
        if len(bad.field_violations) > 1 and bad.ByteSize() > VIOLATION_BYTES:
            del bad.field_violations[-1]
            break
    return bad


def _precondition(kind: str, subject: str, error: Refused) -> PreconditionFailure:
    violation = PreconditionFailure.Violation(type=kind, subject=subject, description=_clipped(error.message))
    return PreconditionFailure(violations=[violation])


def _clipped(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARACTERS else text[: MESSAGE_CHARACTERS - 4] + " ..."


def _any(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
