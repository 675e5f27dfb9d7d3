"""The stores and a plain model get the same commands and must have the same answers, state and log.

Commands come one at a time or several in a batch, some of them retries, some stale, some from the wrong user, and time
passes. `SESSIOND_MODEL_EXAMPLES` is the number of examples of the long run.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import asyncpg
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.document_pb2 import Document, DocumentChange, DocumentScope
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import DeleteMessagesResponse, MessageFilter
from sessiond.v1.run_pb2 import Run, RunEndReason
from sessiond.v1.run_service_pb2 import RunPolicy
from sessiond.v1.session_pb2 import EndReason, Session, SessionConfig, SessionStatus
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond.v1.summary_pb2 import Summary
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.domain.forks.rows import ForkPlace
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.encryption.keyring import Encryption
from sessiond_server.errors import SessiondError, SessionNotFound
from sessiond_server.memory.store import MemoryStore
from sessiond_server.postgres.optimistic import Mode
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.contract import Store
from tests.support import past, routed_stores, run_actions
from tests.support.caller import PADDED, PATCHING
from tests.support.databases import Databases
from tests.support.encryption import encryption
from tests.support.model import DAY, LEASE, REMOVED, Answer, Model, client_time_of, labels_of
from tests.support.model import Message as ModelMessage
from tests.support.model import Session as ModelSession

QUICK_EXAMPLES = 15
EXAMPLES = int(os.environ.get("SESSIOND_MODEL_EXAMPLES", "120"))

SESSIONS = st.sampled_from(["s1", "s1", "s1", "s2", "s2", "f1", "f2"])
FORKS = st.sampled_from(["f1", "f2", "f3", "s2"])
USERS = st.sampled_from(["", "", "", "", "alice", "bob"])
REQUESTS = st.sampled_from(["", "", "", "r1", "r2"])
ROLES = st.sampled_from(["USER", "ASSISTANT"])

KINDS = ["append"] * 6 + [
    "update_and_append",
    "update_and_append",
    "create",
    "activate",
    "suspend",
    "resume",
    "end",
    "touch",
    "rename",
    "merge",
    "merge",
    "set_keys",
    "set_keys",
    "redact",
    "drop",
    "drop",
    "summarise",
    "summarise",
]
KINDS += ["delete"]
WORK = ["begin"] * 4 + ["heartbeat", "end_run", "end_run", "cancel_run", "request", "request"] + ["on_call"] * 5
KINDS += [*WORK, "create", "complete", "complete", "remove"]
DOCUMENTS = ["put_document", "put_document", "end_document", "append_and_put", "append_and_put"]
KINDS += DOCUMENTS
WITH_RUN = (
    "append",
    "append_and_put",
    "update_and_append",
    "set_keys",
    "drop",
    "request",
    "on_call",
    "rename",
    "complete",
    "summarise",
)
"""What may carry a fence; a heartbeat and the end of a run must."""

MOVES: dict[str, c.Action] = {
    "activate": c.ActivateSession(),
    "suspend": c.SuspendSession(),
    "resume": c.ResumeSession(),
}

LIVE = "live"
"""Stands for the run that is live when the command is made."""
RUNS = st.sampled_from(["r1", "r2", "r3", "r4", "r5"])
CALLS = st.sampled_from(["c1", "c2", "c3", "c4", "c5"])
PLACES = 4
"""Places of each log as of which the session is read."""
FILES = st.sampled_from(["f1", "f2", "f3", "f4"])
SIZES = {"f1": 5, "f2": 5, "f3": 7, "f4": 9}
"""Of the files; those of one size have one content."""

OWNERS: dict[str, tuple[DocumentScope.ValueType, str]] = {
    "agent": (DocumentScope.DOCUMENT_SCOPE_AGENT, "agent"),
    "alice": (DocumentScope.DOCUMENT_SCOPE_USER, "alice"),
}
"""Of documents, besides the session of the command."""

FILTERS: Sequence[tuple[MessageFilter, Callable[[ModelMessage], bool]]] = [
    (MessageFilter(labels={"half": "1"}), lambda m: m.labels.get("half") == "1"),
    (MessageFilter(labels={"third": ""}), lambda m: "third" in m.labels),
    (MessageFilter(labels={"half": "0", "third": ""}), lambda m: m.labels == {"half": "0", "third": ""}),
    (MessageFilter(labels={"half": "third"}), lambda m: False),
    (
        MessageFilter(labels={"half": "0"}, roles=[Role.ROLE_USER]),
        lambda m: m.labels.get("half") == "0" and m.role == "USER",
    ),
    (MessageFilter(roles=[Role.ROLE_ASSISTANT]), lambda m: m.role == "ASSISTANT"),
    (
        MessageFilter(client_time_from=Timestamp(seconds=20), client_time_until=Timestamp(seconds=40)),
        lambda m: m.client_time is not None and 20 <= m.client_time < 40,
    ),
    (
        MessageFilter(labels={"half": "1"}, client_time_until=Timestamp(seconds=30)),
        lambda m: m.client_time is not None and m.client_time < 30 and m.labels.get("half") == "1",
    ),
]
"""Of messages, and what each must select."""

Request = tuple[str, str, Answer, str, int, str, str]
"""Kind, session, content, request id, expected version, user, and the run that writes, if any."""

AnyStore = MemoryStore | PostgresStore | routed_stores.Routed

Clock = Callable[[float], Coroutine[object, object, None]]
"""Sets a store's clock to so many seconds after its start."""


