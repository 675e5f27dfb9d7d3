"""The rows that the rules read and write, as plain values: the log and its projections.

A store applies a batch of commands in this order:

    heads   = lock and load the Head of every key
    asked   = batch.needs(commands, heads, policy)
    known   = look up `asked`, in a second statement, after the locks
    decided = batch.decide(commands, heads, known, policy, new_id)
    write decided.writes, commit
    results = decided.results, with each Replay resolved by replay.outcome

Keys are (tenant_id, session_id). Times are microseconds since 1970-01-01 UTC. Dataclasses that every write creates are
not frozen, because frozen ones would cost a write several microseconds. Treat them as immutable all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from sessiond_server.domain.attachments.rows import AttachmentRow, CompletedUpload, Content, Release, UploadRecord
from sessiond_server.domain.documents.rows import (
    DocumentKey,
    DocumentRecord,
    DocumentRequest,
    DocumentRequestRow,
    DocumentRow,
    Owner,
)
from sessiond_server.domain.forks.rows import ForkAsk, ForkRow, ForkSource, RewindSource, RewoundRow, Shared, Spread

Key = tuple[str, str]
Held = tuple[str, str, str]
"""(tenant_id, session_id, user_id): a session and its user, or "" and a user, for what the user has beside sessions."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits that the operator sets."""

    default_ttl_us: int = 24 * 3600 * 1_000_000
    """Life time of a session created with neither ttl nor expire_time, in microseconds; 0: unlimited."""
    max_live_sessions: int = 0
    """Most sessions of one tenant that have not ended; 0: unlimited."""
    max_attachment_bytes: int = 1024**3
    """Largest size of one attachment; 0: unlimited."""
    max_session_attachment_bytes: int = 10 * 1024**3
    """Largest total size of one session's attachments, including unfinished uploads; 0: unlimited."""
    max_unfinished_uploads: int = 64
    """Most unfinished uploads of one session."""
    content_patches: int = 64
    """Most patches that a session's content consists of, besides the last whole one; 0: no event has a patch."""
    least_patched_bytes: int = 2048
    """Smallest content of which changes are stored as patches. A smaller one is stored whole each time."""


@dataclass(slots=True)
class Head:
    """The hot row of one session: everything that an append reads and writes. A tombstone has `deleted` set and an
    empty core."""

    version: int
    user_id: str
    core: bytes
    """Serialised Session in SESSION_VIEW_BASIC."""
    limits: bytes
    """Serialised SessionConfig without the system prompt. The rules check it."""
    content_version: int
    """As in the core: `seq` of the event whose row holds the content; 0: no content."""
    deleted: bool = False
    lease_expire_us: int | None = None
    """When the lease of the live run expires; None without a live run. Heartbeats move it without a new version."""
    content_sizes: bytes | None = None
    """Encoded Sizes (sessions/content.py) of the content at `content_version`; None or of another version: unknown."""
    fork_seq: int | None = None
    """Of a fork: `seq` of the last event that it shares with its parent."""
    forked: bool = False
    """Whether the session has, or had, forks."""


@dataclass(slots=True)
class RequestRecord:
    """The idempotency record of a request: it wrote the events first_seq..last_seq."""

    fingerprint: bytes
    first_seq: int
    last_seq: int
    answer: bytes = b""
    """What the log no longer has of the answer: the messages that the request deleted and returned. Only the memory
    store keeps it here; Postgres reads it where it is needed."""


@dataclass(frozen=True, slots=True)
class AppendedMessage:
    """The event that appended a message, which a redaction or a deletion rewrites."""

    seq: int
    head: bytes
    body: bytes
    log_id: str = ""
    """The log that has the event; "" for the session's own."""


@dataclass(frozen=True, slots=True)
class FoundMessages:
    """The messages that a selection found, as far as they have at most the wanted bytes together."""

    messages: Sequence[AppendedMessage]
    """Of these: the first in the selection's order, and as many of those that follow as fit."""
    complete: bool
    """Whether these are all that the selection found."""


@dataclass(slots=True)
class OpenWork:
    """The runs and tool calls of a session that have not ended, and the counters of runs that have."""

    runs: list[bytes] = field(default_factory=list)
    """Serialised Runs: the live one and the queued ones, in any order."""
    tool_calls: list[bytes] = field(default_factory=list)
    """Bodies of the open ToolCalls (see StoredToolCall), in any order."""
    run_counters: bytes = b""
    """Encoded RunCounters."""


