"""The errors of the service, as a tree, without grpc: the table in `rpc/status.py` maps these classes to status codes.

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

Code raises only leaves, or returns them as the result of a command that the rules refuse. Every text is safe to show to
the caller: it names fields, limits and states, never contents. `metadata` is what `ErrorReason` documents for the
reason.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks its rule."""

    field: str
    """Path of the field in the request message, such as `messages[3].parts[0].text`."""
    description: str
    """The rule, without the value."""


_is_plain = re.compile(r"[A-Za-z0-9._:~-]+").fullmatch


def _named(identifier: str) -> str:
    """An id in a text: quoted in ASCII if it could be taken for something else."""
    return identifier if _is_plain(identifier) else json.dumps(identifier)


def _attachment(session_id: str, attachment_id: str) -> Mapping[str, str]:
    return {"session_id": session_id, "attachment_id": attachment_id}


def _document(scope: str, scope_id: str, key: str) -> dict[str, str]:
    return {"scope": scope.removeprefix("DOCUMENT_SCOPE_"), "scope_id": scope_id, "key": key}


REFUSALS: Final = (
    *("no_key", "wrong_key", "unknown_method"),
    *("calls", "deadline", "request_bytes", "answer_bytes", "elements", "request_size", "health", "reflection"),
    *("queue", "watchers", "slow_watcher", "pipes", "transfers", "stalled", "uploads", "summaries", "runs", "sessions"),
)
"""Why calls are refused to protect the service or other callers, as metrics name it. docs/metrics.md explains them."""