@st.composite
def drawn_messages(draw: st.DrawFn) -> tuple[tuple[str, str, str], ...]:
    """(id, role, text) of each message of an append."""
    ids = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    return tuple((f"m{i}", draw(ROLES), f"text {i}") for i in ids)


@st.composite
def writes(draw: st.DrawFn, value: st.SearchStrategy[str | None], most: int) -> tuple[Answer, ...]:
    """(owner, key, value or None for a deletion, expected version, ttl) of each document, each once."""
    names = st.tuples(st.sampled_from(["agent", "alice", "session"]), st.sampled_from("ab"))
    drawn = []
    for owner, key in draw(st.lists(names, min_size=1, max_size=most, unique=True)):
        version, ttl = draw(st.sampled_from([None, None, None, 0, 1, 2])), draw(st.sampled_from([None, None, 60]))
        drawn.append((owner, key, draw(value), version, ttl))
    return tuple(drawn)


@st.composite
def contents(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> tuple[str, Answer]:
    """A command and its whole content."""
    kind = draw(st.sampled_from(kinds))
    if kind == "create":
        status = draw(st.sampled_from(["CREATED", "ACTIVE", "ACTIVE"]))
        ttl = draw(st.sampled_from([None, 3600, 10 * DAY]))
        user_id, name, limit = draw(st.sampled_from(["", "alice"])), draw(st.sampled_from(["", "named"])), draw(
            st.sampled_from([0, 0, 5])
        )  # fmt: skip
        return kind, (user_id, status, name, ttl, limit, draw(st.booleans()))
    if kind == "append":
        return kind, (draw(drawn_messages()),)
    if kind == "update_and_append":
        values = st.sampled_from([None, "y", 2.5, REMOVED, REMOVED])
        changes = draw(st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=2))
        return kind, (tuple(sorted(changes.items())), draw(drawn_messages()))
    if kind in ("activate", "suspend", "resume"):
        return "move", (kind,)
    if kind == "end":
        return kind, (draw(st.sampled_from(["CLIENT", "FAILED"])),)
    if kind == "touch":
        return kind, (draw(st.sampled_from([0, 1, 20 * DAY])),)
    if kind == "rename":
        return kind, (draw(st.sampled_from(["", "first name", "second name"])),)
    if kind == "merge":
        values = st.sampled_from([None, "x", 1.5, True, {}, {"a": "y", "b": None}, {"a": {"b": 2.5}}])
        changes = draw(st.dictionaries(st.sampled_from("abc"), values, max_size=2))
        return kind, (tuple(sorted(changes.items())),)
    if kind == "set_keys":
        values = st.sampled_from([None, "z", {"a": 3.5}, REMOVED])
        changes = draw(st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=2))
        return kind, (tuple(sorted(changes.items())), draw(st.booleans()))
    if kind == "redact":
        return kind, (f"m{draw(st.integers(1, 12))}", draw(st.sampled_from(["", "privacy"])))
    if kind == "summarise":
        return kind, (draw(st.integers(1, 12)), draw(st.sampled_from(["so far", "and then"])))
    if kind == "drop":
        how = draw(st.sampled_from(["ids", "range", "last", "last"]))
        if how == "ids":
            ids = draw(st.lists(st.integers(1, 12), min_size=1, max_size=2, unique=True))
            what: tuple[object, ...] = tuple(f"m{i}" for i in ids)
        elif how == "range":
            first = draw(st.integers(1, 20))
            what = (first, first + draw(st.integers(0, 6)))
        else:
            what = (draw(st.integers(1, 3)),)
        return kind, (how, what, draw(st.booleans()))
    if kind == "put_document":
        return kind, draw(writes(st.sampled_from("xyz"), 1))[0]
    if kind == "end_document":
        return kind, draw(writes(st.none(), 1))[0]
    if kind == "append_and_put":
        return kind, (draw(drawn_messages()), draw(writes(st.sampled_from(["x", "y", None]), 4)))
    if kind == "begin":
        return kind, (draw(RUNS), draw(st.sampled_from(["REJECT", "ENQUEUE", "ENQUEUE", "INTERRUPT"])))
    if kind == "end_run":
        return kind, (draw(st.sampled_from(["COMPLETED", "FAILED"])),)
    if kind == "cancel_run":
        return kind, (draw(RUNS),)
    if kind == "request":
        approval = draw(st.booleans())
        ttl = draw(st.sampled_from([0, 15, 40])) if approval else 0
        return kind, (draw(CALLS), approval, ttl, draw(st.booleans()))
    if kind == "on_call":
        verb = draw(st.sampled_from(["approve", "reject", "start", "start", "complete", "fail", "cancel"]))
        return kind, (draw(CALLS), verb, f"{verb} {draw(st.integers(1, 2))}")
    if kind in ("complete", "remove"):
        return kind, (draw(FILES),)
    return kind, ()


