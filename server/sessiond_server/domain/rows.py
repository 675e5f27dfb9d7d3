"""What the rules read and write: the rows of the log and its projections, as plain values.

A store turns a batch of commands into transactions with these, in one order:

    heads   = lock and load the Head of every key
    asked   = batch.needs(commands, heads, rules)
    known   = look up what was asked, in a second statement, after the locks
    decided = batch.decide(commands, heads, known, rules, new_id)
    write decided.writes, commit
    results = decided.results, with each Replay resolved by replay.outcome

Keys are (tenant_id, session_id). Times are microseconds since 1970-01-01 UTC. Rows that every write makes are not
frozen, because freezing them would cost it several microseconds; nobody changes them all the same.
"""

from dataclasses import dataclass, field

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides."""

    default_ttl_us: int = 24 * 3600 * 1_000_000
    """Life time of a session created with neither ttl nor expire_time; 0: unlimited."""
    max_live_sessions: int = 0
    """Sessions of one tenant that have not ended; 0: unlimited."""


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
    """When the sweeper must look; None: never. The stored check time may stay earlier, never later."""
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
    """The serialised payload: a Message, or a Session in SESSION_VIEW_BASIC."""
    content: bytes | None
    """The session's content, where the event wrote it (then never None, but perhaps empty); else None."""


@dataclass(slots=True)
class RequestRow:
    key: Key
    request_id: str
    record: RequestRecord


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
    deletions: list[tuple[Key, int]] = field(default_factory=list)
    """(key, final seq): remove the session's index row, its events below the final one, and its request records except
    those with last_seq = final seq. The head row stays as the tombstone."""

    def extend(self, later: "Writes") -> None:
        """Adds what a later transaction wrote."""
        self.heads += later.heads
        self.events += later.events
        self.requests += later.requests
        self.index += later.index
        self.redactions += later.redactions
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
