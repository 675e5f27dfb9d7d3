"""What a call can raise, as a tree. The names are those of the service's own errors; needs neither grpc nor protobuf.

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
    │   └── RequestIdReused
    ├── NotFound
    │   ├── SessionNotFound
    │   ├── RunNotFound
    │   ├── ToolCallNotFound
    │   ├── AttachmentNotFound
    │   ├── UploadNotFound
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
    │   ├── AttachmentLimitReached
    │   ├── AttachmentTooLarge
    │   ├── AttachmentSpaceExhausted
    │   ├── RunInProgress
    │   ├── RunEnded
    │   ├── IllegalToolCallTransition
    │   ├── ApprovalRequired
    │   ├── ToolCallLimitReached
    │   └── VersionNotReached
    ├── VersionMismatch
    ├── RunFenced
    ├── TransferBroken
    │   ├── UploadOffsetMismatch
    │   ├── UploadSuperseded
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
    │   ├── RunQueueFull
    │   └── SessionQuotaReached
    ├── Unauthenticated
    ├── ScopeMissing
    ├── Unavailable
    │   ├── Starting
    │   ├── Draining
    │   ├── SessionLocked
    │   ├── StorageUnavailable
    │   └── StoreUnavailable
    ├── DeadlinePassed
    └── InternalError

    ClientClosed, ClientForked (RuntimeErrors: defects of the caller, not answers)

A leaf stands for one `ErrorReason`. A reason that this version does not know comes as the nearest parent by its status
code, and as `SessiondError` itself where there is none, so `except Refused` goes on working with newer servers.
No error carries contents of messages.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that breaks its rule."""

    field: str
    """Path of the field in the request message, such as `messages[3].parts[0].text`."""
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
        """For people; decide by class or reason, never by text."""
        self.reason = reason
        """Name of the `ErrorReason` without prefix, such as SESSION_NOT_FOUND; empty when the service gave none, as
        when it could not be reached."""
        self.code = code
        """Name of the gRPC status code, such as NOT_FOUND."""
        self.metadata: Mapping[str, str] = dict(metadata or {})
        """What `ErrorReason` documents for the reason."""
        self.violations = tuple(violations)
        """The fields at fault, where fields are."""
        self.retry_after = retry_after
        """Seconds after which another attempt makes sense; None where the service did not say."""
        self.request_id = request_id
        """Idempotency key of the write that failed, for a retry of the same write; empty for reads."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r}, code={self.code!r})"

    def _number(self, key: str) -> int:
        value = self.metadata.get(key, "")
        return int(value) if value.isascii() and value.isdigit() else 0


class InvalidRequest(SessiondError):
    """The request can never succeed as it is; `violations` names the fields, where fields are at fault."""


class MalformedRequest(InvalidRequest):
    """The service could not read the request."""


class InvalidFields(InvalidRequest):
    """Fields break their rules; see `violations`."""


class RequestTooLarge(InvalidRequest):
    """The request is larger than the service takes."""

    @property
    def size_bytes(self) -> int:
        return self._number("size_bytes")

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class InvalidPageToken(InvalidRequest):
    """The page token does not belong to this list with this filter and order."""


class InvalidPosition(InvalidRequest):
    """The position is of another stream, filter, tenant or user."""


class UploadIncomplete(InvalidRequest):
    """The bytes of an upload ended before the declared size; it can be resumed."""

    @property
    def size_bytes(self) -> int:
        """As declared."""
        return self._number("size_bytes")

    @property
    def committed_bytes(self) -> int:
        """What is safe: where to resume."""
        return self._number("committed_bytes")


class UploadTooLong(InvalidRequest):
    """More bytes than were declared; the upload is given up."""

    @property
    def size_bytes(self) -> int:
        """As declared."""
        return self._number("size_bytes")


class ChecksumMismatch(InvalidRequest):
    """The bytes do not have the declared SHA-256; the upload is given up."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class RequestIdReused(InvalidRequest):
    """The `request_id` was used for another request."""


