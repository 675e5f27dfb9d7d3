"""The errors that a call can raise, as a tree. The service's own errors have the same names. This module imports
neither grpc nor protobuf.

    SessiondError
    ├── InvalidRequest
    │   ├── MalformedRequest
    │   ├── InvalidFields
    │   ├── RequestTooLarge
    │   ├── InvalidPageToken
    │   ├── InvalidPosition
    │   ├── UploadIncomplete
    │   ├── UploadTooLong
    │   ├── ChecksumMismatch
    │   ├── ImportRefused
    │   ├── ImportIncomplete
    │   └── RequestIdReused
    ├── NotFound
    │   ├── SessionNotFound
    │   ├── RunNotFound
    │   ├── ToolCallNotFound
    │   ├── AttachmentNotFound
    │   ├── UploadNotFound
    │   ├── DocumentNotFound
    │   ├── ErasureNotFound
    │   ├── HoldNotFound
    │   ├── TemplateNotFound
    │   └── MessageNotFound
    ├── AlreadyExists
    │   ├── SessionAlreadyExists
    │   ├── RunAlreadyExists
    │   ├── ToolCallAlreadyExists
    │   ├── AttachmentAlreadyExists
    │   ├── UploadDeclaredOtherwise
    │   └── MessageAlreadyExists
    ├── Refused
    │   ├── IllegalTransition
    │   ├── SessionNotActive
    │   ├── SessionEnded
    │   ├── ToolBlocked
    │   ├── MessageLimitReached
    │   ├── DeletionTooLarge
    │   ├── ForkLimitReached
    │   ├── RewindLimitReached
    │   ├── TemplateLimitReached
    │   ├── MessageShared
    │   ├── UnderLegalHold
    │   ├── ContextBudgetTooSmall
    │   ├── AttachmentLimitReached
    │   ├── AttachmentTooLarge
    │   ├── AttachmentSpaceExhausted
    │   ├── RunInProgress
    │   ├── RunEnded
    │   ├── IllegalToolCallTransition
    │   ├── ApprovalRequired
    │   ├── ApprovalExpired
    │   ├── ToolCallLimitReached
    │   ├── SearchOff
    │   ├── SummariserOff
    │   ├── TenantKeyDestroyed
    │   └── VersionNotReached
    ├── VersionMismatch
    ├── DocumentVersionMismatch
    ├── TemplateVersionMismatch
    ├── RunFenced
    ├── TransferBroken
    │   ├── UploadOffsetMismatch
    │   ├── UploadSuperseded
    │   ├── ExportOutdated
    │   ├── ImportSuperseded
    │   └── TransferStalled
    ├── AttachmentLost
    ├── PositionGone
    │   ├── PositionCompacted
    │   └── PositionLost
    ├── Exhausted
    │   ├── QueueFull
    │   ├── TooManyCalls
    │   ├── TooManyWatchers
    │   ├── WatcherTooSlow
    │   ├── TooManyTransfers
    │   ├── TooManyUploads
    │   ├── TooManySummaries
    │   ├── RunQueueFull
    │   └── SessionQuotaReached
    ├── Unauthenticated
    ├── ScopeMissing
    ├── TokenForbids
    ├── DocumentReadOnly
    ├── TemplateReadOnly
    ├── Unavailable
    │   ├── Starting
    │   ├── Draining
    │   ├── SessionLocked
    │   ├── DocumentLocked
    │   ├── StorageUnavailable
    │   ├── TenantKeyUnavailable
    │   └── StoreUnavailable
    ├── DeadlinePassed
    └── InternalError

    ClientClosed, ClientForked (RuntimeErrors: defects of the caller, not answers)

Each leaf stands for one `ErrorReason`. A reason that this version does not know is raised as the parent class of its
status code, and as `SessiondError` itself where the code has no class, so `except Refused` keeps working with newer
servers. No error contains message contents.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks its rule."""

    field: str
    """The path of the field in the request message, such as `messages[3].parts[0].text`; of the argument, where the
    client itself refuses a text that no request can carry."""
    description: str
    """The rule, without the value."""


