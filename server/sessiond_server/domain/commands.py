"""What a caller can ask the log to do, and what comes back: plain values, no behaviour.

A command is an action on one session by one principal. The rules (`batch.ACTIONS`) turn it into events or an error; a
store applies many at once. Resource messages inside an action are the caller's: the rules copy before they change
anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Failure, Run, RunStatus
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.session_pb2 import EndReason, Session, TokenUsage
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.errors import SessiondError

INTERNAL_REQUEST_PREFIX = "!"
"""Starts the request ids that the server makes for requests without one; clients cannot use the character."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose sessions: part of every key and predicate (G11)."""

    tenant_id: str
    user_id: str = ""
    """Not empty: only sessions with this `user_id` exist for the caller."""


@dataclass(frozen=True, slots=True)
class CreateSession:
    session: Session
    """As validated; `session_id`, status, type and mode are set, and exactly one of ttl and expire_time or neither."""
    runs: Sequence[Run] = ()
    """Those it had elsewhere, oldest first; validated, ended. Empty ids and absent times are filled in by the rules."""


@dataclass(frozen=True, slots=True)
class UpdateSession:
    session: Session
    paths: Sequence[str]
    """Validated, without duplicates; `config.max_messages` and the like name one field of the config."""
    struct_update: StructUpdate.ValueType


@dataclass(frozen=True, slots=True)
class ActivateSession:
    pass


@dataclass(frozen=True, slots=True)
class SuspendSession:
    pass


@dataclass(frozen=True, slots=True)
class ResumeSession:
    pass


@dataclass(frozen=True, slots=True)
class EndSession:
    reason: EndReason.ValueType


@dataclass(frozen=True, slots=True)
class ExpireSession:
    """The sweeper's: ends the session if its time is over, or the live run if its lease is; else does nothing."""


@dataclass(frozen=True, slots=True)
class TouchSession:
    extend_us: int
    """Microseconds from now; 0: the session's ttl."""


@dataclass(frozen=True, slots=True)
class DeleteSession:
    pass


@dataclass(frozen=True, slots=True)
class AppendMessages:
    messages: Sequence[Message]
    """1 to 256, validated. An empty `message_id` is filled in by the rules."""


@dataclass(frozen=True, slots=True)
class RedactMessage:
    message_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BeginRun:
    run: Run
    """Validated; `lease` is set. An empty `run_id` is filled in by the rules, output-only fields are overwritten."""
    policy: RunPolicy.ValueType
    """Not unspecified."""