@dataclass(frozen=True, slots=True)
class StoredToolCall:
    """A tool call in three parts, which joined are the serialised ToolCall."""

    body: bytes
    """Serialised ToolCall without `arguments` and `result`."""
    arguments: bytes
    """Serialised ToolCall with `arguments` only: the content of the event at `seq`."""
    result: bytes
    """Serialised ToolCall with `result` only: the content of the event at `result_seq`."""


@dataclass(slots=True)
class Needs:
    """The look-ups that the rules need beside the heads. An empty list needs no look-up."""

    requests: list[tuple[Key, str]] = field(default_factory=list)
    """(key, request_id) -> RequestRecord, if there is one."""
    message_ids: list[tuple[Key, str]] = field(default_factory=list)
    """(key, message_id) chosen by a client -> whether a message has the id already."""
    messages: list[tuple[Key, str]] = field(default_factory=list)
    """(key, message_id) to redact -> AppendedMessage, if there is one."""
    newest: dict[Key, tuple[int, int]] = field(default_factory=dict)
    """key: (count, bytes) -> FoundMessages: so many of the session's newest messages, newest first."""
    ranges: dict[tuple[Key, int, int], tuple[int, int]] = field(default_factory=dict)
    """(key, from, to): (count, bytes) -> FoundMessages: the messages whose seq lies in the range, itself included,
    ascending, and at most `count` of them."""
    named: dict[tuple[Key, tuple[str, ...]], int] = field(default_factory=dict)
    """(key, message ids): bytes -> FoundMessages: those that exist, in the order of the ids."""
    contents: list[tuple[Key, int]] = field(default_factory=list)
    """(key, content_version) -> the session's whole content at that version."""
    runs: list[tuple[Key, str]] = field(default_factory=list)
    """(key, run_id) -> the serialised Run, if there is one."""
    tool_calls: list[tuple[Key, str]] = field(default_factory=list)
    """(key, tool_call_id) -> StoredToolCall, if there is one."""
    work: list[Key] = field(default_factory=list)
    """Sessions whose OpenWork is needed, without duplicates."""
    attachments: list[tuple[Key, str]] = field(default_factory=list)
    """(key, attachment_id) -> AttachmentRow, if there is one; deleted attachments included."""
    uploads: list[tuple[Key, str]] = field(default_factory=list)
    """(key, attachment_id) -> UploadRecord, if there is one. It must not go away before the batch is written."""
    blobs: list[Content] = field(default_factory=list)
    """Content -> id of the blob that holds it, if there is one. It must not go away before the batch is written."""
    documents: list[DocumentKey] = field(default_factory=list)
    """DocumentKey -> DocumentRecord, if there is a row; perhaps with duplicates. It must not change before the batch is
    written, and is locked after the heads, in the order of keys."""
    document_requests: list[tuple[Owner, str]] = field(default_factory=list)
    """(owner, request_id) -> DocumentRequest, if there is one. Looked up once the documents are locked."""
    inherited: list[tuple[Key, str]] = field(default_factory=list)
    """(key, message_id), of forks -> AppendedMessage in `messages`, if there is one in what the fork shares with its
    parent."""
    rewinds: list[ForkAsk] = field(default_factory=list)
    forks: list[ForkAsk] = field(default_factory=list)
    """-> ForkSource; `rewinds` -> RewindSource. Neither may change, nor a shown session be deleted, until the write."""
    shared: list[Key] = field(default_factory=list)
    """Sessions of which parts may be shown by forks -> Shared. No deletion of a fork or of a session with forks, of the
    same tenant, may be in progress until the batch is written. Without duplicates."""
    unsharing: list[str] = field(default_factory=list)
    """Tenants of which a fork, or a session with forks, is to be deleted. No ForkSource or Shared of the tenant may be
    in use by another batch until this one is written."""
    holds: list[Held] = field(default_factory=list)
    """-> whether a legal hold keeps it. No hold of the tenant may be placed until the batch is written."""
    tenants: list[str] = field(default_factory=list)
    """Tenants whose live sessions are to be counted. The count is exact: concurrent creations must wait."""


