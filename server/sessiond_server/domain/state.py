"""The state of one session, and of one command, while a batch is decided. The rules read it and emit events into it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.struct_pb2 import Struct

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionView
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold
from sessiond_server.domain.attachments.changes import AttachmentChanges
from sessiond_server.domain.attachments.rows import AttachmentRow
from sessiond_server.domain.documents.changes import DocumentChanges
from sessiond_server.domain.forks.rows import CORES, ForkRow, RewoundRow, Shared, Spread
from sessiond_server.domain.rows import AppendedMessage, EventRow, Head, Key, Known, Policy, Title
from sessiond_server.domain.runs.work import Work
from sessiond_server.domain.sessions.content import Sizes, is_patch
from sessiond_server.domain.times import microseconds, set_timestamp

# A constant, because each access through the enum costs most of a microsecond.
NO_VIEW: Final = SessionView.SESSION_VIEW_UNSPECIFIED


@dataclass(slots=True)
class State:
    """One session while a batch is decided. Accepted commands change `core`, `content` and the other fields."""

    key: Key
    core: Session
    limits: SessionConfig
    user_id: str
    known: Known
    content: bytes | None = b""
    """The whole content. None: not loaded, because no command of the batch needs it."""
    sizes: Sizes | None = None
    """Those of the content; None: not known."""
    content_changed: bool = False
    metadata: Struct | None = None
    """The metadata, if they changed."""
    lease_expire_us: int | None = None
    """When the lease of the live run expires; None without a live run."""
    created: bool = False
    deleted: bool = False
    indexed: bool = False
    """Whether a column of IndexRow changed."""
    base_version: int = 0
    """Session.base_version, of a deleted session too."""
    new_message_ids: set[str] = field(default_factory=set)
    redacted: dict[str, AppendedMessage] = field(default_factory=dict)
    """Messages redacted in this batch, by id."""
    marks: dict[tuple[str, int], None] = field(default_factory=dict)
    """(mark, seq) of messages that this batch appends."""
    unmarks: list[tuple[str, int]] = field(default_factory=list)
    """(mark, seq) that stored messages lose in this batch."""
    unmarks_elsewhere: list[tuple[str, str, int]] = field(default_factory=list)
    """(log_id, mark, seq) that messages of other logs lose in this batch."""
    removed: dict[int, AppendedMessage] = field(default_factory=dict)
    """What this batch leaves of messages that it deleted, by seq."""
    titles: list[Title] = field(default_factory=list)
    """Names that messages gave which this batch redacted or deleted."""
    fork_seq: int | None = None
    """As Head.fork_seq."""
    forked: bool = False
    """As Head.forked."""
    kept_seq: int = 0
    """As Deletion.kept_seq, of the last deletion."""
    rewound: Sequence[RewoundRow] = ()
    """What rewinds have hidden of the session, if this batch changed it."""
    fork: ForkRow | None = None
    """Of a session that the batch forks from another one."""
    inherited_attachments: Sequence[AttachmentRow] = ()
    """Copies of the parent's, with `fork`."""
    spreads: list[Spread] = field(default_factory=list)
    """Redactions by this batch of messages that other sessions may show."""
    freed_message_ids: set[str] = field(default_factory=set)
    """Ids of stored messages that this batch deleted."""
    opened_work: Work | None = None
    """`work`, once a rule has read it."""
    opened_attachments: AttachmentChanges | None = None
    """`files`, once a rule has read it."""

    @classmethod
    def load(cls, key: Key, head: Head, known: Known) -> "State":
        core = Session.FromString(head.core)
        core.version = head.version
        return cls(
            key,
            core,
            SessionConfig.FromString(head.limits),
            head.user_id,
            known,
            known.contents.get(key) if head.content_version else b"",
            Sizes.decoded(head.content_sizes, head.content_version),
            lease_expire_us=head.lease_expire_us,
            deleted=head.deleted,
            base_version=core.base_version,
            fork_seq=head.fork_seq,
            forked=head.forked,
        )

    def inherits(self, message_id: str) -> bool:
        """Whether the message is in what the session, a fork, shares with its parent. It must have been asked for."""
        found = self.known.messages.get((self.key, message_id))
        return found is not None and self.fork_seq is not None and found.seq <= self.fork_seq

    def shows_to_others(self, seq: int) -> bool:
        """Whether other sessions may show the event at `seq` of this session's log."""
        if self.fork_seq is not None and seq <= self.fork_seq:
            return True
        return self.forked and seq <= self.known.shared.get(self.key, Shared()).through

    def unmark(self, seq: int, marks: Iterable[str]) -> None:
        """Takes marks from the message at `seq`."""
        for mark in marks:
            if (mark, seq) in self.marks:
                del self.marks[(mark, seq)]
            else:
                self.unmarks.append((mark, seq))

    @property
    def work(self) -> Work:
        """The session's runs and tool calls."""
        if self.opened_work is None:
            self.opened_work = Work.load(self.key, self.known)
        return self.opened_work

    @property
    def files(self) -> AttachmentChanges:
        """The session's attachments and uploads."""
        if self.opened_attachments is None:
            self.opened_attachments = AttachmentChanges(self.key, self.known)
        return self.opened_attachments

    def snapshot(self, *, content: bool = True) -> c.SessionSnapshot:
        """The session as it is. With `content`, it must be loaded."""
        whole = b""
        if content:
            assert self.content is not None
            whole = self.content
        return c.SessionSnapshot(self.core.version, self.core.SerializeToString(), whole)