class SessiondError(Exception):
    """Root of all errors with a defined answer on the wire."""

    refusal: str = ""
    """One of REFUSALS, where the call is refused to protect the service or other callers."""

    def __init__(self, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidRequest(SessiondError):
    """The request can never succeed unchanged. `violations` names the fields that are wrong, if any."""

    violations: tuple[Violation, ...] = ()


class MalformedRequest(InvalidRequest):
    def __init__(self, message_type: str) -> None:
        super().__init__(f"the request is not a valid {message_type}")


class InvalidFields(InvalidRequest):
    """Fields break their rules. Holds the first violations found, at most `MOST`."""

    MOST = 16

    def __init__(self, violations: Iterable[Violation], refusal: str = "") -> None:
        self.refusal = refusal
        self.violations = tuple(violations)[: self.MOST]
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class RequestTooLarge(InvalidRequest):
    refusal = "request_size"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the request has {size_bytes} bytes; the limit is {limit_bytes}",
            {"size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes)},
        )


class InvalidPageToken(InvalidRequest):
    def __init__(self) -> None:
        self.violations = (Violation("page_token", "not a token of this list"),)
        super().__init__("page_token: not a token of this list")


class InvalidPosition(InvalidRequest):
    def __init__(self) -> None:
        self.violations = (Violation("position", "not a position of this stream"),)
        super().__init__("position: not a position of this stream")


class UploadIncomplete(InvalidRequest):
    """The stream of an upload ended before the declared size; the upload can be resumed."""

    def __init__(self, size_bytes: int, committed_bytes: int) -> None:
        super().__init__(
            f"the upload ended after {committed_bytes} of {size_bytes} bytes",
            {"size_bytes": str(size_bytes), "committed_bytes": str(committed_bytes)},
        )


class UploadTooLong(InvalidRequest):
    """The client sent more bytes than it declared; the upload is discarded."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"more bytes than the declared {size_bytes}", {"size_bytes": str(size_bytes)})


class ImportRefused(InvalidRequest):
    """A record of an import is damaged or breaks a rule; the import is given up."""

    def __init__(self, line: int, rule: str) -> None:
        """`rule`: what must be, without the value."""
        self.line, self.rule = line, rule
        self.violations = (Violation(f"line {line}", rule),)
        super().__init__(f"line {line}: {rule}", {"line": str(line)})


class ImportIncomplete(InvalidRequest):
    """The stream of an import ended before the end record; the import can be resumed."""

    def __init__(self, line: int) -> None:
        super().__init__(f"the file ends after line {line}, without its end record", {"line": str(line)})


class ChecksumMismatch(InvalidRequest):
    """The bytes do not have the declared SHA-256; the upload is discarded."""

    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("the bytes do not have the declared checksum", _attachment(session_id, attachment_id))


class RequestIdReused(InvalidRequest):
    def __init__(self, request_id: str) -> None:
        self.violations = (Violation("request_id", "was used for a request with another content"),)
        super().__init__("request_id: was used for a request with another content", {"request_id": request_id})


class NotFound(SessiondError):
    """The resource does not exist, or the caller may not see it; both cases look the same."""


class SessionNotFound(NotFound):
    def __init__(self, session_id: str) -> None:
        super().__init__("session not found", {"session_id": session_id})


class MessageNotFound(NotFound):
    def __init__(self, session_id: str, message_id: str) -> None:
        super().__init__("message not found", {"session_id": session_id, "message_id": message_id})


class AttachmentNotFound(NotFound):
    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("attachment not found", _attachment(session_id, attachment_id))


class UploadNotFound(NotFound):
    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("upload not found", _attachment(session_id, attachment_id))


class RunNotFound(NotFound):
    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__("run not found", {"session_id": session_id, "run_id": run_id})


class ToolCallNotFound(NotFound):
    def __init__(self, session_id: str, tool_call_id: str) -> None:
        super().__init__("tool call not found", {"session_id": session_id, "tool_call_id": tool_call_id})


class DocumentNotFound(NotFound):
    def __init__(self, scope: str, scope_id: str, key: str) -> None:
        """`scope`: the name of a DocumentScope."""
        super().__init__("document not found", _document(scope, scope_id, key))


class HoldNotFound(NotFound):
    """The tenant has no such legal hold."""

    def __init__(self, hold_id: str) -> None:
        super().__init__("legal hold not found", {"hold_id": hold_id})


class ErasureNotFound(NotFound):
    def __init__(self, user_id: str) -> None:
        super().__init__("erasure not found", {"user_id": user_id})


class TemplateNotFound(NotFound):
    def __init__(self, template_id: str) -> None:
        super().__init__("template not found", {"template_id": template_id})


class AlreadyExists(SessiondError):
    """The chosen id is taken. The text is the same whoever owns the resource."""


class SessionAlreadyExists(AlreadyExists):
    def __init__(self, session_id: str) -> None:
        super().__init__("session already exists", {"session_id": session_id})


class MessageAlreadyExists(AlreadyExists):
    def __init__(self, session_id: str, message_id: str) -> None:
        super().__init__("message already exists", {"session_id": session_id, "message_id": message_id})


class AttachmentAlreadyExists(AlreadyExists):
    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("attachment already exists", _attachment(session_id, attachment_id))


class UploadDeclaredOtherwise(AlreadyExists):
    """An unfinished upload with this id declares another file."""

    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("an upload of this id declared something else", _attachment(session_id, attachment_id))


class RunAlreadyExists(AlreadyExists):
    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__("run already exists", {"session_id": session_id, "run_id": run_id})


class ToolCallAlreadyExists(AlreadyExists):
    def __init__(self, session_id: str, tool_call_id: str) -> None:
        super().__init__("tool call already exists", {"session_id": session_id, "tool_call_id": tool_call_id})


class Refused(SessiondError):
    """The session's state or its config does not allow the request."""


class IllegalTransition(Refused):
    def __init__(self, session_id: str, status: str, action: str) -> None:
        super().__init__(
            f"cannot {action} a session that is {status}",
            {"session_id": session_id, "status": status, "action": action},
        )


class SessionNotActive(Refused):
    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(f"the session is {status}, not ACTIVE", {"session_id": session_id, "status": status})


class SessionEnded(Refused):
    def __init__(self, session_id: str, end_reason: str) -> None:
        super().__init__(f"the session has ended ({end_reason})", {"session_id": session_id, "end_reason": end_reason})


class ToolBlocked(Refused):
    def __init__(self, session_id: str, field: str, tool: str) -> None:
        super().__init__(
            f"{field}: the session's config does not allow this tool", {"session_id": session_id, "tool": tool}
        )
        self.field = field


class MessageLimitReached(Refused):
    def __init__(self, session_id: str, limit: int) -> None:
        super().__init__(f"the session may hold {limit} messages", {"session_id": session_id, "limit": str(limit)})


class DeletionTooLarge(Refused):
    """A deletion selects more messages than one call may delete."""

    def __init__(self, session_id: str, limit: int, limit_bytes: int) -> None:
        super().__init__(
            f"a deletion takes at most {limit} messages of together {limit_bytes} bytes",
            {"session_id": session_id, "limit": str(limit), "limit_bytes": str(limit_bytes)},
        )


class ForkLimitReached(Refused):
    """A fork would exceed a limit."""

    def __init__(self, session_id: str, what: str, limit: int) -> None:
        """`what`: "generations", "forks", "items" or "events" (ErrorReason)."""
        super().__init__(
            f"a fork may have {limit} {what}", {"session_id": session_id, "what": what, "limit": str(limit)}
        )


class RewindLimitReached(Refused):
    """A rewind would exceed a limit."""

    def __init__(self, session_id: str, what: str, limit: int) -> None:
        """`what`: "ranges" or "events" (ErrorReason)."""
        done = "leave" if what == "ranges" else "read"
        super().__init__(
            f"a rewind may {done} {limit} {what}", {"session_id": session_id, "what": what, "limit": str(limit)}
        )


class UnderLegalHold(Refused):
    """A legal hold forbids to remove this."""

    def __init__(self, session_id: str = "", user_id: str = "") -> None:
        """Of a session, or what a user has beside sessions."""
        super().__init__("under a legal hold", {"session_id": session_id} if session_id else {"user_id": user_id})


class TemplateLimitReached(Refused):
    """The tenant has the most templates that it may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a tenant may have {limit} templates", {"limit": str(limit)})


class MessageShared(Refused):
    """A deletion selects messages that more than one session may show."""

    def __init__(self, session_id: str) -> None:
        super().__init__("the session shares messages that the deletion selects", {"session_id": session_id})


class ContextBudgetTooSmall(Refused):
    """Not even the least that a model can be given of the session fits into what the request allows."""

    def __init__(self, session_id: str, field: str, needed_tokens: int, needed_messages: int) -> None:
        """`field`: that of the request which allows too little."""
        super().__init__(
            f"{field}: the least that a model can be given has {needed_tokens} tokens in {needed_messages} messages",
            {
                "session_id": session_id,
                "field": field,
                "needed_tokens": str(needed_tokens),
                "needed_messages": str(needed_messages),
            },
        )
        self.field = field


class AttachmentLimitReached(Refused):
    def __init__(self, session_id: str, limit: int) -> None:
        super().__init__(f"the session may hold {limit} attachments", {"session_id": session_id, "limit": str(limit)})


class AttachmentTooLarge(Refused):
    def __init__(self, session_id: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the attachment has {size_bytes} bytes; the limit is {limit_bytes}",
            {"session_id": session_id, "size_bytes": str(size_bytes), "limit_bytes": str(limit_bytes)},
        )


class AttachmentSpaceExhausted(Refused):
    def __init__(self, session_id: str, limit_bytes: int) -> None:
        super().__init__(
            f"the session's attachments may take {limit_bytes} bytes",
            {"session_id": session_id, "limit_bytes": str(limit_bytes)},
        )


class RunInProgress(Refused):
    """Another run is live."""

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(f"run {_named(run_id)} is in progress", {"session_id": session_id, "run_id": run_id})


class RunEnded(Refused):
    def __init__(self, session_id: str, run_id: str, status: str) -> None:
        super().__init__(
            f"the run is {status}",
            {"session_id": session_id, "run_id": run_id, "status": status},
        )


class IllegalToolCallTransition(Refused):
    def __init__(self, session_id: str, tool_call_id: str, status: str, action: str) -> None:
        super().__init__(
            f"cannot {action} a tool call that is {status}",
            {"session_id": session_id, "tool_call_id": tool_call_id, "status": status, "action": action},
        )


class ApprovalRequired(Refused):
    """The tool call has not been approved yet."""

    def __init__(self, session_id: str, tool_call_id: str) -> None:
        super().__init__("the tool call requires an approval", {"session_id": session_id, "tool_call_id": tool_call_id})


class ApprovalExpired(Refused):
    """The tool call has ended because its approval did not come in time."""

    def __init__(self, session_id: str, tool_call_id: str, status: str, action: str, expire_time: str) -> None:
        super().__init__(
            f"cannot {action} a tool call whose approval did not come before {expire_time}",
            {
                "session_id": session_id,
                "tool_call_id": tool_call_id,
                "status": status,
                "action": action,
                "expire_time": expire_time,
            },
        )


class ToolCallLimitReached(Refused):
    def __init__(self, session_id: str, limit: int) -> None:
        super().__init__(
            f"the session may have {limit} open tool calls", {"session_id": session_id, "limit": str(limit)}
        )


class VersionNotReached(Refused):
    def __init__(self, session_id: str, current_version: int, min_version: int) -> None:
        super().__init__(
            f"the session is at version {current_version}; min_version is {min_version}",
            {"session_id": session_id, "current_version": str(current_version)},
        )


class SearchOff(Refused):
    """The operator has switched search off."""

    def __init__(self) -> None:
        super().__init__("search is off: the operator of the service can switch it on (setting search)")


class SummariserOff(Refused):
    """The operator has named no summariser."""

    def __init__(self) -> None:
        super().__init__("the service makes no summaries: its operator can name a summariser (setting summariser)")


class TenantKeyDestroyed(Refused):
    """The key that encrypts the tenant's contents was destroyed, so that they can never be read again."""

    def __init__(self) -> None:
        super().__init__("the tenant's encryption key was destroyed: what it had stored cannot be read again")


class VersionMismatch(SessiondError):
    """`expected_version` is not the session's version."""

    def __init__(self, session_id: str, current_version: int, expected_version: int) -> None:
        super().__init__(
            f"the session is at version {current_version}; expected_version is {expected_version}",
            {"session_id": session_id, "current_version": str(current_version)},
        )


class DocumentVersionMismatch(SessiondError):
    """The document is not at the expected version. `current_version` 0: there is no such document."""

    def __init__(self, scope: str, scope_id: str, key: str, current_version: int, expected_version: int) -> None:
        super().__init__(
            f"the document is at version {current_version}, not {expected_version}",
            _document(scope, scope_id, key)
            | {"current_version": str(current_version), "expected_version": str(expected_version)},
        )


class TemplateVersionMismatch(SessiondError):
    """The template is not at the expected version. `current_version` 0: there is no such template."""

    def __init__(self, template_id: str, current_version: int, expected_version: int) -> None:
        super().__init__(
            f"the template is at version {current_version}, not {expected_version}",
            {
                "template_id": template_id,
                "current_version": str(current_version),
                "expected_version": str(expected_version),
            },
        )


class RunFenced(SessiondError):
    """The write carries the fence of a run that is not live, or whose lease has expired. `live_run_id` is empty while
    no run is live."""

    def __init__(self, session_id: str, run_id: str, live_run_id: str) -> None:
        what = "has no lease any more" if run_id == live_run_id else "is not the live run"
        super().__init__(
            f"run {_named(run_id)} {what}", {"session_id": session_id, "run_id": run_id, "live_run_id": live_run_id}
        )


class TransferBroken(SessiondError):
    """An upload or a download cannot continue in this call. Another call can resume it."""


class UploadOffsetMismatch(TransferBroken):
    """The upload has fewer bytes than the offset at which the call would resume it."""

    def __init__(self, session_id: str, attachment_id: str, committed_bytes: int, offset: int) -> None:
        super().__init__(
            f"the upload has {committed_bytes} bytes; offset is {offset}",
            {**_attachment(session_id, attachment_id), "committed_bytes": str(committed_bytes)},
        )


class UploadSuperseded(TransferBroken):
    """Another call has resumed the upload, or the upload was discarded."""

    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("another call goes on with this upload", _attachment(session_id, attachment_id))


class ExportOutdated(TransferBroken):
    """What was exported has been redacted or deleted meanwhile. The export must begin anew."""

    def __init__(self, session_id: str) -> None:
        super().__init__("what was exported has been removed meanwhile", {"session_id": session_id})


class ImportSuperseded(TransferBroken):
    """Another call has taken the import up, or it was given up."""

    def __init__(self, session_id: str) -> None:
        super().__init__("another call goes on with this import", {"session_id": session_id})


class TransferStalled(TransferBroken):
    """The client neither sent nor received anything for `limit_seconds`."""

    refusal = "stalled"

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"nothing moved for {limit_seconds:g} s", {"limit_seconds": f"{limit_seconds:g}"})