@st.composite
def requests(draw: st.DrawFn) -> Request:
    kind, args = draw(contents())
    expected = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    run_id = ""
    if kind in ("heartbeat", "end_run") or (kind in WITH_RUN and draw(st.booleans())):
        run_id = draw(RUNS)
    # A heartbeat leaves no record of its request.
    request_id = "" if kind == "heartbeat" else draw(REQUESTS)
    return kind, draw(SESSIONS), args, request_id, 0 if kind == "create" else expected, draw(USERS), run_id


@st.composite
def work(draw: st.DrawFn) -> Request:
    """What those do who are at work in a session: nothing that is refused for another reason."""
    kind, args = draw(contents([*WORK, "append"]))
    run_id = LIVE if kind in ("heartbeat", "end_run") or (kind in WITH_RUN and draw(st.booleans())) else ""
    return kind, draw(SESSIONS), args, "", 0, "", run_id


@st.composite
def files(draw: st.DrawFn) -> Request:
    """What those do who move files."""
    kind, args = draw(contents(["complete", "complete", "remove"]))
    return kind, "s1", args, draw(REQUESTS), 0, "", ""


@st.composite
def documents(draw: st.DrawFn) -> Request:
    """What those do who write documents of the first session, of the agent and of alice."""
    kind, args = draw(contents(DOCUMENTS))
    return kind, "s1", args, draw(REQUESTS), 0, "", ""


def document_write(session_id: str, write: Answer) -> c.DocumentWrite:
    owner, key, value, version, ttl = write
    scope, scope_id = OWNERS.get(str(owner), (DocumentScope.DOCUMENT_SCOPE_SESSION, session_id))
    assert version is None or isinstance(version, int)
    if value is None:
        return c.DeleteDocument(scope, scope_id, str(key), version)
    document = Document(json=str(value))
    if isinstance(ttl, int):
        document.ttl.seconds = ttl
    return c.PutDocument(scope, scope_id, str(key), document, version)


