"""What the rules read and write: the rows of the log and its projections, as plain values.

A store turns a batch of commands into transactions with these, in one order:

    heads   = lock and load the Head of every key
    asked   = batch.needs(commands, heads, policy)
    known   = look up what was asked, in a second statement, after the locks
    decided = batch.decide(commands, heads, known, policy, new_id)
    write decided.writes, commit
    results = decided.results, with each Replay resolved by replay.outcome

Keys are (tenant_id, session_id). Times are microseconds since 1970-01-01 UTC. Rows that every write makes are not
frozen, because freezing them would cost it several microseconds; nobody changes them all the same.
"""

from dataclasses import dataclass, field
from typing import Final

from sessiond_server.domain.attachments.rows import AttachmentRow, CompletedUpload, Content, Release, UploadRecord

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decides."""

    default_ttl_us: int = 24 * 3600 * 1_000_000
    """Life time of a session created with neither ttl nor expire_time; 0: unlimited."""
    max_live_sessions: int = 0
    """Sessions of one tenant that have not ended; 0: unlimited."""
    max_attachment_bytes: int = 1024**3
    """Size of one attachment; 0: unlimited."""
    max_session_attachment_bytes: int = 10 * 1024**3
    """Of the attachments of one session together, those that are being uploaded included; 0: unlimited."""
    max_unfinished_uploads: int = 64
    """Of one session."""


@dataclass(slots=True)
class Head:
    """The hot row of one session: all that an append reads and writes. A tombstone has `deleted` and an empty core."""

    version: int
    user_id: str
    core: bytes
    """Serialised Session in SESSION_VIEW_BASIC."""
    limits: bytes
    """Serialised SessionConfig without its system prompt: what the rules check."""
    content_version: int
    """As in the core: `seq` of the event whose row holds the content; 0: there is none."""
    deleted: bool = False
    lease_expire_us: int | None = None
    """When the lease of the live run runs out; None while there is none. Heartbeats move it, without a new version."""


@dataclass(slots=True)
class RequestRecord:
    """What a request did: the events first_seq..last_seq."""

    fingerprint: bytes
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class AppendedMessage:
    """The event that appended a message: what a redaction rewrites."""

    seq: int
    head: bytes
    body: bytes


OPEN_RUNS: Final = (1, 2)
"""RunStatus of runs that have not ended: QUEUED, RUNNING."""
OPEN_CALLS: Final = (1, 2, 4)
"""ToolCallStatus of calls that are not over: PENDING, APPROVED, RUNNING."""


@dataclass(slots=True)
class OpenWork:
    """What of a session is not over, and the figures of what is."""

    runs: list[bytes] = field(default_factory=list)
    """Serialised Runs: the live one and those that wait, in any order."""
    tool_calls: list[bytes] = field(default_factory=list)
    """Bodies of the open ToolCalls (see StoredToolCall), in any order."""
    run_counters: bytes = b""
    """RunCounters, encoded."""


@dataclass(frozen=True, slots=True)
class StoredToolCall:
    """A tool call in its parts: the three together are the ToolCall."""

    body: bytes
    """Serialised ToolCall without `arguments` and `result`."""
    arguments: bytes
    """Serialised ToolCall with `arguments` only: the content of the event at `seq`."""
    result: bytes
    """Serialised ToolCall with `result` only: the content of the event at `result_seq`."""


@dataclass(slots=True)
class Needs:
    """What the rules must know beside the heads. Empty collections need no look-up."""

    requests: list[tuple[Key, str]] = field(default_factory=list)
    """(key, request_id): the RequestRecord, if any."""
    message_ids: list[tuple[Key, str]] = field(default_factory=list)
    """(key, message_id) chosen by clients: is it taken?"""
    messages: list[tuple[Key, str]] = field(default_factory=list)
    """(key, message_id) to redact: the AppendedMessage, if any."""
    contents: list[tuple[Key, int]] = field(default_factory=list)
    """(key, content_version): the content bytes of the event at that seq."""
    runs: list[tuple[Key, str]] = field(default_factory=list)
    """(key, run_id): the serialised Run, if any."""
    tool_calls: list[tuple[Key, str]] = field(default_factory=list)
    """(key, tool_call_id): the StoredToolCall, if any."""
    work: list[Key] = field(default_factory=list)
    """Sessions of which the OpenWork is needed, without duplicates."""
    attachments: list[tuple[Key, str]] = field(default_factory=list)
    """(key, attachment_id): the AttachmentRow, if any, of a deleted one too."""
    uploads: list[tuple[Key, str]] = field(default_factory=list)
    """(key, attachment_id): the UploadRecord, if any, which stays until the batch has been written."""
    blobs: list[Content] = field(default_factory=list)
    """The id of the blob that has the content, if any, which stays until the batch has been written."""
    tenants: list[str] = field(default_factory=list)
    """Tenants whose sessions that have not ended are to be counted, exactly: concurrent creations must wait."""


@dataclass(slots=True)
class Known:
    """The answers to Needs. Absent keys mean: there is none."""

    now_us: int
    """The store's clock, read after the locks were taken."""
    requests: dict[tuple[Key, str], RequestRecord] = field(default_factory=dict)
    message_ids: set[tuple[Key, str]] = field(default_factory=set)
    messages: dict[tuple[Key, str], AppendedMessage] = field(default_factory=dict)
    contents: dict[Key, bytes] = field(default_factory=dict)
    runs: dict[tuple[Key, str], bytes] = field(default_factory=dict)
    tool_calls: dict[tuple[Key, str], StoredToolCall] = field(default_factory=dict)
    work: dict[Key, OpenWork] = field(default_factory=dict)
    attachments: dict[tuple[Key, str], AttachmentRow] = field(default_factory=dict)
    uploads: dict[tuple[Key, str], UploadRecord] = field(default_factory=dict)
    blobs: dict[Content, str] = field(default_factory=dict)
    """The rules add what the batch itself brings."""
    live_sessions: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class HeadRow:
    """The head of a session after the batch, to be inserted or updated."""

    key: Key
    head: Head
    created: bool
    """No row was there when the heads were locked: insert, and start over if another transaction was faster."""
    update_time_us: int
    expire_time_us: int | None
    """When the sweeper must look, for the session's sake or for the lease of its live run; None: never. The stored
    check time may stay earlier, never later."""
    delete_time_us: int | None = None