class SessiondError(Exception):
    """A call failed. Its cause (`__cause__`) is the `grpc.aio.AioRpcError`."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        """A text for people. Programs decide by class or reason, never by text."""
        self.reason = reason
        """The name of the `ErrorReason` without its prefix, such as SESSION_NOT_FOUND; empty when the service gave
        none, for example when it could not be reached."""
        self.code = code
        """The name of the gRPC status code, such as NOT_FOUND."""
        self.metadata: Mapping[str, str] = dict(metadata or {})
        """The values that `ErrorReason` documents for the reason."""
        self.violations = tuple(violations)
        """The fields that are at fault; empty when the error has another cause."""
        self.retry_after = retry_after
        """Seconds to wait before the next attempt; None when the service gave no time."""
        self.request_id = request_id
        """The idempotency key of the write that failed, for a retry of the same write; empty for reads."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r}, code={self.code!r})"

    def _number(self, key: str) -> int:
        value = self.metadata.get(key, "")
        return int(value) if value.isascii() and value.isdigit() else 0


class InvalidRequest(SessiondError):
    """The request can never succeed unchanged. `violations` names the fields that are at fault, if any."""


class MalformedRequest(InvalidRequest):
    """The service could not read the request."""


class InvalidFields(InvalidRequest):
    """Fields of the request break their rules; `violations` names them."""


class RequestTooLarge(InvalidRequest):
    """The request is larger than the service accepts."""

    @property
    def size_bytes(self) -> int:
        return self._number("size_bytes")

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class InvalidPageToken(InvalidRequest):
    """The page token was not made for this list with this filter and order."""


class InvalidPosition(InvalidRequest):
    """The position was not made for this stream, filter, tenant and user."""


class UploadIncomplete(InvalidRequest):
    """The bytes of an upload ended before the declared size. The upload can be resumed."""

    @property
    def size_bytes(self) -> int:
        """As declared."""
        return self._number("size_bytes")

    @property
    def committed_bytes(self) -> int:
        """The number of bytes that are stored: the offset to resume at."""
        return self._number("committed_bytes")


class UploadTooLong(InvalidRequest):
    """More bytes arrived than were declared. The service has abandoned the upload."""

    @property
    def size_bytes(self) -> int:
        """As declared."""
        return self._number("size_bytes")


class ImportRefused(InvalidRequest):
    """A line of an imported file is damaged or breaks a rule. Nothing of the file was imported."""

    @property
    def line(self) -> int:
        """Its number, from 1."""
        return self._number("line")


class ImportIncomplete(InvalidRequest):
    """An imported file ends early. Nothing of it is visible; a longer file can go on from there."""

    @property
    def line(self) -> int:
        """The last line that the service has stored."""
        return self._number("line")


class ChecksumMismatch(InvalidRequest):
    """The bytes do not have the declared SHA-256. The service has abandoned the upload."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class RequestIdReused(InvalidRequest):
    """The `request_id` was used for another request."""


class NotFound(SessiondError):
    """The resource does not exist, or the caller may not see it: the two cases look the same."""


class SessionNotFound(NotFound):
    """The session does not exist."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class MessageNotFound(NotFound):
    """The session has no such message."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def message_id(self) -> str:
        return self.metadata.get("message_id", "")


class DocumentNotFound(NotFound):
    """There is no such document, or it has expired."""

    @property
    def key(self) -> str:
        return self.metadata.get("key", "")


class ErasureNotFound(NotFound):
    """The user has never been erased."""

    @property
    def user_id(self) -> str:
        return self.metadata.get("user_id", "")


class HoldNotFound(NotFound):
    """The tenant has no such legal hold."""

    @property
    def hold_id(self) -> str:
        return self.metadata.get("hold_id", "")


class TemplateNotFound(NotFound):
    """The tenant has no such template."""

    @property
    def template_id(self) -> str:
        return self.metadata.get("template_id", "")


class AttachmentNotFound(NotFound):
    """The session has no such attachment."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class UploadNotFound(NotFound):
    """Neither an unfinished upload nor an attachment has the id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class RunNotFound(NotFound):
    """The session has no such run."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")