class NotFound(SessiondError):
    """There is no such thing, or it is not the caller's to see: the two look the same."""


class SessionNotFound(NotFound):
    """No such session."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class MessageNotFound(NotFound):
    """No such message in the session."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def message_id(self) -> str:
        return self.metadata.get("message_id", "")


class AttachmentNotFound(NotFound):
    """No such attachment in the session."""

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
    """No such run in the session."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")


class ToolCallNotFound(NotFound):
    """No such tool call in the session."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")


class AlreadyExists(SessiondError):
    """The chosen id is taken."""


class SessionAlreadyExists(AlreadyExists):
    """There is a session with the chosen id, or there was one until recently."""

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
    """The session's state, or its config, does not allow it."""

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
        """What was tried, such as suspend."""
        return self.metadata.get("action", "")


class SessionNotActive(Refused):
    """The write needs an active session."""

    @property
    def status(self) -> str:
        """The session's status, such as SUSPENDED."""
        return self.metadata.get("status", "")


class SessionEnded(Refused):
    """The session has ended, or its time has run out."""

    @property
    def end_reason(self) -> str:
        """Why, such as EXPIRED."""
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


class AttachmentLimitReached(Refused):
    """The session may not hold more attachments."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class AttachmentTooLarge(Refused):
    """The session, or the service, takes no file of that size."""

    @property
    def size_bytes(self) -> int:
        return self._number("size_bytes")

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class AttachmentSpaceExhausted(Refused):
    """The session's attachments may not take more bytes."""

    @property
    def limit_bytes(self) -> int:
        return self._number("limit_bytes")


class RunInProgress(Refused):
    """Another run is live: `run_id`."""

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")


class RunEnded(Refused):
    """The run is over."""

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
        """What was tried, such as approve."""
        return self.metadata.get("action", "")


class ApprovalRequired(Refused):
    """The tool call needs somebody's approval before it can start."""

    @property
    def tool_call_id(self) -> str:
        return self.metadata.get("tool_call_id", "")


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


class VersionMismatch(SessiondError):
    """`expected_version` is not the session's version: read, decide again, retry."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def current_version(self) -> int:
        return self._number("current_version")


class RunFenced(SessiondError):
    """The run is not the live one any more, or its lease has run out: stop."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def run_id(self) -> str:
        return self.metadata.get("run_id", "")

    @property
    def live_run_id(self) -> str:
        """Empty while there is none."""
        return self.metadata.get("live_run_id", "")


class TransferBroken(SessiondError):
    """An upload or a download could not go on. Another call can go on where it was."""


class UploadOffsetMismatch(TransferBroken):
    """The upload has not got as far as the offset that it was to be resumed at."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")

    @property
    def committed_bytes(self) -> int:
        """Where to resume."""
        return self._number("committed_bytes")


class UploadSuperseded(TransferBroken):
    """Another call goes on with the upload, or it was given up."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class TransferStalled(TransferBroken):
    """The caller sent, or took, nothing for too long."""


