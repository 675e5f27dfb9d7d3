"""Commands and their outcomes, as plain values.

A command is an action on one session by one principal. The rules (`batch.ACTIONS`) turn it into events or an error. A
store applies many commands at once. Resource messages inside an action belong to the caller: the rules copy a message
before they change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Failure, Run, RunStatus
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.session_pb2 import EndReason, Session, TokenUsage
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolData
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.sessions.incarnation import Incarnation
from sessiond_server.errors import SessiondError

ACTOR = "sessiond"
"""Event.actor of writes that the server makes on its own. No key has this name."""

INTERNAL_REQUEST_PREFIX = "!"
"""First character of the request ids that the server makes for requests without one. Clients cannot send it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant and user that a call is limited to. Part of every key and predicate (G11)."""

    tenant_id: str
    user_id: str = ""
    """If not empty, only sessions with this `user_id` exist for the caller."""


@dataclass(frozen=True, slots=True)
class CreateSession:
    session: Session
    """Validated. `session_id`, status, type and mode are set; of ttl and expire_time at most one is set."""
    runs: Sequence[Run] = ()
    """Runs that the session had in another system, oldest first. Validated; all have ended. The rules fill in empty ids
    and absent times."""
    no_expiry: bool = False
    """The policy's default time to live does not apply."""
    prefix: str = ""
    """What the paths of `session` and `runs` in the request begin with, for violations."""
    reuse_deleted: bool = False
    """The id may be that of a deleted session of the same user."""
    missing_template: str = ""
    """The template that the request names, where there is none: then only a retry has an outcome."""


@dataclass(frozen=True, slots=True)
class UpdateSession:
    session: Session
    paths: Sequence[str]
    """Paths of the update mask. Validated, without duplicates. A path such as `config.max_messages` names one field of
    the config."""
    struct_update: StructUpdate.ValueType
    remove_keys: Sequence[str] = ()
    """Members to remove with STRUCT_UPDATE_SET_KEYS, as `FIELD.MEMBER`. Validated; each FIELD is one of `paths`."""
    prefix: str = ""
    """What the path of `session` in the request begins with, for violations."""
    full: bool = True
    """Whether the outcome has the session's content."""


@dataclass(frozen=True, slots=True)
class ForkSession:
    """Makes the command's session a fork of another one. A batch has no other command beside it (store/branches.py)."""

    parent_id: str
    place: ForkPlace
    parent_version: int = 0
    """The parent's version must be this one. 0: any version."""
    update: UpdateSession | None = None
    """What the fork has instead of the parent's fields."""


@dataclass(frozen=True, slots=True)
class RewindSession:
    """Takes the session back to one of its places. A batch has no other command beside it (store/branches.py)."""

    place: ForkPlace
    restore: bool = True
    """Whether the content, but for the config, becomes what it was at the place."""


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
    """Sent by the sweeper. Ends the session if it has expired; else the live run if its lease has expired, and the tool
    calls whose approval did not come in time."""


@dataclass(frozen=True, slots=True)
class TouchSession:
    extend_us: int
    """New life time in microseconds from now. 0: the session's ttl."""


@dataclass(frozen=True, slots=True)
class DeleteSession:
    pass


@dataclass(frozen=True, slots=True)
class PutDocument:
    """Creates or replaces a document."""

    scope: DocumentScope.ValueType
    """Like `scope_id` and `key` validated and complete: those of `document` may be empty."""
    scope_id: str
    key: str
    document: Document
    expected_version: int | None = None
    """The document's version must be this one; 0: there must be none. None: any version, or none."""


@dataclass(frozen=True, slots=True)
class DeleteDocument:
    scope: DocumentScope.ValueType
    """As of PutDocument, like the other fields."""
    scope_id: str
    key: str
    expected_version: int | None = None


DocumentWrite = PutDocument | DeleteDocument


@dataclass(frozen=True, slots=True)
class AppendMessages:
    messages: Sequence[Message]
    """1 to 256 messages, validated. The rules fill in an empty `message_id`."""
    documents: Sequence[DocumentWrite] = field(default=(), kw_only=True)
    """Written along with the messages, each document once."""


@dataclass(frozen=True, slots=True)
class UpdateAndAppend(AppendMessages):
    """Changes the session and appends messages to it, both or neither."""

    update: UpdateSession