@dataclass(slots=True)
class Known:
    """The results of the look-ups in Needs. An absent key means that there is no such row."""

    now_us: int
    """The store's clock, read after the locks were taken."""
    requests: dict[tuple[Key, str], RequestRecord] = field(default_factory=dict)
    message_ids: set[tuple[Key, str]] = field(default_factory=set)
    messages: dict[tuple[Key, str], AppendedMessage] = field(default_factory=dict)
    newest: dict[Key, FoundMessages] = field(default_factory=dict)
    ranges: dict[tuple[Key, int, int], FoundMessages] = field(default_factory=dict)
    named: dict[tuple[Key, tuple[str, ...]], FoundMessages] = field(default_factory=dict)
    contents: dict[Key, bytes] = field(default_factory=dict)
    runs: dict[tuple[Key, str], bytes] = field(default_factory=dict)
    tool_calls: dict[tuple[Key, str], StoredToolCall] = field(default_factory=dict)
    work: dict[Key, OpenWork] = field(default_factory=dict)
    attachments: dict[tuple[Key, str], AttachmentRow] = field(default_factory=dict)
    uploads: dict[tuple[Key, str], UploadRecord] = field(default_factory=dict)
    blobs: dict[Content, str] = field(default_factory=dict)
    """The rules add the blobs that the batch itself brings."""
    documents: dict[DocumentKey, DocumentRecord] = field(default_factory=dict)
    document_requests: dict[tuple[Owner, str], DocumentRequest] = field(default_factory=dict)
    forks: dict[Key, ForkSource] = field(default_factory=dict)
    """By the key of the session that is forked."""
    rewinds: dict[Key, RewindSource] = field(default_factory=dict)
    shared: dict[Key, Shared] = field(default_factory=dict)
    held: set[Held] = field(default_factory=set)
    held_messages: set[tuple[Key, str]] = field(default_factory=set)
    """Those of Needs.messages that a session which is held shows."""
    live_sessions: dict[str, int] = field(default_factory=dict)
    homes_version: int = 0
    """As Homes.version (store/homes.py)."""


@dataclass(slots=True)
class HeadRow:
    """The head of a session after the batch, to insert or update."""

    key: Key
    head: Head
    created: bool
    """There was no row when the heads were locked: insert it, and start over if another transaction inserted first."""
    update_time_us: int
    expire_time_us: int | None
    """When the sweeper must next look at the session, for its expiry or the lease of its live run; None: never. The
    stored check time may be earlier than this, never later."""
    delete_time_us: int | None = None
    content: bytes | None = None
    """The whole content, for caches, where the batch changed it and had it at hand. Not stored with the head."""


@dataclass(frozen=True, slots=True)
class IndexRow:
    """The columns that lists of sessions filter and sort by, to insert or update. Written only when one of them
    changed."""

    key: Key
    type: int
    agent_id: str
    team_id: str
    workflow_id: str
    user_id: str
    name: str
    status: int
    labels: dict[str, str]
    metadata_json: str | None
    """None: unchanged. Never None on creation."""
    create_time_us: int


@dataclass(slots=True)
class EventRow:
    """One log entry. The serialised Event is encoding.event(type, head, body, content)."""

    key: Key
    seq: int
    event_id: str
    previous_event_id: str
    """Id of the session's previous event; "" for the first."""
    type: int
    create_time_us: int
    message_id: str | None
    """Id of the message that the event appended; None if the message has been deleted since, and for all other event
    types, redactions included."""
    head: bytes
    """Serialised Event without its payload."""
    body: bytes
    """The serialised payload: a Session in SESSION_VIEW_BASIC, a Message, a Run, a ToolCall without its data, or an
    Attachment."""
    content: bytes | None
    """The large part of the payload that is stored in this row only; None if the event wrote none. It is a session's
    content or a patch of it (sessions/content.py; b"" where an update emptied it), or the arguments, the result or the
    late result of a tool call."""
    core: bytes | None = None
    """The session's core after the event, where its seq is a multiple of CORES (forks/rows.py), unless `body` is it."""


@dataclass(slots=True)
class RequestRow:
    key: Key
    request_id: str
    record: RequestRecord


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run, to insert or update."""

    key: Key
    run_id: str
    place: int
    """Order among the session's runs: `seq` of the event that began the run. Runs that the session was created with
    have ..., -1, 0."""
    status: int
    body: bytes
    """Serialised Run. For the live run, Head.lease_expire_us overrides its `lease_expire_time`."""


@dataclass(frozen=True, slots=True)
class ToolCallRow:
    """A tool call, to insert or update."""

    key: Key
    tool_call_id: str
    seq: int
    run_id: str
    status: int
    awaits_approval: bool
    """Whether the call is PENDING and requires an approval."""
    user_id: str
    """User id of the session."""
    create_time_us: int
    expire_time_us: int | None
    """When a call that awaits an approval expires; None: never, or it awaits none any more."""
    result_seq: int
    body: bytes
    """As StoredToolCall.body."""
    inherited: bool = False
    """Whether an event that the session shares with others may have the call's data."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deleted session. Remove its index row, marks, runs, tool calls, run counters, attachments and uploads, its
    events below `version`, and its request records with base_version + 1 < first_seq and last_seq < version: all but
    those of former sessions with the id, of the creation and of the deletion. Make its documents tombstones. The head
    row stays as the tombstone. Of its events those stay that forks show, in a hidden log; with the last
    session that shows them, events of hidden logs are removed."""

    key: Key
    version: int
    """`seq` of the final event."""
    base_version: int
    branched: bool = False
    """Whether the session is a fork, or has or had forks."""
    kept_seq: int = 0
    """Not 0: the events through this one stay where they are until they are moved to the hidden log in steps
    (ForkStore.hide). The tombstone's Head.forked says so until then, and the id cannot be taken anew."""
    user_id: str = ""
    agent_id: str = ""
    """Those that the session had: under them its events count as used that are not counted yet."""


