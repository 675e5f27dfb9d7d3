"""Decides a batch of commands: which look-ups they need, and which rows they write. rows.py describes the order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, holds, session_rows
from sessiond_server.domain.actions import Action, ask_for_work
from sessiond_server.domain.attachments import rules as attachment_rules
from sessiond_server.domain.documents import rules as document_rules
from sessiond_server.domain.documents.changes import DocumentChanges
from sessiond_server.domain.documents.rows import DocumentRequest, DocumentRequestRow, Owner
from sessiond_server.domain.forks import rules as fork_rules
from sessiond_server.domain.forks.rows import ForkAsk
from sessiond_server.domain.messages import rules as message_rules
from sessiond_server.domain.rows import (
    AppendedMessage,
    Deletion,
    EventRow,
    Head,
    Key,
    Known,
    Needs,
    Policy,
    Replay,
    RequestRecord,
    RequestRow,
    Writes,
)
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.domain.sessions.content import Sizes, after_unread, patch_of
from sessiond_server.domain.sessions.incarnation import incarnation_of
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.summaries import rules as summary_rules
from sessiond_server.domain.tool_calls import rules as tool_call_rules
from sessiond_server.errors import (
    RequestIdReused,
    SessionAlreadyExists,
    SessiondError,
    SessionLocked,
    SessionNotFound,
    SessionQuotaReached,
    VersionMismatch,
)

ACTIONS: Final[Mapping[type, Action]] = {
    **session_rules.ACTIONS,
    **fork_rules.ACTIONS,
    **message_rules.ACTIONS,
    **run_rules.ACTIONS,
    **tool_call_rules.ACTIONS,
    **attachment_rules.ACTIONS,
    **document_rules.ACTIONS,
    **summary_rules.ACTIONS,
}
"""The row of every action, by the action's type."""


@dataclass(slots=True)
class Decision:
    """The result of every command, in order, and the rows to write."""

    results: list[c.Result | Replay]
    writes: Writes


def needs(commands: Sequence[c.Command], heads: Mapping[Key, Head], policy: Policy) -> Needs:
    """The look-ups that deciding these commands needs, once the heads are locked."""
    asked = Needs()
    contents: set[Key] = set()
    sizes: dict[Key, Sizes | None] = {}
    """Of sessions whose content need not be read so far, after the updates so far. Upper bounds: a refused update
    counts too."""
    created: dict[Key, str] = {}
    for command in commands:
        key, action = command.key, ACTIONS[type(command.action)]
        if not command.session_id:
            document_rules.ask(asked, command)
            holds.ask(asked, action, command, "")
            asked.document_requests.append((document_rules.owner(command), command.request_id))
            continue
        head = heads.get(key)
        if head is not None and command.scope.user_id not in ("", head.user_id):
            # As many look-ups as for a missing session: equal costs do not reveal that another user has it.
            continue
        if head is not None:
            asked.requests.append((key, command.request_id))
            if action.ask is not None:
                action.ask(asked, command, head)
            if action.with_work:
                ask_for_work(asked, key, head)
            holds.ask(asked, action, command, head.user_id)
            if head.content_version and key not in contents and _reads_content(command, head, sizes, policy):
                contents.add(key)
                asked.contents.append((key, head.content_version))
        elif isinstance(command.action, c.CreateSession):
            created[key] = command.action.session.user_id
        elif isinstance(command.action, c.ForkSession):
            _ask_to_fork(asked, command, command.action, heads)
        elif key in created:
            document_rules.ask(asked, command)
            holds.ask(asked, action, command, created[key])
        creates = isinstance(command.action, c.CreateSession) and (head is None or _reuses(command.action, head))
        creates = creates or (isinstance(command.action, c.ForkSession) and head is None)
        if creates and policy.max_live_sessions and key[0] not in asked.tenants:
            asked.tenants.append(key[0])
    return asked


def _ask_to_fork(asked: Needs, command: c.Command, action: c.ForkSession, heads: Mapping[Key, Head]) -> None:
    key = (command.key[0], action.parent_id)
    parent = heads.get(key)
    if parent is None or parent.deleted or command.scope.user_id not in ("", parent.user_id):
        return
    base_version = Session.FromString(parent.core).base_version
    asked.forks.append(ForkAsk(key, action.place, parent.version, parent.fork_seq, base_version, parent.core))


def _reads_content(command: c.Command, head: Head, sizes: dict[Key, Sizes | None], policy: Policy) -> bool:
    """Whether the command needs the whole content: to return it, or to update it by more than a patch that fits
    certainly."""
    action, key = ACTIONS[type(command.action)], command.key
    if isinstance(command.action, c.CreateSession | c.ForkSession):
        return False
    if action.with_content is not None and action.with_content(command.action):
        return True
    patch = None if action.update is None else patch_of(action.update(command.action))
    if patch is None:
        return False
    if key not in sizes:
        sizes[key] = Sizes.decoded(head.content_sizes, head.content_version)
    sizes[key] = after_unread(sizes[key], patch, head.version + 1, policy)
    return sizes[key] is None