class AttachmentLost(SessiondError):
    """The attachment exists, but its bytes are missing from the storage, or damaged."""

    def __init__(self, session_id: str, attachment_id: str) -> None:
        super().__init__("the attachment's bytes are lost", _attachment(session_id, attachment_id))


class PositionGone(SessiondError):
    """A reader cannot resume from its position, because events after it no longer exist."""


class PositionCompacted(PositionGone):
    def __init__(self, session_id: str, oldest_seq: int) -> None:
        super().__init__(
            "what followed the position has been removed", {"session_id": session_id, "oldest_seq": str(oldest_seq)}
        )


class PositionLost(PositionGone):
    """The database has lost acknowledged commits. `session_id` is empty if a feed cannot name a session."""

    def __init__(self, session_id: str, seq: int) -> None:
        super().__init__(
            "the position belongs to a history that no longer exists", {"session_id": session_id, "seq": str(seq)}
        )


class Exhausted(SessiondError):
    """A limit of the server or of the tenant is reached. `retry_after` is in seconds; None: a retry does not help."""

    retry_after: float | None = None


class QueueFull(Exhausted):
    refusal = "queue"

    def __init__(self, retry_after: float) -> None:
        super().__init__("the write queue is full")
        self.retry_after = retry_after


class TooManyCalls(Exhausted):
    """Of the whole service, or of the tenant, which has its share."""

    def __init__(self, retry_after: float, refusal: str = "calls") -> None:
        super().__init__("too many calls are in progress")
        self.refusal = refusal
        self.retry_after = retry_after