@dataclass(frozen=True, slots=True)
class HeartbeatRun:
    """Extends the lease of the live run. The command has its fence."""


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Ends the live run. The command has its fence."""

    status: RunStatus.ValueType
    """COMPLETED or FAILED."""
    error: Failure | None
    usage: TokenUsage | None
    model: str
    """Empty: as begun."""


@dataclass(frozen=True, slots=True)
class CancelRun:
    run_id: str


@dataclass(frozen=True, slots=True)
class RequestToolCall:
    call: ToolCall
    """Validated. An empty `tool_call_id` is filled in by the rules, output-only fields are overwritten."""


@dataclass(frozen=True, slots=True)
class DecideToolCall:
    tool_call_id: str
    approve: bool
    """Else reject."""
    approver: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartToolCall:
    tool_call_id: str


@dataclass(frozen=True, slots=True)
class EndToolCall:
    """What came of a call: it failed where there is an error."""

    tool_call_id: str
    result: ToolData | None
    error: Failure | None


@dataclass(frozen=True, slots=True)
class CancelToolCall:
    tool_call_id: str


@dataclass(frozen=True, slots=True)
class CompleteUpload:
    """Makes an attachment of an upload whose bytes are all there, right and safe."""

    attachment_id: str
    epoch: int
    """Of the upload, as the call that completes it has taken it up; see files.Upload."""
    sha256: bytes
    size_bytes: int
    """Both as declared."""


@dataclass(frozen=True, slots=True)
class DeleteAttachment:
    attachment_id: str


ToolCallChange = DecideToolCall | StartToolCall | EndToolCall | CancelToolCall
"""Actions on a tool call that exists."""


Action = (
    CreateSession
    | UpdateSession
    | ActivateSession
    | SuspendSession
    | ResumeSession
    | EndSession
    | ExpireSession
    | TouchSession
    | DeleteSession
    | AppendMessages
    | RedactMessage
    | BeginRun
    | HeartbeatRun
    | FinishRun
    | CancelRun
    | RequestToolCall
    | ToolCallChange
    | CompleteUpload
    | DeleteAttachment
)


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write as the live run."""

    run_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Command:
    """An action with everything that decides its fate besides the session. Immutable: can be applied again."""

    scope: Scope
    session_id: str
    action: Action
    actor: str
    """Name for the event; see Event.actor."""
    request_id: str
    """Never empty: the caller's, or one of the server's own that starts with INTERNAL_REQUEST_PREFIX. It makes a
    second application of the same command exact, whether the caller retried or the server lost its connection."""
    fingerprint: bytes = b""
    """Of the request's content, 16 bytes; empty for internal request ids."""
    expected_version: int = 0
    """0: any."""
    size: int = 0
    """Bytes of the request, for the bound of a batch."""
    fence: Fence | None = None
    """The run that writes; None: nobody's."""

    @property
    def key(self) -> tuple[str, str]:
        """(tenant_id, session_id): the primary key of everything the command touches."""
        return (self.scope.tenant_id, self.session_id)


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """A session as bytes: `core + content` is a serialised full Session, `core` one in SESSION_VIEW_BASIC."""

    version: int
    core: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionWritten:
    """Outcome of create, update, the transitions and touch: the session right after the command."""

    session: SessionSnapshot

    @property
    def version(self) -> int:
        return self.session.version


@dataclass(frozen=True, slots=True)
class MessagesAppended:
    """Outcome of an append."""

    version: int
    first_seq: int
    message_ids: tuple[str, ...]
    create_time_us: int
    """Microseconds since 1970-01-01 UTC."""


@dataclass(frozen=True, slots=True)
class MessageRedacted:
    """Outcome of a redaction: the serialised Message that remains."""

    version: int
    message: bytes


@dataclass(frozen=True, slots=True)
class SessionDeleted:
    """Outcome of a deletion: `seq` of the final event."""

    version: int


@dataclass(frozen=True, slots=True)
class RunWritten:
    """Outcome of a run begun, finished or cancelled: the serialised Run right after it."""

    version: int
    """Of the session; the run's own may be lower, where another run was started after it."""
    run: bytes


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """Outcome of a heartbeat, which makes no event."""

    version: int
    lease_expire_time_us: int
    lease_us: int


@dataclass(frozen=True, slots=True)
class ToolCallWritten:
    """Outcome of every action on a tool call: the serialised ToolCall right after it, with its data."""

    version: int
    tool_call: bytes


@dataclass(frozen=True, slots=True)
class AttachmentUploaded:
    """Outcome of a completed upload: the serialised Attachment."""

    version: int
    attachment: bytes


@dataclass(frozen=True, slots=True)
class AttachmentDeleted:
    """Outcome of a deleted attachment."""

    version: int


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """Outcome of an ExpireSession, whether it came in time or not."""

    version: int


Outcome = (
    SessionWritten
    | MessagesAppended
    | MessageRedacted
    | SessionDeleted
    | RunWritten
    | LeaseExtended
    | ToolCallWritten
    | AttachmentUploaded
    | AttachmentDeleted
    | NothingToDo
)
"""What an accepted command did. Built from the log: a retry gets an equal one. Each has the session's `version` right
after the command."""

Result = Outcome | SessiondError
"""A refusal is a value, so that one command cannot fail its neighbours in a batch."""