class AttachmentLost(SessiondError):
    """The attachment is there, but its bytes are gone from the service's storage, or damaged."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def attachment_id(self) -> str:
        return self.metadata.get("attachment_id", "")


class PositionGone(SessiondError):
    """A reader cannot go on where it was: something that it has not seen is no longer there."""

    @property
    def session_id(self) -> str:
        """Empty where a feed cannot name one."""
        return self.metadata.get("session_id", "")


class PositionCompacted(PositionGone):
    """What followed the position has been removed."""

    @property
    def oldest_seq(self) -> int:
        """The first event that is left."""
        return self._number("oldest_seq")


class PositionLost(PositionGone):
    """The position belongs to a history that no longer exists: the database has lost acknowledged commits. Begin with a
    snapshot, or read anew."""

    @property
    def seq(self) -> int:
        """Of the event that is no longer there."""
        return self._number("seq")


class Exhausted(SessiondError):
    """A limit of the service or of the tenant is reached; see `retry_after`."""


class QueueFull(Exhausted):
    """More writes are waiting than the service is willing to hold."""


class TooManyCalls(Exhausted):
    """The service serves as many calls as it is willing to at once."""


class TooManyWatchers(Exhausted):
    """The server has as many watchers as it is willing to."""


class WatcherTooSlow(Exhausted):
    """The watcher took too long to take what it was sent. `watch` goes on by itself from the last position received."""

    @property
    def position(self) -> str:
        """After the last frame that the server handed to the transport."""
        return self.metadata.get("position", "")


class TooManyTransfers(Exhausted):
    """The server has as many uploads and downloads in progress as it is willing to."""


class TooManyUploads(Exhausted):
    """The session has as many unfinished uploads as it may have: resume or delete some."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class RunQueueFull(Exhausted):
    """As many runs wait in the session as may."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")

    @property
    def limit(self) -> int:
        return self._number("limit")


class SessionQuotaReached(Exhausted):
    """The tenant has as many sessions that have not ended as it may have."""

    @property
    def limit(self) -> int:
        return self._number("limit")


class Unauthenticated(SessiondError):
    """No key, or one that the service does not know."""


class ScopeMissing(SessiondError):
    """The key lacks the scope that the call needs."""

    @property
    def scope(self) -> str:
        return self.metadata.get("scope", "")


class Unavailable(SessiondError):
    """The service could not be reached, or can't answer now. A write may have happened: retry it with the same id."""


class Starting(Unavailable):
    """The service is not ready yet."""


class Draining(Unavailable):
    """The server that answered is shutting down."""


class SessionLocked(Unavailable):
    """Another transaction of the database holds the session. Nothing was written."""

    @property
    def session_id(self) -> str:
        return self.metadata.get("session_id", "")


class StorageUnavailable(Unavailable):
    """The service cannot reach its storage of attachments."""


class StoreUnavailable(Unavailable):
    """The service cannot reach its database."""


class DeadlinePassed(SessiondError):
    """No answer in time. A write may have happened: retry it with the same `request_id`."""


class InternalError(SessiondError):
    """A defect of the service."""

    @property
    def error_id(self) -> str:
        """Finds the record in the service's log."""
        return self.metadata.get("error_id", "")


class ClientClosed(RuntimeError):
    """The client was closed before the call, or while it waited; a write that was under way may have happened."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class ClientForked(RuntimeError):
    """The process was forked after a client had connected. grpc does not work in the child: calls would wait for ever,
    or crash it. Fork before the first call, or start processes with multiprocessing's "spawn" or "forkserver"."""

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
        "VERSION_NOT_REACHED": VersionNotReached,
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
        "UPLOAD_OFFSET_MISMATCH": UploadOffsetMismatch,
        "UPLOAD_SUPERSEDED": UploadSuperseded,
        "TRANSFER_STALLED": TransferStalled,
        "TOO_MANY_TRANSFERS": TooManyTransfers,
        "TOO_MANY_UPLOADS": TooManyUploads,
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
        "TOOL_CALL_LIMIT_REACHED": ToolCallLimitReached,
        "RUN_FENCED": RunFenced,
        "RUN_QUEUE_FULL": RunQueueFull,
        "INTERNAL": InternalError,
    }
)
"""The leaves, by reason: one for each `ErrorReason`."""

BY_CODE: Mapping[str, type[SessiondError]] = MappingProxyType(
    {
        "INVALID_ARGUMENT": InvalidRequest,
        "NOT_FOUND": NotFound,
        "ALREADY_EXISTS": AlreadyExists,
        "FAILED_PRECONDITION": Refused,
        "RESOURCE_EXHAUSTED": Exhausted,
        "UNAUTHENTICATED": Unauthenticated,
        "UNAVAILABLE": Unavailable,
        # By a server that stopped, or a proxy: a caller who cancels gets asyncio.CancelledError.
        "CANCELLED": Unavailable,
        "DEADLINE_EXCEEDED": DeadlinePassed,
    }
)
"""Where an unknown reason, or none, leads; any other code: SessiondError."""