class TooManyWatchers(Exhausted):
    refusal = "watchers"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many watchers")
        self.retry_after = retry_after


class WatcherTooSlow(Exhausted):
    """The watcher is too slow. `position` is after the last frame that the transport has accepted."""

    refusal = "slow_watcher"

    def __init__(self, position: str, retry_after: float) -> None:
        super().__init__("the watcher is too slow", {"position": position})
        self.retry_after = retry_after


class TooManyTransfers(Exhausted):
    refusal = "transfers"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many transfers are in progress")
        self.retry_after = retry_after


class TooManyUploads(Exhausted):
    refusal = "uploads"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the session may have {limit} unfinished uploads", {"limit": str(limit)})


class TooManySummaries(Exhausted):
    """Of the tenant."""

    refusal = "summaries"

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(f"{limit} sessions wait for a summary already", {"limit": str(limit)})
        self.retry_after = retry_after


class RunQueueFull(Exhausted):
    """The session's queue of runs is full."""

    refusal = "runs"

    def __init__(self, session_id: str, limit: int, retry_after: float) -> None:
        super().__init__(f"{limit} runs are waiting already", {"session_id": session_id, "limit": str(limit)})
        self.retry_after = retry_after


class SessionQuotaReached(Exhausted):
    refusal = "sessions"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the tenant may have {limit} sessions that have not ended", {"limit": str(limit)})