def action(kind: str, args: Answer, session_id: str) -> c.Action:
    """The command's action, as the wire would make it."""
    if kind in ("put_document", "end_document"):
        return document_write(session_id, args)
    if kind == "append_and_put":
        assert isinstance(args[1], tuple)
        return c.AppendMessages(
            messages_of(args[0]), documents=[document_write(session_id, write) for write in args[1]]
        )
    if kind == "create":
        user_id, status, name, ttl, limit, reuses = args
        session = Session(user_id=str(user_id), name=str(name), status=f"SESSION_STATUS_{status}", type=1, agent_mode=3)  # type: ignore[arg-type]
        session.summary = PADDED
        if isinstance(ttl, int):
            session.ttl.seconds = ttl
        if isinstance(limit, int) and limit:
            session.config.CopyFrom(SessionConfig(max_messages=limit))
        return c.CreateSession(session, reuse_deleted=bool(reuses))
    if kind == "fork":
        assert isinstance(args[1], int)
        return c.ForkSession(str(args[0]), ForkPlace(args[1]))
    if kind == "rewind":
        assert isinstance(args[0], int)
        return c.RewindSession(ForkPlace(args[0]), bool(args[1]))
    if kind == "append":
        return c.AppendMessages(messages_of(args[0]))
    if kind == "update_and_append":
        return c.UpdateAndAppend(messages_of(args[1]), set_keys(args[0], full=False))
    if kind == "set_keys":
        return set_keys(args[0], full=bool(args[1]))
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
    if kind == "summarise":
        through_seq, text = args
        assert isinstance(through_seq, int)
        return c.CreateSummary(Summary(through_seq=through_seq, text=str(text)))
    if kind == "drop":
        how, what, returned = args
        assert isinstance(what, tuple)
        if how == "ids":
            return c.DeleteMessages(message_ids=what, return_messages=bool(returned))
        if how == "range":
            return c.DeleteMessages(from_seq=what[0], to_seq=what[1], return_messages=bool(returned))
        return c.DeleteMessages(last_n=what[0], return_messages=bool(returned))
    if kind == "begin":
        return run_actions.begin(str(args[0]), RunPolicy.Value(f"RUN_POLICY_{args[1]}"), LEASE)
    if kind == "heartbeat":
        return c.HeartbeatRun()
    if kind == "end_run":
        return run_actions.finish(1, failed="broken" if args[0] == "FAILED" else "")
    if kind == "cancel_run":
        return c.CancelRun(str(args[0]))
    if kind == "request":
        call_id, approval, ttl, fails = args
        assert isinstance(ttl, int)
        return run_actions.request(
            str(call_id), approval=bool(approval), text=f"arguments of {call_id}", ttl=ttl, fails=bool(fails)
        )
    if kind == "on_call":
        return call_action(*map(str, args))
    if kind == "complete":
        file = declared(str(args[0]))
        return c.CompleteUpload(file.attachment_id, 1, file.sha256, file.size_bytes)
    if kind == "remove":
        return c.DeleteAttachment(str(args[0]))
    return c.DeleteSession()


def set_keys(changes: object, *, full: bool) -> c.UpdateSession:
    values: dict[str, object] = dict(changes)  # type: ignore[call-overload]
    removed = [f"state.{name}" for name, value in values.items() if value == REMOVED]
    members = {name: value for name, value in values.items() if value != REMOVED}
    session = Session(state=json_format.ParseDict(members, Struct()))
    return c.UpdateSession(session, ["state"], StructUpdate.STRUCT_UPDATE_SET_KEYS, removed, full=full)


def messages_of(rows: object) -> list[Message]:
    return [message_of(*row) for row in rows]  # type: ignore[attr-defined]


def message_of(message_id: str, role: str, text: str) -> Message:
    number = int(message_id[1:])
    message = Message(
        message_id=message_id, role=Role.Value(f"ROLE_{role}"), parts=[Part(text=text)], labels=labels_of(number)
    )
    if (seconds := client_time_of(number)) is not None:
        message.client_time.seconds = seconds
    return message


def declared(name: str) -> Attachment:
    size = SIZES[name]
    return Attachment(attachment_id=name, type=1, size_bytes=size, sha256=bytes([size]) * 32)  # type: ignore[arg-type]