@dataclass(frozen=True, slots=True)
class Title:
    """A name that a message gave its session, to be removed from the events of the session that repeat it: each with a
    Session payload and this name loses it (domain/messages/titles.py). Events of the batch may be among them."""

    key: Key
    name: str
    seq: int
    """Of the message: the events follow it."""
    last_seq: int
    """At least that of the last of these events."""
    inherited: bool = False
    """Whether the message is in what a fork shares with its parent: the events between it and the fork's own lose the
    name too, in whichever log they are."""


@dataclass(slots=True)
class Writes:
    """Everything that a batch commits. A store writes the fields in this order, but `removals` first: an event of the
    batch may append a message with the id of a removed one."""

    removals: list[tuple[Key, AppendedMessage]] = field(default_factory=list)
    """What the event at `seq` has left of a message that was deleted; a stored event, never one of `events`. The
    message leaves all lists and look-ups, and its id is free again."""

    heads: list[HeadRow] = field(default_factory=list)
    """One row for each session that changed."""
    events: list[EventRow] = field(default_factory=list)
    """Ascending by seq within each session."""
    requests: list[RequestRow] = field(default_factory=list)
    index: list[IndexRow] = field(default_factory=list)
    marks: list[tuple[Key, str, int]] = field(default_factory=list)
    """(key, mark, seq) to add, by which messages are found (see domain/messages/marks.py)."""
    unmarks: list[tuple[Key, str, int]] = field(default_factory=list)
    """(key, mark, seq) to remove; never one of `marks`."""
    redactions: list[tuple[Key, AppendedMessage]] = field(default_factory=list)
    """The new head and body of the event at `seq`, which may be one of `events`."""
    titles: list[Title] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    tool_calls: list[ToolCallRow] = field(default_factory=list)
    run_counters: list[tuple[Key, bytes]] = field(default_factory=list)
    """(key, encoded RunCounters) of sessions whose runs ended."""
    leases: list[tuple[Key, int]] = field(default_factory=list)
    """(key, lease_expire_us) of sessions of which only the lease changed."""
    attachments: list[AttachmentRow] = field(default_factory=list)
    completed_uploads: list[CompletedUpload] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    """A store executes them before it writes the other fields, which may be of a session that takes the id anew."""
    dropped: list[EventRow] = field(default_factory=list)
    """Events of the batch that it does not write, because it deletes their sessions. They still count as used."""
    forks: list[ForkRow] = field(default_factory=list)
    rewound: list[RewoundRow] = field(default_factory=list)
    spreads: list[Spread] = field(default_factory=list)
    """Redactions of messages that other sessions may show, to keep until these have been told."""
    documents: list[DocumentRow] = field(default_factory=list)
    """Ascending by key. Written after a deletion: the session may have been created anew in the same batch."""
    document_requests: list[DocumentRequestRow] = field(default_factory=list)

    def extend(self, later: "Writes") -> None:
        """Adds the writes of a later transaction."""
        for each in fields(self):
            getattr(self, each.name).extend(getattr(later, each.name))

    def stored_redactions(self) -> list[tuple[Key, AppendedMessage]]:
        """`redactions`, each with the key of the log that has the event."""
        return [((key[0], message.log_id or key[1]), message) for key, message in self.redactions]

    def rewritten(self) -> dict[Key, tuple[int, int]]:
        """The lowest and the highest seq of the rewritten events of each session that has any."""
        found: dict[Key, tuple[int, int]] = {}
        places = [(key, message.seq, message.seq) for key, message in (*self.removals, *self.redactions)]
        for key, low, high in (*places, *((title.key, title.seq, title.last_seq) for title in self.titles)):
            first, last = found.get(key, (low, high))
            found[key] = min(first, low), max(last, high)
        return found


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of a command whose request id has a record: the outcome is rebuilt from the events first_seq..last_seq."""

    key: Key
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """The columns of an event that replay.outcome reads."""

    seq: int
    type: int
    create_time_us: int
    message_id: str | None
    body: bytes
    head: bytes = b""
    """As EventRow.head."""