class Unauthenticated(SessiondError):
    def __init__(self, refusal: str = "wrong_key") -> None:
        super().__init__("a valid bearer key is required")
        self.refusal = refusal


class ScopeMissing(SessiondError):
    def __init__(self, scope: str) -> None:
        super().__init__(f"the key lacks the scope {scope}", {"scope": scope})


class TokenForbids(SessiondError):
    """A session token does not allow the call. The text says nothing of what exists."""

    def __init__(self) -> None:
        super().__init__("the session token does not allow this call")


class DocumentReadOnly(SessiondError):
    """The key is bound to a user, and the document belongs to a tenant or an agent."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            "a key bound to a user cannot write documents of a tenant or an agent",
            {"scope": scope.removeprefix("DOCUMENT_SCOPE_")},
        )


class TemplateReadOnly(SessiondError):
    """The key is bound to a user, and templates are the tenant's."""

    def __init__(self) -> None:
        super().__init__("a key bound to a user cannot write templates")


class Unavailable(SessiondError):
    """The server cannot serve the call now; a retry, or another replica, may succeed."""


class Starting(Unavailable):
    def __init__(self) -> None:
        super().__init__("the server is starting")


class Draining(Unavailable):
    def __init__(self) -> None:
        super().__init__("the server is draining")


class SessionLocked(Unavailable):
    """Another transaction has locked the session's rows for longer than writers wait; nothing was written."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {_named(session_id)} is locked by another transaction", {"session_id": session_id})


class DocumentLocked(Unavailable):
    """Another transaction has locked the document's row for longer than writers wait; nothing was written."""

    def __init__(self, scope: str, scope_id: str, key: str) -> None:
        super().__init__("the document is locked by another transaction", _document(scope, scope_id, key))


