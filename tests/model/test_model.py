"""The stores against a plain model: the same commands, the same answers, the same state and log afterwards.

Commands come one at a time or several in a batch, some of them retries, some stale, some from the wrong user, and time
passes. `SESSIOND_MODEL_EXAMPLES` chooses how many examples beyond the default.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager

import asyncpg
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.session_pb2 import EndReason, Session, SessionConfig, SessionStatus
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.rows import Rules
from sessiond_server.errors import SessiondError, SessionNotFound
from sessiond_server.store.contract import Store
from sessiond_server.store.memory import MemoryStore
from sessiond_server.store.postgres.store import PostgresStore
from tests.model.model import DAY, Answer, Model

EXAMPLES = int(os.environ.get("SESSIOND_MODEL_EXAMPLES", "200"))

SESSIONS = st.sampled_from(["s1", "s2"])
USERS = st.sampled_from(["", "", "", "", "alice", "bob"])
REQUESTS = st.sampled_from(["", "", "", "r1", "r2"])
ROLES = st.sampled_from(["USER", "ASSISTANT"])

KINDS = ["append"] * 6 + [
    "create",
    "activate",
    "suspend",
    "resume",
    "end",
    "touch",
    "rename",
    "merge",
    "merge",
    "redact",
]
KINDS += ["delete"]

MOVES: dict[str, c.Action] = {
    "activate": c.ActivateSession(),
    "suspend": c.SuspendSession(),
    "resume": c.ResumeSession(),
}

Clock = Callable[[float], Coroutine[object, object, None]]
"""Sets a store's clock to so many seconds after its start."""


@st.composite
def contents(draw: st.DrawFn) -> tuple[str, Answer]:
    """A command and its whole content."""
    kind = draw(st.sampled_from(KINDS))
    if kind == "create":
        status = draw(st.sampled_from(["CREATED", "ACTIVE", "ACTIVE"]))
        ttl = draw(st.sampled_from([None, 3600, 10 * DAY]))
        user_id, name, limit = draw(st.sampled_from(["", "alice"])), draw(st.sampled_from(["", "named"])), draw(
            st.sampled_from([0, 0, 5])
        )  # fmt: skip
        return kind, (user_id, status, name, ttl, limit)
    if kind == "append":
        ids = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
        return kind, (tuple((f"m{i}", draw(ROLES), f"text {i} of {kind}") for i in ids),)
    if kind in ("activate", "suspend", "resume"):
        return "move", (kind,)
    if kind == "end":
        return kind, (draw(st.sampled_from(["CLIENT", "FAILED"])),)
    if kind == "touch":
        return kind, (draw(st.sampled_from([0, 1, 20 * DAY])),)
    if kind == "rename":
        return kind, (draw(st.sampled_from(["", "first name", "second name"])),)
    if kind == "merge":
        changes = draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, "x", 1.5, True]), max_size=2))
        return kind, (tuple(sorted(changes.items())),)
    if kind == "redact":
        return kind, (f"m{draw(st.integers(1, 12))}", draw(st.sampled_from(["", "privacy"])))
    return kind, ()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, Answer, str, int, str]:
    kind, args = draw(contents())
    expected = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    return kind, draw(SESSIONS), args, draw(REQUESTS), 0 if kind == "create" else expected, draw(USERS)


def action(kind: str, args: Answer) -> c.Action:
    """The command's action, as the wire would make it."""
    if kind == "create":
        user_id, status, name, ttl, limit = args
        session = Session(user_id=str(user_id), name=str(name), status=f"SESSION_STATUS_{status}", type=1, agent_mode=3)  # type: ignore[arg-type]
        if isinstance(ttl, int):
            session.ttl.seconds = ttl
        if isinstance(limit, int) and limit:
            session.config.CopyFrom(SessionConfig(max_messages=limit))
        return c.CreateSession(session)
    if kind == "append":
        rows: tuple[tuple[str, str, str], ...] = args[0]  # type: ignore[assignment]
        return c.AppendMessages(
            [Message(message_id=i, role=Role.Value(f"ROLE_{role}"), parts=[Part(text=text)]) for i, role, text in rows]
        )
    if kind == "move":
        return MOVES[str(args[0])]
    if kind == "end":
        return c.EndSession(EndReason.Value(f"END_REASON_{args[0]}"))
    if kind == "touch":
        return c.TouchSession(int(str(args[0])) * 1_000_000)
    if kind == "rename":
        return c.UpdateSession(Session(name=str(args[0])), ["name"], StructUpdate.STRUCT_UPDATE_REPLACE)
    if kind == "merge":
        state = json_format.ParseDict(dict(args[0]), Struct())  # type: ignore[call-overload]
        return c.UpdateSession(Session(state=state), ["state"], StructUpdate.STRUCT_UPDATE_MERGE)
    if kind == "redact":
        return c.RedactMessage(str(args[0]), str(args[1]))
    return c.DeleteSession()


def answer(result: c.Result) -> Answer:
    """What the model would say."""
    if isinstance(result, SessiondError):
        return ("error", type(result).__name__)
    if isinstance(result, c.SessionWritten):
        session = Session.FromString(result.session.core + result.session.content)
        state = json_format.MessageToDict(session.state)
        reason = EndReason.Name(session.end_reason).removeprefix("END_REASON_").replace("UNSPECIFIED", "")
        status = SessionStatus.Name(session.status).removeprefix("SESSION_STATUS_")
        return ("session", session.version, status, session.name, tuple(sorted(state.items())), reason)
    if isinstance(result, c.MessagesAppended):
        return ("appended", result.version, result.first_seq, result.message_ids)
    if isinstance(result, c.MessageRedacted):
        message = Message.FromString(result.message)
        return ("redacted", result.version, message.message_id, message.redact_reason)
    assert isinstance(result, c.SessionDeleted)
    return ("deleted", result.version)