@dataclass(frozen=True, slots=True)
class RedactMessage:
    message_id: str
    reason: str
    title: str = ""
    """With `spread`: the name that the message gave to sessions; "" for none."""
    spread: bool = False
    """Whether the server spreads a redaction of another session that shows the message, which holds for ended sessions
    too."""


@dataclass(frozen=True, slots=True)
class DeleteMessages:
    """Deletes the messages that one of the three selections names."""

    message_ids: tuple[str, ...] = ()
    """Different ids, at most DELETED_AT_ONCE; all must exist."""
    from_seq: int = 0
    to_seq: int = 0
    """All messages from `from_seq` through `to_seq`. 0: no range."""
    last_n: int = 0
    """So many of the newest messages, at most DELETED_AT_ONCE."""
    return_messages: bool = False

    @property
    def most_bytes(self) -> int:
        """Most bytes of the selected messages together, unless it is a single one."""
        return RETURNED_BYTES if self.return_messages else DELETED_BYTES


DELETED_AT_ONCE: Final = 1000
"""Most messages that one deletion takes."""
DELETED_BYTES: Final = 16 * 1024 * 1024
RETURNED_BYTES: Final = 3 * 1024 * 1024
"""Most bytes of deleted messages that are returned: they are part of one answer."""


@dataclass(frozen=True, slots=True)
class BeginRun:
    run: Run
    """Validated; `lease` is set. The rules fill in an empty `run_id` and overwrite output-only fields."""
    policy: RunPolicy.ValueType
    """Never RUN_POLICY_UNSPECIFIED."""


@dataclass(frozen=True, slots=True)
class HeartbeatRun:
    """Extends the lease of the live run, whose fence the command carries."""


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Ends the live run, whose fence the command carries."""

    status: RunStatus.ValueType
    """COMPLETED or FAILED."""
    error: Failure | None
    usage: TokenUsage | None
    model: str
    """Empty: the model stays as BeginRun set it."""


@dataclass(frozen=True, slots=True)
class CancelRun:
    run_id: str


@dataclass(frozen=True, slots=True)
class RequestToolCall:
    call: ToolCall
    """Validated. The rules fill in an empty `tool_call_id` and overwrite output-only fields."""
    approval_ttl_us: int = 0
    """How long the call waits for its approval, in microseconds. 0: until its `expire_time`, or for ever."""


@dataclass(frozen=True, slots=True)
class DecideToolCall:
    tool_call_id: str
    approve: bool
    """True approves the call, False rejects it."""
    approver: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartToolCall:
    tool_call_id: str


@dataclass(frozen=True, slots=True)
class EndToolCall:
    """Completes a running call, or fails it where `error` is set."""

    tool_call_id: str
    result: ToolData | None
    error: Failure | None


@dataclass(frozen=True, slots=True)
class CancelToolCall:
    tool_call_id: str


@dataclass(frozen=True, slots=True)
class CompleteUpload:
    """Turns an upload into an attachment. All bytes of the upload are stored durably and match its checksum."""

    attachment_id: str
    epoch: int
    """Upload.epoch of the call that completes the upload; see attachments/rows.py."""
    sha256: bytes
    """As declared."""
    size_bytes: int
    """As declared."""
    blob_id: str = ""
    """Upload.blob_id, which an upload to a session that has the id of a deleted one does not share. Empty: any."""


@dataclass(frozen=True, slots=True)
class DeleteAttachment:
    attachment_id: str


@dataclass(frozen=True, slots=True)
class CreateSummary:
    summary: Summary
    """Validated. The rules fill in and overwrite output-only fields."""
    after_end: bool = False
    """Whether the session may have ended: the server's own summaries of ended sessions."""


ToolCallChange = DecideToolCall | StartToolCall | EndToolCall | CancelToolCall
"""Actions on an existing tool call."""


