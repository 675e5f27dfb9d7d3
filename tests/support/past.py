"""What reads as of a place must answer: what was answered then, or what the log folds to."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain import commands as c
from sessiond_server.domain.fold import fold
from sessiond_server.domain.rewinds import ranges
from sessiond_server.store.contract import Store
from sessiond_server.store.work import WorkStore

RUNS = tuple(range(1, 6))
CALLS = tuple(range(1, 8))
"""All statuses."""
_APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
_LATE = EventType.EVENT_TYPE_TOOL_CALL_LATE_RESULT


@dataclass
class Seen:
    """A session, its runs by place and its tool calls by seq, newest first, and the seqs of its messages."""

    session: Session
    runs: list[Run] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)


async def now(store: Store, work: WorkStore, scope: c.Scope, session_id: str) -> Seen:
    """As the session is answered now; a live run with the lease of its start."""
    snapshot = await store.get_session(scope, session_id, content=True)
    runs = await work.list_runs(scope, session_id, statuses=RUNS, before=None, limit=100)
    calls = await work.list_tool_calls(scope, session_id, statuses=CALLS, run_id="", before=None, limit=100)
    page = await store.list_messages(scope, session_id, after_seq=0, before_seq=0, descending=False, limit=1000)
    assert runs.next_place is calls.next_seq is None
    return Seen(
        Session.FromString(snapshot.core + snapshot.content),
        [_with_first_lease(Run.FromString(run)) for run in runs.runs],
        [ToolCall.FromString(call) for call in calls.tool_calls],
        [Message.FromString(message).seq for message in page.messages],
    )


def _with_first_lease(run: Run) -> Run:
    """Heartbeats leave no trace in the log."""
    if run.HasField("lease_expire_time"):
        run.lease_expire_time.FromMicroseconds(run.start_time.ToMicroseconds() + run.lease.ToMicroseconds())
    return run


async def then(store: Store, scope: c.Scope, session_id: str, seq: int, *, page_size: int = 100) -> Seen:
    """As the session is answered as of a place, without its messages."""
    _, snapshot = await store.get_session_at(scope, session_id, seq, content=True)
    assert snapshot.version == seq
    seen = Seen(Session.FromString(snapshot.core + snapshot.content))
    seen.runs = await runs_at(store, scope, session_id, seq, RUNS, page_size)
    seen.calls = await calls_at(store, scope, session_id, seq, CALLS, page_size=page_size)
    return seen


async def runs_at(
    store: Store, scope: c.Scope, session_id: str, seq: int, statuses: Sequence[int], page_size: int = 100
) -> list[Run]:
    found: list[Run] = []
    before: int | None = None
    while True:
        page = await store.list_runs_at(scope, session_id, seq, statuses=statuses, before=before, limit=page_size)
        assert len(page.runs) <= page_size
        found += [Run.FromString(run) for run in page.runs]
        before = page.next_place
        if before is None:
            return found


async def calls_at(
    store: Store,
    scope: c.Scope,
    session_id: str,
    seq: int,
    statuses: Sequence[int],
    run_id: str = "",
    page_size: int = 100,
) -> list[ToolCall]:
    found: list[ToolCall] = []
    before: int | None = None
    while True:
        page = await store.list_tool_calls_at(
            scope, session_id, seq, statuses=statuses, run_id=run_id, before=before, limit=page_size
        )
        assert len(page.tool_calls) <= page_size
        found += [ToolCall.FromString(call) for call in page.tool_calls]
        before = page.next_seq
        if before is None:
            return found


def folds(events: Sequence[Event]) -> dict[int, Seen]:
    """What a log, read now, folds to at each of its places."""
    seen: dict[int, Seen] = {}
    session = Session()
    runs: dict[str, tuple[int, Run]] = {}
    calls: dict[str, ToolCall] = {}
    messages: list[int] = []
    for event in events:
        session = fold(session, event)
        payload = event.WhichOneof("payload")
        for place, run in enumerate(event.preset_runs, 1 - len(event.preset_runs)):
            runs[run.run_id] = (place, run)
        if payload == "run":
            runs[event.run.run_id] = (event.run.seq, event.run)
        elif payload == "tool_call" and event.type != _LATE:
            call = ToolCall()
            call.CopyFrom(event.tool_call)
            if (before := calls.get(call.tool_call_id)) is not None and before.HasField("arguments"):
                call.arguments.CopyFrom(before.arguments)
            calls[call.tool_call_id] = call
        elif event.type == _APPENDED and not event.message.HasField("delete_time"):
            messages.append(event.seq)
        hidden = ranges.of_session(session)
        seen[event.seq] = Seen(
            session,
            [run for place, run in sorted(runs.values(), key=lambda one: -one[0]) if not ranges.hides(hidden, place)],
            [call for call in sorted(calls.values(), key=lambda one: -one.seq) if not ranges.hides(hidden, call.seq)],
            [each for each in messages if not ranges.hides(hidden, each)],
        )
    return seen


def without_messages(seen: Seen) -> Seen:
    return replace(seen, messages=[])