def call_action(call_id: str, verb: str, detail: str) -> c.Action:
    if verb in ("approve", "reject"):
        return run_actions.decide(call_id, approve=verb == "approve", reason=detail)
    if verb == "start":
        return c.StartToolCall(call_id)
    if verb == "cancel":
        return c.CancelToolCall(call_id)
    return run_actions.complete(call_id, detail) if verb == "complete" else run_actions.fail(call_id, "broken", detail)


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
        written = tuple(DocumentChange.FromString(change).version for change in result.documents)
        return ("appended", result.version, result.first_seq, result.message_ids, *([written] if written else ()))
    if isinstance(result, c.DocumentWritten):
        return ("document", result.version, DocumentChange.FromString(result.change).version)
    if isinstance(result, c.MessageRedacted):
        message = Message.FromString(result.message)
        return ("redacted", result.version, message.message_id, message.redact_reason)
    if isinstance(result, c.MessagesDeleted):
        gone = DeleteMessagesResponse.FromString(result.messages).messages
        said = tuple((m.message_id, m.parts[0].text if m.parts else None) for m in gone)
        return ("dropped", result.version, result.seqs, result.message_ids, said)
    if isinstance(result, c.SummaryCreated):
        summary = Summary.FromString(result.summary)
        return ("summary", result.version, summary.seq, summary.through_seq, summary.text)
    if isinstance(result, c.LeaseExtended):
        return ("lease", result.lease_us // 1_000_000)
    if isinstance(result, c.RunWritten):
        return ran(result.version, Run.FromString(result.run))
    if isinstance(result, c.ToolCallWritten):
        return called(result.version, ToolCall.FromString(result.tool_call))
    if isinstance(result, c.AttachmentUploaded):
        attachment = Attachment.FromString(result.attachment)
        return ("uploaded", result.version, attachment.attachment_id, attachment.seq)
    if isinstance(result, c.AttachmentDeleted):
        return ("removed", result.version)
    assert isinstance(result, c.SessionDeleted)
    return ("deleted", result.version)


def ran(version: int, run: Run) -> Answer:
    reason = RunEndReason.Name(run.end_reason).removeprefix("RUN_END_REASON_").replace("UNSPECIFIED", "")
    return ("run", version, run.run_id, run_actions.status_of(run), run.fence, reason)


def called(version: int, call: ToolCall) -> Answer:
    reason = ToolCallCancelReason.Name(call.cancel_reason).removeprefix("TOOL_CALL_CANCEL_REASON_")
    assert call.arguments.text == f"arguments of {call.tool_call_id}"
    return (
        "call",
        version,
        call.tool_call_id,
        run_actions.status_of_call(call),
        call.run_id,
        call.approval.reason,
        call.result.text,
        reason.replace("UNSPECIFIED", ""),
    )


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

    @initialize(status=st.sampled_from(["CREATED", "ACTIVE", "ACTIVE"]))
    def a_session(self, status: str) -> None:
        self.apply([("create", "s1", ("", status, "", None, 0, False), "", 0, "", "")])

    @rule(batch=st.lists(work(), min_size=1, max_size=6))
    def agents_work(self, batch: list[Request]) -> None:
        self.apply(batch)

    @rule(batch=st.lists(requests(), min_size=1, max_size=5))
    def commands(self, batch: list[Request]) -> None:
        self.apply(batch)

    @rule(session_id=SESSIONS, request_id=REQUESTS, together=st.booleans())
    def cleared(self, session_id: str, request_id: str, together: bool) -> None:
        """Deleted, and its id taken anew."""
        owner = self.model.sessions[session_id].user_id if session_id in self.model.sessions else ""
        batch: list[Request] = [
            ("delete", session_id, (), "", 0, "", ""),
            ("create", session_id, (owner, "ACTIVE", "", None, 0, True), request_id, 0, "", ""),
            ("append", session_id, ((("m1", "USER", "text 1"),),), "", 0, "", ""),
        ]
        if together:
            self.apply(batch)
        else:
            for each in batch:
                self.apply([each])

    def apply(self, batch: Sequence[Request]) -> None:
        commands, expected = [], []
        for kind, session_id, args, request_id, version, user_id, run_id in batch:
            if not request_id:
                self.unnamed += 1
                request_id = f"!{self.unnamed}"
            fingerprint = repr((kind, args, version)).encode()
            scope = c.Scope(self.tenant, user_id)
            if run_id == LIVE:
                run_id = self.model.live(session_id)  # known only now
            fence = c.Fence(run_id, self.model.fence_of(session_id, run_id)) if run_id else None
            act = action(kind, args, session_id)
            alone = isinstance(act, c.PutDocument | c.DeleteDocument) and args[0] != "session"
            named = "" if alone else session_id
            commands.append(c.Command(scope, named, act, "t", request_id, fingerprint, version, fence=fence))
            expected.append(self.model.do(kind, session_id, args, request_id, version, user_id, run_id))
        for store, _ in self.stores:
            assert isinstance(store, AnyStore)
            applied = self.run(BranchedCommits(store, store.forks).apply(commands))
            assert [answer(result) for result in applied.results] == expected  # type: ignore[attr-defined]

    @rule(
        parent=SESSIONS,
        fork=FORKS,
        place=st.integers(0, 40),
        request_id=REQUESTS,
        user_id=USERS,
        more=st.lists(work(), max_size=3),
    )
    def forked(self, parent: str, fork: str, place: int, request_id: str, user_id: str, more: list[Request]) -> None:
        """At any place where a command has left it; others write it before in the same batch, or the fork behind."""
        known = self.model.sessions.get(parent)
        places = sorted(known.history) if known is not None else [1]
        command = ("fork", fork, (parent, places[-1 - place % len(places)]), request_id, 0, user_id, "")
        self.apply([*more[:1], command, *more[1:]])

    @rule(
        session_id=st.one_of(SESSIONS, FORKS),
        place=st.integers(0, 40),
        restore=st.booleans(),
        fenced=st.booleans(),
        request_id=REQUESTS,
        more=st.lists(work(), max_size=3),
    )
    def rewound(
        self, session_id: str, place: int, restore: bool, fenced: bool, request_id: str, more: list[Request]
    ) -> None:
        """To any place where a command has left it, and to one beyond its end."""
        known = self.model.sessions.get(session_id)
        places = sorted(known.history) if known is not None else [1]
        to = 999 if place == 40 else places[-1 - place % len(places)]
        run_id = LIVE if fenced and known is not None and known.live else ""
        command = ("rewind", session_id, (to, restore), request_id, 0, "", run_id)
        behind = [(kind, session_id, *rest) for kind, _, *rest in more]
        self.apply([command, *behind])  # type: ignore[list-item]

    @rule(batch=st.lists(documents(), min_size=1, max_size=6))
    def documents_are_written(self, batch: list[Request]) -> None:
        self.apply(batch)

    @rule(batch=st.lists(files(), min_size=1, max_size=6), name=FILES)
    def files_come_and_go(self, batch: list[Request], name: str) -> None:
        for upload in {name, *(str(args[0]) for kind, _, args, *_ in batch if kind == "complete")}:
            self.an_upload_begins("s1", upload)
        self.apply(batch)

    @rule(session_id=SESSIONS, name=FILES)
    def an_upload_begins(self, session_id: str, name: str) -> None:
        expected = self.model.begin_upload(session_id, name, SIZES[name])
        for store, _ in self.stores:
            assert isinstance(store, AnyStore)
            piece = Piece(self.tenant, str(uuid4()))
            begin = store.attachments.begin_upload(c.Scope(self.tenant), session_id, declared(name), piece)
            try:
                found: Answer = ("taken",) if self.run(begin) is None else ("begun",)
            except SessiondError as error:
                found = answer(error)
            assert found == expected

    @rule(seconds=st.sampled_from([20.0, 20.0, 60.0, 3599.0, 3600.0, 2.0 * DAY]))
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
            for session_id in ("s1", "s2", *(name for name in self.model.sessions if name[0] == "f")):
                self.compare(store, session_id)
            self.compare_documents(store)

    def compare_documents(self, store: Store) -> None:
        assert isinstance(store, AnyStore)
        names = [(owner, key) for owner in ("agent", "alice", "s1", "s2") for key in "ab"]
        scopes = [OWNERS.get(owner, (DocumentScope.DOCUMENT_SCOPE_SESSION, owner)) for owner, _ in names]
        asked = [(*scope, key) for scope, (_, key) in zip(scopes, names, strict=True)]
        found = self.run(store.documents.get_documents(c.Scope(self.tenant), asked))
        stored = [None if data is None else Document.FromString(data) for data in found]  # type: ignore[attr-defined]
        expected = [self.model.document(owner, key) for owner, key in names]
        assert [d and (d.version, d.json, d.seq) for d in stored] == [
            d and (d.version, d.value, d.seq) for d in expected
        ]

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

        everything = self.run(
            store.list_messages(
                scope, session_id, after_seq=0, before_seq=0, descending=True, limit=1000, include_rewound=True
            )
        )
        listed = [Message.FromString(body) for body in everything.messages]  # type: ignore[attr-defined]
        hidden = [m.message_id for m in expected.hidden]
        assert [(m.message_id, m.rewound) for m in listed[::-1]] == [
            (m.message_id, m.message_id in hidden) for m in expected.all_messages()
        ]

        for where, selects in FILTERS:
            found = self.run(
                store.find_messages(
                    scope, session_id, Selection(where), after_seq=0, before_seq=0, descending=True, limit=1000
                )
            )
            seqs = [Message.FromString(body).seq for body in found.messages]  # type: ignore[attr-defined]
            assert seqs == [m.seq for m in reversed(expected.messages) if selects(m)]

        page = self.run(store.read_log((scope.tenant_id, session_id), after_seq=0, limit=1000))
        events = [Event.FromString(entry.data) for entry in page.entries]  # type: ignore[attr-defined]
        assert session.base_version == expected.base
        assert [event.seq for event in events] == list(range(expected.base + 1, expected.version + 1))
        assert [EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events] == expected.log
        folded = Session()
        for event in events:
            folded = fold.fold(folded, event)
        assert folded == session
        self.compare_past(store, session, events)
        self.compare_summaries(store, session, expected)
        self.compare_work(store, session, expected)
        self.compare_files(store, session, expected)

    def compare_past(self, store: Store, session: Session, events: Sequence[Event]) -> None:
        """Reads as of some places, and of the times of their events."""
        scope, name, expected = c.Scope(self.tenant), session.session_id, past.folds(events)
        for event in random.Random(session.version).sample(events, min(PLACES, len(events))):
            then = self.run(past.then(store, scope, name, event.seq))
            assert then == past.without_messages(expected[event.seq]), event.seq
            time = event.create_time.ToMicroseconds()
            last = max(each.seq for each in events if each.create_time.ToMicroseconds() == time)
            assert self.run(store.find_place(scope, name, time)) == last

    def compare_summaries(self, store: Store, session: Session, expected: ModelSession) -> None:
        scope, name = c.Scope(self.tenant), session.session_id
        page = self.run(store.list_summaries(scope, name, before_seq=0, limit=100))
        stored = [Summary.FromString(body) for body in page.summaries]  # type: ignore[attr-defined]
        assert [(s.seq, s.through_seq, s.text) for s in stored[::-1]] == expected.summaries
        assert session.summary_seq == (expected.summaries[-1][0] if expected.summaries else 0)

    def compare_files(self, store: Store, session: Session, expected: ModelSession) -> None:
        assert isinstance(store, AnyStore)
        scope, name, attachments = c.Scope(self.tenant), session.session_id, store.attachments
        page = self.run(attachments.list_attachments(scope, name, after_seq=0, limit=100))
        found = [Attachment.FromString(body) for body in page.attachments]  # type: ignore[attr-defined]
        there = {name: file for name, file in expected.files.items() if file.there}
        assert [(a.attachment_id, a.seq, a.size_bytes) for a in found] == sorted(
            ((name, file.seq, file.size) for name, file in there.items()), key=lambda file: file[1]
        )
        for file_name, file in there.items():
            stored = self.run(attachments.get_file(scope, name, file_name))
            assert sum(extent.length for extent in stored.extents) == file.size  # type: ignore[attr-defined]
        unfinished = [self.run(attachments.get_upload(scope, name, upload)) for upload in SIZES]
        assert [upload is not None for upload in unfinished] == [upload in expected.uploads for upload in SIZES]
        sizes = sum(file.size for file in there.values())
        assert (session.attachment_count, session.attachment_bytes) == (len(there), sizes)

    def compare_work(self, store: Store, session: Session, expected: ModelSession) -> None:
        assert isinstance(store, AnyStore)
        scope, name = c.Scope(self.tenant), session.session_id
        runs = self.run(store.list_runs(scope, name, statuses=(1, 2, 3, 4, 5), before=None, limit=100))
        found = [Run.FromString(run) for run in runs.runs[::-1]]  # type: ignore[attr-defined]
        assert [(run.seq, *ran(0, run)[2:]) for run in found] == [
            (run.seq, run.run_id, run.status, run.fence, run.reason)
            for run in sorted(expected.runs.values(), key=lambda run: run.seq)
            if run.run_id not in expected.hidden_runs
        ]
        runs = self.run(
            store.list_runs(scope, name, statuses=(1, 2, 3, 4, 5), before=None, limit=100, include_rewound=True)
        )
        assert len(runs.runs) == len(expected.runs)  # type: ignore[attr-defined]
        calls = self.run(
            store.list_tool_calls(scope, name, statuses=tuple(range(1, 8)), run_id="", before=None, limit=100)
        )
        stored = [ToolCall.FromString(call) for call in calls.tool_calls[::-1]]  # type: ignore[attr-defined]
        assert [called(0, call)[2:] for call in stored] == [
            self.model._called(expected, call)[2:]
            for call in sorted(expected.calls.values(), key=lambda call: call.seq)
            if call.call_id not in expected.hidden_calls
        ]
        waiting = self.run(store.list_pending(scope, user_id="", after=None, limit=100))
        in_inbox = {ToolCall.FromString(call).tool_call_id for call in waiting.tool_calls  # type: ignore[attr-defined]
                    if ToolCall.FromString(call).session_id == name}  # fmt: skip
        pending = {call.call_id for call in expected.calls.values() if call.approval and call.status == "PENDING"}
        assert in_inbox == {name for name in pending if not self.model.overdue(expected.calls[name])}
        live = expected.live
        assert (session.live_run_id, session.live_run_fence) == ((live.run_id, live.fence) if live else ("", 0))
        assert (session.queued_run_count, session.run_count) == (len(expected.queue), len(expected.runs))
        assert (session.open_tool_call_count, session.pending_approval_count) == (
            len(expected.open_calls()),
            len(pending),
        )
        figures = RunCounters.decoded(self.run(store.get_metrics(scope, name))[1])  # type: ignore[index]
        ended = [run.status for run in expected.runs.values()]
        assert (figures.completed, figures.failed, figures.cancelled) == tuple(
            ended.count(status) for status in ("COMPLETED", "FAILED", "CANCELLED")
        )


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[tuple[Store, Clock]]:
    now = 1_700_000_000_000_000

    async def advance(seconds: float) -> None:
        nonlocal now
        now += int(seconds * 1_000_000)

    yield MemoryStore(policy=PATCHING, clock=lambda: now), advance


@contextlib.asynccontextmanager
async def postgres(
    dsn: str, optimistic: Mode, encrypted: Encryption | None = None
) -> AsyncIterator[tuple[Store, Clock]]:
    async with contextlib.AsyncExitStack() as stack:
        advance = await stack.enter_async_context(movable(dsn))
        opened = PostgresStore(dsn, policy=PATCHING, optimistic=optimistic, encryption=encrypted)
        yield await stack.enter_async_context(opened), advance


@contextlib.asynccontextmanager
async def routed(dsns: Sequence[str], tenants: int) -> AsyncIterator[tuple[Store, Clock]]:
    """Several databases, in which so many tenants live by turns."""
    ids = dict(zip(routed_stores.IDS, dsns, strict=True))
    homes = {f"tenant-{n}": home for n in range(tenants) if (home := routed_stores.IDS[n % 3]) != routed_stores.IDS[0]}
    await routed_stores.place(ids, homes)
    async with contextlib.AsyncExitStack() as stack:
        clocks = [await stack.enter_async_context(movable(dsn)) for dsn in dsns]

        async def advance(seconds: float) -> None:
            for clock in clocks:
                await clock(seconds)

        yield await stack.enter_async_context(routed_stores.opened(ids, policy=PATCHING)), advance


@contextlib.asynccontextmanager
async def movable(dsn: str) -> AsyncIterator[Clock]:
    """The clock of a database, which the test moves: functions before pg_catalog's in the search path."""
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
        yield advance
    finally:
        await connection.close()


def compare(examples: int, *stores: AbstractAsyncContextManager[tuple[Store, Clock]]) -> None:
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
                    max_examples=examples,
                    stateful_step_count=25,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize(
    ("examples", "optimistic"),
    [(QUICK_EXAMPLES, "always"), *(pytest.param(EXAMPLES, mode, marks=pytest.mark.long) for mode in ("always", "off"))],
)
def test_stores_behave_as_the_model(examples: int, optimistic: Mode, postgres_dsn: str) -> None:
    compare(examples, memory(), postgres(postgres_dsn, optimistic))


@pytest.mark.long
def test_an_encrypted_store_behaves_as_the_model(postgres_dsn: str) -> None:
    compare(EXAMPLES, memory(), postgres(postgres_dsn, "on", encryption()))


@pytest.mark.long
def test_several_databases_behave_as_the_model(databases: Databases) -> None:
    """Each example is a tenant, and those of three in a row live in three databases."""
    dsns = [databases.create_migrated() for _ in routed_stores.IDS]
    try:
        compare(EXAMPLES, routed(dsns, Comparison.examples + 4 * EXAMPLES))
    finally:
        for dsn in dsns:
            databases.drop(dsn)