class Comparison(RuleBasedStateMachine):
    """One example: a tenant of its own in each store."""

    run: Callable[..., object]
    stores: Sequence[tuple[Store, Clock]]
    examples = 0

    def __init__(self) -> None:
        super().__init__()
        Comparison.examples += 1
        self.tenant = f"tenant-{Comparison.examples}"
        self.model = Model()
        self.unnamed = 0

    @rule(batch=st.lists(requests(), min_size=1, max_size=5))
    def commands(self, batch: list[tuple[str, str, Answer, str, int, str]]) -> None:
        commands, expected = [], []
        for kind, session_id, args, request_id, version, user_id in batch:
            if not request_id:
                self.unnamed += 1
                request_id = f"!{self.unnamed}"
            fingerprint = repr((kind, args, version)).encode()
            scope = c.Scope(self.tenant, user_id)
            commands.append(c.Command(scope, session_id, action(kind, args), "t", request_id, fingerprint, version))
            expected.append(self.model.do(kind, session_id, args, request_id, version, user_id))
        for store, _ in self.stores:
            applied = self.run(store.apply(commands))
            assert [answer(result) for result in applied.results] == expected  # type: ignore[attr-defined]

    @rule(seconds=st.sampled_from([60.0, 3599.0, 3600.0, 2.0 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds
        for _, clock in self.stores:
            self.run(clock(seconds))

    @precondition(lambda self: self.model.sessions)
    @rule()
    def the_sweeper_comes_by(self) -> None:
        self.model.expire()
        for store, _ in self.stores:
            assert len(self.run(store.expire_due(1000)).heads) < 1000  # type: ignore[attr-defined]

    def teardown(self) -> None:
        for store, _ in self.stores:
            for session_id in ("s1", "s2"):
                self.compare(store, session_id)

    def compare(self, store: Store, session_id: str) -> None:
        expected, scope = self.model.sessions.get(session_id), c.Scope(self.tenant)
        if expected is None or expected.deleted:
            with pytest.raises(SessionNotFound):
                self.run(store.get_session(scope, session_id, content=True))
            return
        snapshot = self.run(store.get_session(scope, session_id, content=True))
        assert isinstance(snapshot, c.SessionSnapshot)
        session = Session.FromString(snapshot.core + snapshot.content)
        assert answer(c.SessionWritten(snapshot)) == self.model._seen(expected)
        assert (session.message_count, session.request_count) == (expected.appended, expected.requests)

        messages = self.run(
            store.list_messages(scope, session_id, after_seq=0, before_seq=0, descending=False, limit=1000)
        )
        stored = [Message.FromString(body) for body in messages.messages]  # type: ignore[attr-defined]
        assert [
            (m.message_id, Role.Name(m.role)[5:], m.parts[0].text if m.parts else None, m.seq, m.redact_reason)
            for m in stored
        ] == [(m.message_id, m.role, m.text, m.seq, m.reason) for m in expected.messages]

        page = self.run(store.read_log((scope.tenant_id, session_id), after_seq=0, limit=1000))
        events = [Event.FromString(entry.data) for entry in page.entries]  # type: ignore[attr-defined]
        assert [event.seq for event in events] == list(range(1, expected.version + 1))
        assert [EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events] == expected.log
        folded = Session()
        for event in events:
            folded = fold.fold(folded, event)
        assert folded == session


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[tuple[Store, Clock]]:
    now = 1_700_000_000_000_000

    async def advance(seconds: float) -> None:
        nonlocal now
        now += int(seconds * 1_000_000)

    yield MemoryStore(rules=Rules(), clock=lambda: now), advance


@contextlib.asynccontextmanager
async def postgres(dsn: str) -> AsyncIterator[tuple[Store, Clock]]:
    """A database whose clock the test moves: functions before pg_catalog's in the search path."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """
        create table passed (seconds double precision not null);
        insert into passed values (0);
        create function public.clock_timestamp() returns timestamptz language sql volatile as
            'select pg_catalog.clock_timestamp() + make_interval(secs => seconds) from public.passed';
        create function public.now() returns timestamptz language sql stable as
            'select pg_catalog.now() + make_interval(secs => seconds) from public.passed';
        """
    )
    database = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"alter database {database} set search_path = public, pg_catalog")

    async def advance(seconds: float) -> None:
        await connection.execute("update passed set seconds = seconds + $1", seconds)

    try:
        async with PostgresStore(dsn) as store:
            yield store, advance
    finally:
        await connection.close()


def compare(*stores: AbstractAsyncContextManager[tuple[Store, Clock]]) -> None:
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        async def enter() -> list[tuple[Store, Clock]]:
            return [await stack.enter_async_context(store) for store in stores]

        Comparison.run = staticmethod(runner.run)
        Comparison.stores = runner.run(enter())
        try:
            run_state_machine_as_test(
                Comparison,
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())


def test_the_stores_behave_as_the_model(postgres_dsn: str) -> None:
    compare(memory(), postgres(postgres_dsn))