class ToolCallNotFound(NotFound):
    """The session has no such tool call."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")


class AlreadyExists(SessiondError):
    """The chosen id is taken."""


class SessionAlreadyExists(AlreadyExists):
    """A session has the chosen id, or had it until recently."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class MessageAlreadyExists(AlreadyExists):
    """The session has a message with the chosen id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def message_id(self) -> str:
        return self.metadata.get("message_id", "")


class AttachmentAlreadyExists(AlreadyExists):
    """The session has, or had, an attachment with the chosen id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class UploadDeclaredOtherwise(AlreadyExists):
    """An unfinished upload of this id declared another file: resume that one, delete it, or choose another id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class RunAlreadyExists(AlreadyExists):
    """The session has a run with the chosen id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")


class ToolCallAlreadyExists(AlreadyExists):
    """The session has a tool call with the chosen id."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")


class Refused(SessiondError):
    """The session's state or its config does not allow the call."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class IllegalTransition(Refused):
    """The session's status has no such transition."""

    @property
    def status(self) -> str:
        """The session's status, such as CREATED."""
        return self.metadata.get("status", "")

    @property
    def action(self) -> str:
        """The action that was refused, such as suspend."""
        return self.metadata.get("action", "")


class SessionNotActive(Refused):
    """The write needs an active session."""

    @property
    def status(self) -> str:
        """The session's status, such as SUSPENDED."""
        return self.metadata.get("status", "")


class SessionEnded(Refused):
    """The session has ended or expired."""

    @property
    def end_reason(self) -> str:
        """The reason, such as EXPIRED."""
        return self.metadata.get("end_reason", "")


class ToolBlocked(Refused):
    """The session's config does not allow the tool."""

    @property
    def tool(self) -> str:
        return self.metadata.get("tool", "")


class MessageLimitReached(Refused):
    """The session may not hold that many messages."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class DeletionTooLarge(Refused):
    """A deletion selects more messages, or more bytes of them, than one call may delete. Nothing was deleted."""

    @property
    def limit(self) -> int:
        return self._number("limit")

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class TemplateLimitReached(Refused):
    """The tenant has the most templates that it may have."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class ForkLimitReached(Refused):
    """A fork would exceed a limit. Nothing was created."""

    @property
    def what(self) -> str:
        """Of what there would be too many: "generations", "forks", "items" or "events"; see ErrorReason."""
        return self.metadata.get("what", "")

    @property
    def limit(self) -> int:
        return self._number("limit")


class RewindLimitReached(Refused):
    """A rewind would exceed a limit. Nothing has changed."""

    @property
    def what(self) -> str:
        """Of what there would be too many: "ranges" or "events"; see ErrorReason."""
        return self.metadata.get("what", "")

    @property
    def limit(self) -> int:
        return self._number("limit")


class UnderLegalHold(Refused):
    """A legal hold forbids to remove this."""

    @property
    def session_id(self) -> str:
        """The session that is held, or whose user is; empty where it is what a user has beside sessions."""
        return self.metadata.get("session_id", "")

    @property
    def user_id(self) -> str:
        """The user who is held; empty where `session_id` is not."""
        return self.metadata.get("user_id", "")


class MessageShared(Refused):
    """A deletion selects messages that more than one session may show, because of a fork. Nothing was deleted;
    `redact_message` removes a message's content from all sessions."""