@dataclass(frozen=True, slots=True)
class IndexRow:
    """The columns by which sessions are listed, to be inserted or updated; written only when one of them changed."""

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
    """None: as before. Never None on creation."""
    create_time_us: int


@dataclass(slots=True)
class EventRow:
    """One log entry. The wire form of the event is wire.event(head, body, content)."""

    key: Key
    seq: int
    event_id: str
    previous_event_id: str
    """Of the event before it in the session; "" for the first."""
    type: int
    create_time_us: int
    message_id: str | None
    """Of EVENT_TYPE_MESSAGE_APPENDED; None for all other types, redactions included."""
    head: bytes
    """Serialised Event without its payload."""
    body: bytes
    """The serialised payload: a Session in SESSION_VIEW_BASIC, a Message, a Run, a ToolCall without its data, or an
    Attachment."""
    content: bytes | None
    """What of the payload is large and stored nowhere else, where the event wrote it; else None. A session's content
    (then never None, but perhaps empty); the arguments, the result or the late result of a tool call."""


@dataclass(slots=True)
class RequestRow:
    key: Key
    request_id: str
    record: RequestRecord


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run, to be inserted or updated."""

    key: Key
    run_id: str
    place: int
    """Its place among the session's runs: `seq` of the event that began it; of those it was created with: ... -1, 0."""
    status: int
    body: bytes
    """Serialised Run. Of the live one, Head.lease_expire_us prevails over its `lease_expire_time`."""


@dataclass(frozen=True, slots=True)
class ToolCallRow:
    """A tool call, to be inserted or updated."""

    key: Key
    tool_call_id: str
    seq: int
    run_id: str
    status: int
    awaits_approval: bool
    """PENDING, and requires an approval."""
    user_id: str
    """Of the session."""
    create_time_us: int
    result_seq: int
    body: bytes
    """As StoredToolCall.body."""


@dataclass(slots=True)
class Writes:
    """Everything that a batch commits, to be written in this order."""

    heads: list[HeadRow] = field(default_factory=list)
    """One for each session that changed."""
    events: list[EventRow] = field(default_factory=list)
    """By session ascending in seq."""
    requests: list[RequestRow] = field(default_factory=list)
    index: list[IndexRow] = field(default_factory=list)
    redactions: list[tuple[Key, AppendedMessage]] = field(default_factory=list)
    """The new head and body of the event at `seq`; it may be among `events`."""
    runs: list[RunRow] = field(default_factory=list)
    tool_calls: list[ToolCallRow] = field(default_factory=list)
    run_counters: list[tuple[Key, bytes]] = field(default_factory=list)
    """(key, RunCounters encoded), of sessions whose runs ended."""
    leases: list[tuple[Key, int]] = field(default_factory=list)
    """(key, lease_expire_us) of sessions of which nothing else changed."""
    attachments: list[AttachmentRow] = field(default_factory=list)
    completed_uploads: list[CompletedUpload] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    deletions: list[tuple[Key, int]] = field(default_factory=list)
    """(key, final seq): remove the session's index row, its runs, tool calls and figures, its attachments and uploads,
    its events below the final one, and its request records except those with last_seq = final seq. The head row stays
    as the tombstone."""

    def extend(self, later: "Writes") -> None:
        """Adds what a later transaction wrote."""
        self.heads += later.heads
        self.events += later.events
        self.requests += later.requests
        self.index += later.index
        self.redactions += later.redactions
        self.runs += later.runs
        self.tool_calls += later.tool_calls
        self.run_counters += later.run_counters
        self.leases += later.leases
        self.attachments += later.attachments
        self.completed_uploads += later.completed_uploads
        self.releases += later.releases
        self.deletions += later.deletions


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of a command whose request the session knows: to be rebuilt from the events first_seq..last_seq."""

    key: Key
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """What replay.outcome reads of an event."""

    seq: int
    type: int
    create_time_us: int
    message_id: str | None
    body: bytes