def _is_named(command: c.Command, state: State) -> bool:
    """Whether the session is the one that the command is for, if it says more than an id."""
    return command.incarnation is None or (not state.deleted and incarnation_of(state.core) == command.incarnation)


def _reuses(action: c.CreateSession | c.ForkSession, tombstone: Head | State) -> bool:
    """Whether the creation may take the id of this deleted session. Only of the same user: feeds know whose the
    deletion is by the user of the session that has the id."""
    if isinstance(action, c.ForkSession):
        return False
    return action.reuse_deleted and tombstone.deleted and tombstone.user_id == action.session.user_id


def decide(
    commands: Sequence[c.Command],
    heads: Mapping[Key, Head],
    known: Known,
    policy: Policy,
    new_id: Callable[[], str],
) -> Decision:
    """Decides the commands in order. Each sees the effects of those before it. `new_id` returns a new UUIDv7."""
    batch = _Batch(heads, known, policy, new_id, DocumentChanges(known.documents, known.now_us))
    return Decision([batch.result(command) for command in commands], batch.writes())


@dataclass(slots=True)
class _Batch:
    heads: Mapping[Key, Head]
    known: Known
    policy: Policy
    new_id: Callable[[], str]
    documents: DocumentChanges
    states: dict[Key, State] = field(default_factory=dict)
    outcomes: dict[tuple[Key, str], tuple[bytes, c.Outcome]] = field(default_factory=dict)
    """(fingerprint, outcome) of requests of this batch: a duplicate within the batch gets the same outcome."""
    document_outcomes: dict[tuple[Owner, str], tuple[bytes, c.Outcome]] = field(default_factory=dict)
    """As `outcomes`, of documents that belong to no session."""
    written: Writes = field(default_factory=Writes)

    def result(self, command: c.Command) -> c.Result | Replay:
        try:
            return self._outcome(command)
        except SessiondError as refusal:
            return refusal.with_traceback(None)  # its frames hold the whole batch

    def _outcome(self, command: c.Command) -> c.Outcome | Replay:
        if not command.session_id:
            return self._document_outcome(command)
        state, action = self._state(command.key), ACTIONS[type(command.action)]
        creation = command.action if isinstance(command.action, c.CreateSession | c.ForkSession) else None
        visible = state is not None and command.scope.user_id in ("", state.user_id) and _is_named(command, state)
        if state is not None and visible and (first := self._first_outcome(command, state)) is not None:
            return first
        if creation is not None and state is not None and not _reuses(creation, state):
            raise SessionAlreadyExists(command.session_id)
        if creation is not None and state is not None and state.forked:
            raise SessionLocked(command.session_id)  # what forks show of the deleted one is still being moved
        if creation is None and (state is None or not visible or state.deleted):
            raise SessionNotFound(command.session_id)
        if creation is None:
            assert state is not None
            if action.with_work or isinstance(command.action, c.ToolCallChange):
                self._end_overdue(command, state, with_runs=action.with_work)
            if command.expected_version not in (0, state.core.version):
                raise VersionMismatch(command.session_id, state.core.version, command.expected_version)
            if command.fence is not None:
                run_rules.check_fence(state, command.fence, self.known.now_us)
            holds.check(action, command, state.user_id, self.known)

        step = self._step(command, state)
        if isinstance(creation, c.ForkSession):
            state = self._fork(step, creation)
            outcome: c.Outcome = c.SessionWritten(state.snapshot())
        elif creation is not None:
            self._check_quota(command)
            state = session_rules.create(
                step, creation, self._known(command.key), 0 if state is None else state.core.version
            )
            state.created = command.key not in self.heads
            self.states[command.key] = state
            outcome = c.SessionWritten(state.snapshot())
        else:
            assert state is not None
            assert action.rule is not None
            outcome = action.rule(step, state, command.action)
        self._record(step, outcome)
        return outcome

    def _fork(self, step: Step, action: c.ForkSession) -> State:
        """The new session. Its parent's commands are never in the same batch."""
        key = step.command.key
        parent = self.heads.get((key[0], action.parent_id))
        source = self.known.forks.get((key[0], action.parent_id))
        if parent is None or source is None:
            raise SessionNotFound(action.parent_id)
        if action.parent_version not in (0, parent.version):
            raise VersionMismatch(action.parent_id, parent.version, action.parent_version)
        self._check_quota(step.command)
        state = self.states[key] = fork_rules.fork(step, action, source, Known(self.known.now_us))
        state.created = True
        return state

    def _document_outcome(self, command: c.Command) -> c.Outcome:
        request = (document_rules.owner(command), command.request_id)
        record = self.known.document_requests.get(request)
        stored = None if record is None else (record.fingerprint, c.DocumentWritten(0, record.change))
        first = self.document_outcomes.get(request, stored)
        if first is not None:
            fingerprint, outcome = first
            if fingerprint != command.fingerprint:
                raise RequestIdReused(command.request_id)
            return outcome
        holds.check(ACTIONS[type(command.action)], command, "", self.known)
        written = document_rules.write(self.documents, command)
        self.document_outcomes[request] = (command.fingerprint, written)
        row = DocumentRequestRow(*request, DocumentRequest(command.fingerprint, written.change))
        self.written.document_requests.append(row)
        return written

    def _state(self, key: Key) -> State | None:
        state = self.states.get(key)
        if state is None and (head := self.heads.get(key)) is not None:
            state = self.states[key] = State.load(key, head, self.known)
        return state

    def _end_overdue(self, command: c.Command, state: State, *, with_runs: bool) -> None:
        """Ends what is overdue, as the sweeper would have done: the live run whose lease has expired, and tool calls
        whose approval did not come in time. This is a write of the server's own, and it is kept also when the command
        is refused."""
        now_us = self.known.now_us
        leases = with_runs and run_rules.is_overdue(state, now_us)
        if not leases and not tool_call_rules.overdue(state, command.action, now_us):
            return
        own = c.Command(
            c.Scope(command.scope.tenant_id),
            command.session_id,
            c.ExpireSession(),
            c.ACTOR,
            c.INTERNAL_REQUEST_PREFIX + self.new_id(),
        )
        step = self._step(own, state)
        if leases:
            run_rules.expire_lease(step, state)
        # The end of the run may have closed some of them.
        for call in tool_call_rules.overdue(state, command.action, now_us):
            tool_call_rules.expire(step, state, call)
        self._record(step, c.NothingToDo(state.core.version))

    def _first_outcome(self, command: c.Command, state: State) -> c.Outcome | Replay | None:
        """The outcome of the same request earlier in this batch, or its Replay if an earlier batch recorded it; None
        if the request is new. Raises RequestIdReused when the fingerprint differs, SessionAlreadyExists for the
        creation of a session that has been deleted since."""
        request = (command.key, command.request_id)
        if (earlier := self.outcomes.get(request)) is not None:
            fingerprint, outcome = earlier
            if fingerprint != command.fingerprint:
                raise RequestIdReused(command.request_id)
            return outcome
        record = self.known.requests.get(request)
        if record is None or self._forgotten(command.key, record):
            return None
        if record.fingerprint != command.fingerprint:
            raise RequestIdReused(command.request_id)
        if record.last_seq <= (state.core.version if state.deleted else state.core.base_version):
            # Of a session that is deleted there are only the records of its creation and of its deletion.
            if isinstance(command.action, c.DeleteSession):
                return c.SessionDeleted(record.last_seq)
            raise SessionAlreadyExists(command.session_id)
        return Replay(command.key, record.first_seq, record.last_seq)

    def _forgotten(self, key: Key, record: RequestRecord) -> bool:
        """Whether a deletion earlier in this batch removed the session's request records, this one among them."""
        return any(
            gone.key == key and gone.base_version + 1 < record.first_seq and record.last_seq < gone.version
            for gone in self.written.deletions
        )

    def _known(self, key: Key) -> Known:
        """What is stored of the session. After a deletion earlier in this batch: nothing."""
        if any(gone.key == key for gone in self.written.deletions):
            return Known(self.known.now_us, blobs=self.known.blobs)
        return self.known

    def _step(self, command: c.Command, state: State | None) -> Step:
        key, action = command.key, command.action
        to_redact: AppendedMessage | None = None
        if isinstance(action, c.RedactMessage) and state is not None:
            to_redact = state.redacted.get(action.message_id) or self._appended(state, action.message_id)
        return Step(
            command=command,
            now_us=self.known.now_us,
            policy=self.policy,
            new_id=self.new_id,
            taken_message_ids=lambda message_id: (key, message_id) in self._known(key).message_ids,
            message_to_redact=to_redact,
            batch_messages=lambda: self._messages(key),
            documents=self.documents,
        )

    def _messages(self, key: Key) -> Sequence[EventRow]:
        return [event for event in self.written.events if event.key == key and event.message_id is not None]

    def _appended(self, state: State, message_id: str) -> AppendedMessage | None:
        """The event that appended the message, stored earlier or written by this batch; None if there is none, or the
        batch has deleted the message."""
        stored = self._known(state.key).messages.get((state.key, message_id))
        if stored is not None and stored.seq not in state.removed:
            return stored
        for event in self._messages(state.key):
            if event.message_id == message_id and event.seq not in state.removed:
                return AppendedMessage(event.seq, event.head, event.body)
        return None

    def _check_quota(self, command: c.Command) -> None:
        limit, tenant = self.policy.max_live_sessions, command.scope.tenant_id
        if not limit:
            return
        count = self.known.live_sessions.get(tenant, 0)
        for key, state in self.states.items():
            if key[0] == tenant:
                alive = not state.deleted and state.core.status != lifecycle.ENDED
                count += alive - self._was_alive(key)
        if count >= limit:
            raise SessionQuotaReached(limit)

    def _was_alive(self, key: Key) -> bool:
        head = self.heads.get(key)
        return head is not None and not head.deleted and Session.FromString(head.core).status != lifecycle.ENDED

    def _record(self, step: Step, outcome: c.Outcome) -> None:
        """Adds the events and the request record of an accepted command. A command without events has no record."""
        if not step.events:
            return
        command, written = step.command, self.written
        answer = outcome.messages if isinstance(outcome, c.MessagesDeleted) else b""
        record = RequestRecord(command.fingerprint, step.events[0].seq, step.events[-1].seq, answer)
        if isinstance(outcome, c.SessionDeleted):
            self.documents.end_session(*command.key)
            self._forget(command.key, outcome.version)
        written.events += step.events
        written.requests.append(RequestRow(command.key, command.request_id, record))
        self.outcomes[(command.key, command.request_id)] = (command.fingerprint, outcome)

    def _forget(self, key: Key, version: int) -> None:
        """Leaves out what this batch has written of a session that is deleted now, and what it knows of the session."""
        written, state = self.written, self.states[key]
        before = self.heads.get(key)
        branched = before is not None and (before.forked or before.fork_seq is not None)
        agent_id = self._agent_id(key)
        written.deletions.append(
            Deletion(key, version, state.base_version, branched, state.kept_seq, state.user_id, agent_id)
        )
        written.dropped += [row for row in written.events if row.key == key]
        written.events = [row for row in written.events if row.key != key]
        of_creation = state.base_version + 1
        written.requests = [row for row in written.requests if row.key != key or row.record.first_seq <= of_creation]
        self.known.requests |= {(key, row.request_id): row.record for row in written.requests if row.key == key}
        self.outcomes = {request: o for request, o in self.outcomes.items() if request[0] != key}

    def _agent_id(self, key: Key) -> str:
        """The agent of a session before it was deleted in this batch."""
        for row in reversed(self.written.events):
            if row.key == key and row.type < encoding.FIRST_MESSAGE_EVENT:
                return Session.FromString(row.body).agent_id
        before = self.heads.get(key)
        return "" if before is None else Session.FromString(before.core).agent_id

    def writes(self) -> Writes:
        """All rows to write, once every command is decided."""
        written = self.written
        if self.documents.changed:
            written.documents = self.documents.rows()
        for key, state in self.states.items():
            before = self.heads.get(key)
            if before is not None and before.version == state.core.version:
                if state.lease_expire_us is not None and state.lease_expire_us != before.lease_expire_us:
                    written.leases.append((key, state.lease_expire_us))
                continue
            written.heads.append(session_rows.head_row(key, state, self.known.now_us))
            if state.indexed and not state.deleted:
                written.index.append(session_rows.row_in_lists(key, state))
            if not state.deleted:
                written.marks += [(key, *mark) for mark in state.marks]
                written.unmarks += [(key, *mark) for mark in state.unmarks]
                written.unmarks += [((key[0], log_id), mark, seq) for log_id, mark, seq in state.unmarks_elsewhere]
            if not state.deleted:
                written.redactions += [(key, message) for message in state.redacted.values()]
                written.titles += state.titles
                written.spreads += state.spreads
            if state.removed and not state.deleted:
                self._remove(key, state)
            if state.opened_work is not None and not state.deleted:
                state.opened_work.write(written, state.user_id)
            if state.opened_attachments is not None and not state.deleted:
                state.opened_attachments.write(written)
            written.rewound += state.rewound
            if state.fork is not None:
                written.forks.append(state.fork)
                written.attachments += state.inherited_attachments
        return written

    def _remove(self, key: Key, state: State) -> None:
        """Takes the content of deleted messages out of the batch's own events, and out of stored ones."""
        written, before = self.written, self.heads.get(key)
        stored = before.version if before is not None else 0
        for seq, remains in state.removed.items():
            if seq <= stored:
                written.removals.append((key, remains))
        for place, row in enumerate(written.events):
            if row.key == key and row.message_id is not None and (left := state.removed.get(row.seq)) is not None:
                written.events[place] = replace(row, message_id=None, head=left.head, body=left.body)