class ContextBudgetTooSmall(Refused):
    """The least that a model can be given of the session does not fit into what the request allows."""

    @property
    def field(self) -> str:
        """The field of the request that allows too little: `max_tokens`, `max_messages`, or `max_tool_result_tokens`
        where it is too many bytes."""
        return self.metadata.get("field", "")

    @property
    def needed_tokens(self) -> int:
        """Tokens of the system prompt, the summary and that least."""
        return self._number("needed_tokens")

    @property
    def needed_messages(self) -> int:
        """Messages of that least."""
        return self._number("needed_messages")


class AttachmentLimitReached(Refused):
    """The session may not hold more attachments."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class AttachmentTooLarge(Refused):
    """The file is larger than the session or the service allows."""

    @property
    def size_bytes(self) -> int:
        return self._number("size_bytes")

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class AttachmentSpaceExhausted(Refused):
    """The attachments of the session would exceed their limit in bytes."""

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class RunInProgress(Refused):
    """Another run, `run_id`, is live."""

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")


class RunEnded(Refused):
    """The run has ended."""

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")

    @property
    def status(self) -> str:
        """Where it is, such as COMPLETED."""
        return self.metadata.get("status", "")


class IllegalToolCallTransition(Refused):
    """The tool call's status has no such transition."""

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")

    @property
    def status(self) -> str:
        """Where it is, such as COMPLETED."""
        return self.metadata.get("status", "")

    @property
    def action(self) -> str:
        """The action that was refused, such as approve."""
        return self.metadata.get("action", "")


class ApprovalRequired(Refused):
    """The tool call must be approved before it can start."""

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")


class ApprovalExpired(Refused):
    """The tool call has ended because its approval did not come in time: by its `expire_time`."""

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")

    @property
    def status(self) -> str:
        """Where it is: REJECTED or FAILED."""
        return self.metadata.get("status", "")

    @property
    def action(self) -> str:
        """The action that was refused, such as approve."""
        return self.metadata.get("action", "")

    @property
    def expire_time(self) -> datetime | None:
        """Until when the approval could have been given; None if the server does not say."""
        text = self.metadata.get("expire_time")
        return None if text is None else datetime.fromisoformat(text)


class ToolCallLimitReached(Refused):
    """The session may not have more open tool calls."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class VersionNotReached(Refused):
    """The session has not reached the `min_version` that the read asked for."""

    @property
    def current_version(self) -> int:
        return self._number("current_version")


class SearchOff(Refused):
    """The operator has switched search off."""


class SummariserOff(Refused):
    """The service makes no summaries: its operator has named no summariser."""


class TenantKeyDestroyed(Refused):
    """The operator has destroyed the key that encrypted the tenant's contents: they can never be read again."""


class VersionMismatch(SessiondError):
    """`expected_version` is not the session's version. Read the session, decide again, and retry."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def current_version(self) -> int:
        return self._number("current_version")


class DocumentVersionMismatch(SessiondError):
    """`expected_version` is not the document's version. Read the document, decide again, and retry."""

    @property
    def key(self) -> str:
        return self.metadata.get("key", "")

    @property
    def current_version(self) -> int:
        """0: there is no such document."""
        return self._number("current_version")


class TemplateVersionMismatch(SessiondError):
    """`expected_version` is not the template's version. Read the template, decide again, and retry."""

    @property
    def template_id(self) -> str:
        return self.metadata.get("template_id", "")

    @property
    def current_version(self) -> int:
        """0: there is no such template."""
        return self._number("current_version")


class RunFenced(SessiondError):
    """The run is no longer live, or its lease has run out. The caller must stop."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")

    @property
    def live_run_id(self) -> str:
        """The id of the live run; empty while no run is live."""
        return self.metadata.get("live_run_id", "")


class TransferBroken(SessiondError):
    """An upload or a download was interrupted. Another call can resume it."""


class UploadOffsetMismatch(TransferBroken):
    """The upload has fewer bytes than the offset at which the call wanted to resume it."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")

    @property
    def committed_bytes(self) -> int:
        """The offset to resume at."""
        return self._number("committed_bytes")