Action = (
    CreateSession
    | ForkSession
    | RewindSession
    | UpdateSession
    | ActivateSession
    | SuspendSession
    | ResumeSession
    | EndSession
    | ExpireSession
    | TouchSession
    | DeleteSession
    | AppendMessages
    | UpdateAndAppend
    | RedactMessage
    | DeleteMessages
    | BeginRun
    | HeartbeatRun
    | FinishRun
    | CancelRun
    | RequestToolCall
    | ToolCallChange
    | CompleteUpload
    | DeleteAttachment
    | DocumentWrite
    | CreateSummary
)


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to write as the live run."""

    run_id: str
    fence: int


@dataclass(slots=True)
class Command:
    """An action with everything that its decision depends on besides the session. Never changed, so that it can be
    applied again; not frozen, like the outcome of appends, because that would cost each call a microsecond."""

    scope: Scope
    session_id: str
    """Empty for a write of a document that belongs to no session, and only then."""
    action: Action
    actor: str
    """Value of Event.actor."""
    request_id: str
    """The caller's request id, or one that the server made, which starts with INTERNAL_REQUEST_PREFIX. Never empty. It
    makes applying the same command again idempotent, after a caller's retry as after a lost database connection."""
    fingerprint: bytes = b""
    """Hash of the request's content, 16 bytes. Empty for internal request ids."""
    expected_version: int = 0
    """The session's version must be this one. 0: any version."""
    size: int = 0
    """Bytes of the request, which count against the bound of a batch."""
    fence: Fence | None = None
    """Fence of the run that writes. None: the write is not part of a run."""
    incarnation: Incarnation | None = None
    """The session must be this one, and not another that has its id now. None: any."""

    @property
    def key(self) -> tuple[str, str]:
        """(tenant_id, session_id): the first columns of every primary key that the command touches."""
        return (self.scope.tenant_id, self.session_id)


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """A session as bytes: `core + content` is the serialised full Session, `core` alone the one in
    SESSION_VIEW_BASIC."""

    version: int
    core: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionWritten:
    """Outcome of create, update, touch and the transitions: the session right after the command. Its content is b""
    after an update that did not ask for it."""

    session: SessionSnapshot

    @property
    def version(self) -> int:
        return self.session.version


@dataclass(slots=True)
class MessagesAppended:
    """Outcome of an append."""

    version: int
    first_seq: int
    message_ids: tuple[str, ...]
    create_time_us: int
    """Microseconds since 1970-01-01 UTC."""
    documents: tuple[bytes, ...] = ()
    """Serialised DocumentChanges, in the order of the action's `documents`."""


@dataclass(frozen=True, slots=True)
class MessageRedacted:
    """Outcome of a redaction: the serialised redacted Message."""

    version: int
    message: bytes


@dataclass(frozen=True, slots=True)
class MessagesDeleted:
    """Outcome of a deletion of messages."""

    version: int
    seqs: tuple[int, ...]
    """Ascending."""
    message_ids: tuple[str, ...]
    delete_time_us: int
    messages: bytes
    """Serialised DeleteMessagesResponse with its `messages` only; b"" if they were not asked for."""


@dataclass(frozen=True, slots=True)
class SessionDeleted:
    """Outcome of a deletion."""

    version: int
    """`seq` of the session's final event."""


@dataclass(frozen=True, slots=True)
class RunWritten:
    """Outcome of beginning, finishing or cancelling a run: the serialised Run right after the command."""

    version: int
    """Version of the session. Run.version may be lower, where the command also started the next run."""
    run: bytes


@dataclass(frozen=True, slots=True)
class LeaseExtended:
    """Outcome of a heartbeat, which writes no event."""

    version: int
    lease_expire_time_us: int
    lease_us: int


@dataclass(frozen=True, slots=True)
class ToolCallWritten:
    """Outcome of every action on a tool call: the serialised ToolCall right after the command, with its data."""

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
class DocumentWritten:
    """Outcome of a put or deletion of a document."""

    version: int
    """0 for a document that belongs to no session."""
    change: bytes
    """Serialised DocumentChange."""


@dataclass(frozen=True, slots=True)
class SummaryCreated:
    """Outcome of a created summary: the serialised Summary."""

    version: int
    summary: bytes


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """Outcome of an ExpireSession that found nothing to end, or only a run."""

    version: int


Outcome = (
    SessionWritten
    | MessagesAppended
    | MessageRedacted
    | MessagesDeleted
    | SessionDeleted
    | RunWritten
    | LeaseExtended
    | ToolCallWritten
    | AttachmentUploaded
    | AttachmentDeleted
    | DocumentWritten
    | SummaryCreated
    | NothingToDo
)
"""What an accepted command did. A retry gets an equal outcome, rebuilt from the log. Each outcome has the session's
`version` right after the command."""

Result = Outcome | SessiondError
"""A refusal is a value, so that one command cannot fail other commands of its batch."""