@dataclass(slots=True)
class Step:
    """One command while it is decided: its inputs, and the events it has emitted so far."""

    command: c.Command
    now_us: int
    policy: Policy
    new_id: Callable[[], str]
    taken_message_ids: Callable[[str], bool]
    message_to_redact: AppendedMessage | None
    batch_messages: Callable[[], Sequence[EventRow]]
    """The events with which earlier commands of this batch appended messages to the session, ascending. They include
    those of messages that the batch has deleted since."""
    documents: DocumentChanges
    """Of the whole batch."""
    events: list[EventRow] = field(default_factory=list)

    def emit(
        self,
        state: State,
        event_type: EventType.ValueType,
        time_us: int,
        *,
        body: bytes | None = None,
        content: bytes | None = None,
        session_name: str | None = None,
        more: bytes = b"",
    ) -> None:
        """Adds an event at the state's version, which the caller has just advanced.

        `body`: the serialised payload; None for the session's core. `more`: serialised fields that
        only some types have, such as `preset_runs`.
        """
        view = NO_VIEW
        if event_type < encoding.FIRST_MESSAGE_EVENT:
            if content is not None and is_patch(content):
                view = SessionView.SESSION_VIEW_PATCH
            elif content is not None or event_type == EventType.EVENT_TYPE_SESSION_CREATED:
                view = SessionView.SESSION_VIEW_FULL
            else:
                view = SessionView.SESSION_VIEW_BASIC
        core, event_id = state.core, self.new_id()
        previous, core.last_event_id = core.last_event_id, event_id
        head = (
            self.shared_head(event_type, time_us, view)
            + encoding.event_head(core.version, event_id, previous, len(self.events), session_name)
            + more
        )
        kept = None
        if body is None:
            body = core.SerializeToString()
        elif not core.version % CORES:
            kept = core.SerializeToString()
        self.events.append(
            EventRow(state.key, core.version, event_id, previous, event_type, time_us, None, head, body, content, kept)
        )

    def emit_run(self, state: State, event_type: EventType.ValueType, time_us: int, run: Run) -> None:
        """Adds an event with the run in its present state, and applies the event to the session."""
        run.version = state.core.version + 1
        self.advance(state.core, time_us, activity=event_type in fold.ACTIVITY)
        fold.add_run(state.core, event_type, run)
        self.emit(state, event_type, time_us, body=run.SerializeToString())
        state.work.change_run(run)

    def emit_tool_call(
        self,
        state: State,
        event_type: EventType.ValueType,
        time_us: int,
        call: ToolCall,
        content: bytes | None = None,
    ) -> None:
        """Adds an event with the tool call in its present state, and applies the event to the session."""
        call.version = state.core.version + 1
        self.advance(state.core, time_us, activity=event_type in fold.ACTIVITY)
        fold.add_tool_call(state.core, event_type, call)
        self.emit(state, event_type, time_us, body=call.SerializeToString(), content=content)
        state.work.change_call(call)

    def emit_late_result(self, state: State, time_us: int, call: ToolCall, content: bytes) -> None:
        """Adds an event with a result that arrived after the call had ended. The call and its `version` stay as they
        are."""
        event_type = EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT
        self.advance(state.core, time_us, activity=False)
        self.emit(state, event_type, time_us, body=call.SerializeToString(), content=content)

    def shared_head(self, event_type: EventType.ValueType, time_us: int, view: SessionView.ValueType) -> bytes:
        """The serialised fields that the heads of all events of one type of this write share. `encoding.event_head` has
        the others."""
        command = self.command
        # Set field by field: keyword arguments would take more than twice as long.
        head = Event()
        head.session_id = command.session_id
        head.type = event_type
        set_timestamp(head.create_time, time_us)
        head.actor = command.actor
        head.session_view = view
        if not command.request_id.startswith(c.INTERNAL_REQUEST_PREFIX):
            head.request_id = command.request_id
        return head.SerializeToString()

    def time_after(self, session: Session) -> int:
        """The time of the next event: now, but never before the previous event, even if the clock went back."""
        return max(self.now_us, microseconds(session.update_time))

    def advance(self, session: Session, time_us: int, *, activity: bool) -> None:
        """Applies to the session what every event changes, for the next event of the write."""
        fold.advance(session, session.version + 1, time_us, first_of_request=not self.events, activity=activity)