class UploadSuperseded(TransferBroken):
    """Another call continues the upload, or the upload was abandoned."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class ExportOutdated(TransferBroken):
    """Something that was exported has been redacted or deleted meanwhile. The export must begin anew."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class ImportSuperseded(TransferBroken):
    """Another call continues the import, or the import was given up."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class TransferStalled(TransferBroken):
    """The caller sent or received nothing for too long."""


class AttachmentLost(SessiondError):
    """The attachment exists, but its bytes are missing from the service's storage or damaged."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class PositionGone(SessiondError):
    """A reader cannot resume at its position: events that it has not read no longer exist."""

    @property
    def session_id(self) -> str:
        """Empty when the position of a feed cannot name a session."""
        return self.metadata.get("session_id", "")


class PositionCompacted(PositionGone):
    """Events after the position have been removed."""

    @property
    def oldest_seq(self) -> int:
        """The `seq` of the oldest event that remains."""
        return self._number("oldest_seq")


class PositionLost(PositionGone):
    """The position belongs to a history that no longer exists: the database has lost acknowledged commits. Begin again
    with a snapshot, or read from the beginning."""

    @property
    def seq(self) -> int:
        """The `seq` of the event that no longer exists."""
        return self._number("seq")


class Exhausted(SessiondError):
    """A limit of the service or of the tenant is reached; see `retry_after`."""


class QueueFull(Exhausted):
    """The service's queue of writes is full."""


class TooManyCalls(Exhausted):
    """The service has reached its limit of calls that it serves or holds at once."""


class TooManyWatchers(Exhausted):
    """The server has reached its limit of watchers."""


class WatcherTooSlow(Exhausted):
    """The watcher is a slow consumer: it read its frames too slowly. `watch` resumes by itself at the last position
    that it received."""

    @property
    def position(self) -> str:
        """The position after the last frame that the server handed to the transport."""
        return self.metadata.get("position", "")


class TooManyTransfers(Exhausted):
    """The server has reached its limit of concurrent uploads and downloads."""


class TooManyUploads(Exhausted):
    """The session has reached its limit of unfinished uploads. Resume or delete some."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class TooManySummaries(Exhausted):
    """As many sessions of the tenant wait for a summary that was asked for as may. Try again after `retry_after`."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class RunQueueFull(Exhausted):
    """The session's queue of runs is full."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def limit(self) -> int:
        return self._number("limit")


class SessionQuotaReached(Exhausted):
    """The tenant has reached its limit of sessions that have not ended."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class Unauthenticated(SessiondError):
    """The call carries no key, or one that the service does not know."""


class ScopeMissing(SessiondError):
    """The key lacks the scope that the call needs."""

    @property
    def scope(self) -> str:
        return self.metadata.get("scope", "")


class TokenForbids(SessiondError):
    """A session token (see `create_session_token`) does not allow the call."""


class DocumentReadOnly(SessiondError):
    """The key is bound to a user, and cannot write documents of the tenant or an agent."""


class TemplateReadOnly(SessiondError):
    """The key is bound to a user, and cannot write templates."""


class Unavailable(SessiondError):
    """The service could not be reached, or cannot answer now. A write may have happened: retry it with the same
    `request_id`."""


class Starting(Unavailable):
    """The service is not ready yet."""


class Draining(Unavailable):
    """The server that answered is shutting down."""


class SessionLocked(Unavailable):
    """Another database transaction holds the lock of the session. Nothing was written."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class DocumentLocked(Unavailable):
    """Another database transaction holds the lock of the document. Nothing was written."""

    @property
    def key(self) -> str:
        return self.metadata.get("key", "")


class StorageUnavailable(Unavailable):
    """The service cannot reach its storage of attachments."""


class TenantKeyUnavailable(Unavailable):
    """The service cannot use the key that encrypts the tenant's contents now. Nothing was written."""


