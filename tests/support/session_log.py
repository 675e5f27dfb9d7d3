"""A log in a dict, for tests of the rules: applies commands through batch.decide and keeps what they write."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sessiond.v1.event_pb2 import Event
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionStatus, SessionType
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import batch, encoding, fold, replay
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import (
    AppendedMessage,
    EventRow,
    FoundMessages,
    Head,
    Key,
    Known,
    Needs,
    OpenWork,
    Policy,
    Replay,
    RequestRecord,
    RunRow,
    StoredEvent,
    StoredToolCall,
    ToolCallRow,
    Writes,
)
from sessiond_server.domain.runs.work import OPEN_CALLS, OPEN_RUNS
from sessiond_server.domain.sessions.content import whole

SECOND = 1_000_000
REPLACE, MERGE = StructUpdate.STRUCT_UPDATE_REPLACE, StructUpdate.STRUCT_UPDATE_MERGE
CLIENT = EndReason.END_REASON_CLIENT
START = 1_700_000_000 * SECOND
KEY = ("tenant", "s1")
SCOPE = c.Scope("tenant")


def text(role: Role.ValueType, content: str, message_id: str = "") -> Message:
    return Message(message_id=message_id, role=role, parts=[Part(text=content)])


def user(content: str = "hello", message_id: str = "") -> Message:
    return text(Role.ROLE_USER, content, message_id)


def new_session(**fields: object) -> Session:
    """A session as the wire hands it over: defaults filled in."""
    session = Session(
        session_id="s1",
        type=SessionType.SESSION_TYPE_AGENT,
        status=SessionStatus.SESSION_STATUS_ACTIVE,
        agent_mode=AgentMode.AGENT_MODE_GENERAL,
    )
    session.MergeFrom(Session(**fields))  # type: ignore[arg-type]
    return session


class Log:
    """One tenant's sessions. `now` is the clock, in microseconds; tests move it."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.now = START
        self.heads: dict[Key, Head] = {}
        self.events: dict[Key, list[EventRow]] = {}
        self.requests: dict[tuple[Key, str], RequestRecord] = {}
        self.runs: dict[Key, dict[str, RunRow]] = {}
        self.calls: dict[Key, dict[str, ToolCallRow]] = {}
        self.run_counters: dict[Key, bytes] = {}
        self.written = Writes()
        """By the last batch."""
        self.asked = Needs()
        """What the last batch looked up."""
        self._numbers: Iterator[int] = iter(range(1, 1_000_000))

    def new_id(self) -> str:
        return f"id-{next(self._numbers)}"

    def command(
        self,
        action: c.Action,
        *,
        request_id: str = "",
        fingerprint: bytes = b"f",
        expected_version: int = 0,
        scope: c.Scope = SCOPE,
        session_id: str = "s1",
        fence: c.Fence | None = None,
    ) -> c.Command:
        request_id = request_id or f"!{self.new_id()}"
        return c.Command(scope, session_id, action, "test", request_id, fingerprint, expected_version, fence=fence)

    def apply(self, *commands: c.Command) -> list[c.Result]:
        """Decides the commands as one batch and keeps what they write."""
        asked = self.asked = batch.needs(commands, self.heads, self.policy)
        events = {key: {e.message_id: e for e in rows if e.message_id} for key, rows in self.events.items()}
        known = Known(
            now_us=self.now,
            requests={request: self.requests[request] for request in asked.requests if request in self.requests},
            message_ids={(key, m) for key, m in asked.message_ids if m in events.get(key, {})},
            messages={
                (key, m): AppendedMessage(e.seq, e.head, e.body)
                for key, m in asked.messages
                if (e := events.get(key, {}).get(m)) is not None
            },
            newest={key: self._found(key, key, wanted) for key, wanted in asked.newest.items()},
            ranges={place: self._found(place[0], place, wanted) for place, wanted in asked.ranges.items()},
            named={name: self._found(name[0], name, (1000, most)) for name, most in asked.named.items()},
            contents={key: self.content(key, seq) for key, seq in asked.contents},
            runs={(key, r): self.runs[key][r].body for key, r in asked.runs if r in self.runs.get(key, {})},
            tool_calls={
                (key, t): self._stored(self.calls[key][t])
                for key, t in asked.tool_calls
                if t in self.calls.get(key, {})
            },
            work={key: self._open(key) for key in asked.work},
            live_sessions={tenant: self._live(tenant) for tenant in asked.tenants},
        )
        decided = batch.decide(commands, self.heads, known, self.policy, self.new_id)
        self.written = decided.writes
        self._keep(decided.writes)
        return [self._resolve(co, r) for co, r in zip(commands, decided.results, strict=True)]

    def do(self, action: c.Action, **options: object) -> c.Result:
        """One command, as a batch of one."""
        return self.apply(self.command(action, **options))[0]  # type: ignore[arg-type]

    def ok(self, action: c.Action, **options: object) -> c.Outcome:
        """One command that must be accepted."""
        result = self.do(action, **options)
        if isinstance(result, Exception):
            raise result
        return result

    def create(self, **fields: object) -> Session:
        self.ok(c.CreateSession(new_session(**fields)))
        return self.session()

    def append(self, *messages: Message) -> c.MessagesAppended:
        outcome = self.ok(c.AppendMessages(messages or (user(),)))
        assert isinstance(outcome, c.MessagesAppended)
        return outcome

    def session(self, key: Key = KEY) -> Session:
        """The whole session, as a reader would get it."""
        head = self.heads[key]
        return Session.FromString(head.core + self.content(key, head.content_version))

    def log(self, key: Key = KEY) -> list[Event]:
        return [Event.FromString(encoding.event(e.type, e.head, e.body, e.content)) for e in self.events[key]]

    def messages(self, key: Key = KEY) -> list[Message]:
        return [Message.FromString(e.body) for e in self.events[key] if e.message_id]

    def folded(self, key: Key = KEY) -> Session:
        """The session as its log tells it."""
        session = Session()
        for event in self.log(key):
            session = fold.fold(session, event)
        return session

    def content(self, key: Key, version: int) -> bytes:
        """The session's whole content at a version."""
        rows = [row for row in self.events.get(key, []) if row.seq <= version]
        return whole([e.content for e in rows if e.content is not None and e.type < encoding.FIRST_MESSAGE_EVENT])

    def _data(self, key: Key, seq: int) -> bytes:
        return (self._at(key, seq).content or b"") if seq else b""

    def _at(self, key: Key, seq: int) -> EventRow:
        return next(event for event in self.events[key] if event.seq == seq)

    def run(self, run_id: str, key: Key = KEY) -> Run:
        """As it is stored."""
        row = self.runs[key][run_id]
        run = Run.FromString(row.body)
        assert (row.status, row.run_id) == (run.status, run.run_id)
        return run

    def call(self, tool_call_id: str, key: Key = KEY) -> ToolCall:
        """As a reader would get it."""
        row = self.calls[key][tool_call_id]
        stored = self._stored(row)
        call = ToolCall.FromString(stored.body + stored.arguments + stored.result)
        assert (row.status, row.seq, row.run_id) == (call.status, call.seq, call.run_id)
        return call

    def _stored(self, row: ToolCallRow) -> StoredToolCall:
        return StoredToolCall(row.body, self._data(row.key, row.seq), self._data(row.key, row.result_seq))

    def _open(self, key: Key) -> OpenWork:
        runs, calls = self.runs.get(key, {}), self.calls.get(key, {})
        return OpenWork(
            [run.body for run in runs.values() if run.status in OPEN_RUNS],
            [call.body for call in calls.values() if call.status in OPEN_CALLS],
            self.run_counters.get(key, b""),
        )

    def _live(self, tenant: str) -> int:
        live = [Session.FromString(head.core).status for key, head in self.heads.items() if key[0] == tenant]
        return sum(status not in (0, SessionStatus.SESSION_STATUS_ENDED) for status in live)

    def _found(self, key: Key, what: tuple[Any, ...], wanted: tuple[int, int]) -> FoundMessages:
        """What the newest messages of a session, a range or names select."""
        rows = [row for row in self.events[key] if row.message_id]
        if what == key:
            rows = rows[::-1]
        elif isinstance(what[1], tuple):
            rows = [row for name in what[1] for row in rows if row.message_id == name]
        else:
            rows = [row for row in rows if what[1] <= row.seq <= what[2]]
        rows = rows[: wanted[0]]
        fitting = [row for i, row in enumerate(rows) if not i or sum(len(r.body) for r in rows[: i + 1]) <= wanted[1]]
        found = [AppendedMessage(row.seq, row.head, row.body) for row in fitting]
        return FoundMessages(found, complete=len(fitting) == len(rows))

    def _keep(self, writes: Writes) -> None:
        deleted = {gone.key for gone in writes.deletions}
        for gone in writes.deletions:
            for projected in (self.runs, self.calls, self.run_counters):
                projected.pop(gone.key, None)
            self.requests = {
                request: record
                for request, record in self.requests.items()
                if request[0] != gone.key
                or record.first_seq <= gone.base_version + 1
                or record.last_seq >= gone.version
            }
        for key, message in writes.removals:
            old = self._at(key, message.seq)
            assert old.message_id is not None
            self.events[key][self.events[key].index(old)] = replace(
                old, message_id=None, head=message.head, body=message.body
            )
        for head in writes.heads:
            assert head.created == (head.key not in self.heads)
            self.heads[head.key] = head.head
        for event in writes.events:
            rows = self.events.setdefault(event.key, [])
            follows = event.seq == (rows[-1].seq + 1 if rows else 1)
            assert follows or event.key in deleted, "the log has a gap"
            rows.append(event)
        for request in writes.requests:
            self.requests[(request.key, request.request_id)] = request.record
        for key, message in writes.redactions:
            old = self._at(key, message.seq)
            self.events[key][self.events[key].index(old)] = replace(old, head=message.head, body=message.body)
        for run in writes.runs:
            self.runs.setdefault(run.key, {})[run.run_id] = run
        for call in writes.tool_calls:
            self.calls.setdefault(call.key, {})[call.tool_call_id] = call
        self.run_counters.update(writes.run_counters)
        for key, lease_expire_us in writes.leases:
            self.heads[key] = replace(self.heads[key], lease_expire_us=lease_expire_us)

    def _resolve(self, command: c.Command, result: c.Result | Replay) -> c.Result:
        if not isinstance(result, Replay):
            return result
        rows = [e for e in self.events[result.key] if result.first_seq <= e.seq <= result.last_seq]
        stored = [StoredEvent(e.seq, e.type, e.create_time_us, e.message_id, e.body, e.head) for e in rows]
        content = {seq: self._data(result.key, seq) for seq in replay.tool_call_contents(stored)}
        if version := replay.session_content(command.action, stored):
            content[version] = self.content(result.key, version)
        record = self.requests[(command.key, command.request_id)]
        return replay.outcome(command.action, stored, content, record.answer)