class StorageUnavailable(Unavailable):
    """The storage of attachments cannot be reached."""

    def __init__(self) -> None:
        super().__init__("the storage of attachments cannot be reached")


class TenantKeyUnavailable(Unavailable):
    """The key that encrypts the tenant's contents cannot be unwrapped now: the service's log says why."""

    def __init__(self) -> None:
        super().__init__("the tenant's encryption key cannot be had now")


class StoreUnavailable(Unavailable):
    """The database cannot be reached, or fails temporarily. A write whose commit was in flight may have happened."""

    def __init__(self, divisible: bool = False, locked: bool = False, elsewhere: bool = False) -> None:
        """`divisible`: nothing of the batch was written, and a smaller batch may succeed. `locked`: nothing of it was
        written, and no part of it can be for now, because another transaction has locked a table. `elsewhere`: nothing
        was written, because the tenant lives in another database, of which this process learns within a second."""
        super().__init__(
            "a table of the database is locked by another transaction"
            if locked
            else "the tenant has left the database"
            if elsewhere
            else "the database cannot be reached"
        )
        self.divisible = divisible
        self.locked = locked
        self.elsewhere = elsewhere

    def name(self, database_id: str) -> None:
        """Says which of several databases it is."""
        if not self.metadata:
            self.metadata = {"database_id": database_id}
            self.message = self.message.replace("the database", f"the database {database_id}")


class DeadlinePassed(SessiondError):
    def __init__(self) -> None:
        super().__init__("the deadline passed")


class InternalError(SessiondError):
    """An unforeseen error. The text is constant; `error_id` identifies the log record."""

    def __init__(self, error_id: str) -> None:
        super().__init__("internal error", {"error_id": error_id})