class StoreUnavailable(Unavailable):
    """The service cannot reach its database."""


class DeadlinePassed(SessiondError):
    """The deadline passed without an answer. A write may have happened: retry it with the same `request_id`."""


class InternalError(SessiondError):
    """A defect of the service."""

    @property
    def error_id(self) -> str:
        """The id of the error's record in the service's log."""
        return self.metadata.get("error_id", "")


class ClientClosed(RuntimeError):
    """The client was closed before or during the call. A write that was in flight may have happened."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ClientForked(RuntimeError):
    """The process was forked after a client had connected. grpc does not work in such a child: calls would wait for
    ever or crash it. Fork before the first call, or start processes with multiprocessing's "spawn" or "forkserver"."""

    def __init__(self) -> None:
        super().__init__(
            "this process was forked after a client had connected, and grpc does not work in it: fork before the first"
            " call, or start processes by spawn or forkserver"
        )


BY_REASON: Mapping[str, type[SessiondError]] = MappingProxyType(
    {
        "MALFORMED_REQUEST": MalformedRequest,
        "INVALID_FIELD": InvalidFields,
        "REQUEST_TOO_LARGE": RequestTooLarge,
        "INVALID_PAGE_TOKEN": InvalidPageToken,
        "INVALID_POSITION": InvalidPosition,
        "REQUEST_ID_REUSED": RequestIdReused,
        "SESSION_NOT_FOUND": SessionNotFound,
        "MESSAGE_NOT_FOUND": MessageNotFound,
        "SESSION_ALREADY_EXISTS": SessionAlreadyExists,
        "MESSAGE_ALREADY_EXISTS": MessageAlreadyExists,
        "ILLEGAL_TRANSITION": IllegalTransition,
        "SESSION_NOT_ACTIVE": SessionNotActive,
        "SESSION_ENDED": SessionEnded,
        "TOOL_BLOCKED": ToolBlocked,
        "MESSAGE_LIMIT_REACHED": MessageLimitReached,
        "DELETION_TOO_LARGE": DeletionTooLarge,
        "FORK_LIMIT_REACHED": ForkLimitReached,
        "REWIND_LIMIT_REACHED": RewindLimitReached,
        "MESSAGE_SHARED": MessageShared,
        "CONTEXT_BUDGET_TOO_SMALL": ContextBudgetTooSmall,
        "VERSION_NOT_REACHED": VersionNotReached,
        "SEARCH_OFF": SearchOff,
        "SUMMARISER_OFF": SummariserOff,
        "TENANT_KEY_DESTROYED": TenantKeyDestroyed,
        "TENANT_KEY_UNAVAILABLE": TenantKeyUnavailable,
        "VERSION_MISMATCH": VersionMismatch,
        "POSITION_COMPACTED": PositionCompacted,
        "POSITION_LOST": PositionLost,
        "QUEUE_FULL": QueueFull,
        "TOO_MANY_CALLS": TooManyCalls,
        "TOO_MANY_WATCHERS": TooManyWatchers,
        "WATCHER_TOO_SLOW": WatcherTooSlow,
        "SESSION_QUOTA_REACHED": SessionQuotaReached,
        "UNAUTHENTICATED": Unauthenticated,
        "SCOPE_MISSING": ScopeMissing,
        "TOKEN_FORBIDS": TokenForbids,
        "STARTING": Starting,
        "DRAINING": Draining,
        "SESSION_LOCKED": SessionLocked,
        "STORE_UNAVAILABLE": StoreUnavailable,
        "DEADLINE_EXCEEDED": DeadlinePassed,
        "ATTACHMENT_NOT_FOUND": AttachmentNotFound,
        "UPLOAD_NOT_FOUND": UploadNotFound,
        "ATTACHMENT_ALREADY_EXISTS": AttachmentAlreadyExists,
        "UPLOAD_DECLARED_OTHERWISE": UploadDeclaredOtherwise,
        "ATTACHMENT_LIMIT_REACHED": AttachmentLimitReached,
        "ATTACHMENT_TOO_LARGE": AttachmentTooLarge,
        "ATTACHMENT_SPACE_EXHAUSTED": AttachmentSpaceExhausted,
        "UPLOAD_INCOMPLETE": UploadIncomplete,
        "UPLOAD_TOO_LONG": UploadTooLong,
        "CHECKSUM_MISMATCH": ChecksumMismatch,
        "EXPORT_OUTDATED": ExportOutdated,
        "IMPORT_REFUSED": ImportRefused,
        "IMPORT_INCOMPLETE": ImportIncomplete,
        "IMPORT_SUPERSEDED": ImportSuperseded,
        "UPLOAD_OFFSET_MISMATCH": UploadOffsetMismatch,
        "UPLOAD_SUPERSEDED": UploadSuperseded,
        "TRANSFER_STALLED": TransferStalled,
        "TOO_MANY_TRANSFERS": TooManyTransfers,
        "TOO_MANY_UPLOADS": TooManyUploads,
        "TOO_MANY_SUMMARIES": TooManySummaries,
        "ATTACHMENT_LOST": AttachmentLost,
        "STORAGE_UNAVAILABLE": StorageUnavailable,
        "RUN_NOT_FOUND": RunNotFound,
        "TOOL_CALL_NOT_FOUND": ToolCallNotFound,
        "RUN_ALREADY_EXISTS": RunAlreadyExists,
        "TOOL_CALL_ALREADY_EXISTS": ToolCallAlreadyExists,
        "RUN_IN_PROGRESS": RunInProgress,
        "RUN_ENDED": RunEnded,
        "ILLEGAL_TOOL_CALL_TRANSITION": IllegalToolCallTransition,
        "APPROVAL_REQUIRED": ApprovalRequired,
        "APPROVAL_EXPIRED": ApprovalExpired,
        "TOOL_CALL_LIMIT_REACHED": ToolCallLimitReached,
        "RUN_FENCED": RunFenced,
        "RUN_QUEUE_FULL": RunQueueFull,
        "DOCUMENT_NOT_FOUND": DocumentNotFound,
        "ERASURE_NOT_FOUND": ErasureNotFound,
        "HOLD_NOT_FOUND": HoldNotFound,
        "LEGAL_HOLD": UnderLegalHold,
        "TEMPLATE_NOT_FOUND": TemplateNotFound,
        "TEMPLATE_VERSION_MISMATCH": TemplateVersionMismatch,
        "TEMPLATE_LIMIT_REACHED": TemplateLimitReached,
        "TEMPLATE_READ_ONLY": TemplateReadOnly,
        "DOCUMENT_VERSION_MISMATCH": DocumentVersionMismatch,
        "DOCUMENT_READ_ONLY": DocumentReadOnly,
        "DOCUMENT_LOCKED": DocumentLocked,
        "INTERNAL": InternalError,
    }
)
"""The leaf for each `ErrorReason`."""

BY_CODE: Mapping[str, type[SessiondError]] = MappingProxyType(
    {
        "INVALID_ARGUMENT": InvalidRequest,
        "NOT_FOUND": NotFound,
        "ALREADY_EXISTS": AlreadyExists,
        "FAILED_PRECONDITION": Refused,
        "RESOURCE_EXHAUSTED": Exhausted,
        "UNAUTHENTICATED": Unauthenticated,
        "UNAVAILABLE": Unavailable,
        # A server that stopped or a proxy sends it. A caller that cancels gets asyncio.CancelledError instead.
        "CANCELLED": Unavailable,
        "DEADLINE_EXCEEDED": DeadlinePassed,
    }
)
"""The class for an unknown or missing reason, by status code. Any other code is raised as SessiondError."""
