"""The row that describes an action to the write path. Each resource's rules have a table of them, `ACTIONS`.

`batch.py` joins the tables and takes everything that differs between actions from the row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Head, Needs, StoredEvent

Ask = Callable[[Needs, c.Command, Head], None]
"""Adds the look-ups that a command needs, besides that of its request id. The head is that of the locked session."""

FirstOutcome = Callable[[Sequence[StoredEvent], bytes], c.Outcome]
"""Rebuilds the first outcome of a request. Takes the events that the request wrote, complete and in ascending order,
and the content of the last one; returns an outcome equal to the first one."""


@dataclass(frozen=True, slots=True)
class Action:
    """How the write path handles one kind of action. Rules are pure: they take state and clock, and emit events."""

    rule: Callable[..., c.Outcome] | None
    """Takes (step, state, action) of an existing session. Checks everything before it changes anything, so that a
    refusal leaves the state unchanged. None for CreateSession, whose rule creates the state."""
    first_outcome: FirstOutcome | None
    """Rebuilds the answer to a retry. None where the action writes no event on behalf of a request."""
    ask: Ask | None = None
    """Adds the look-ups that the rule needs. None: the head is enough."""
    keeps_answer: bool = False
    """Whether a request record keeps what the log no longer has of the answer: RequestRecord.answer. `first_outcome`
    takes it in place of the content."""
    with_content: Callable[[c.Action], bool] | None = None
    """Whether the outcome of this action has the session's content, which is then loaded. None: never."""
    update: Callable[[c.Action], c.UpdateSession] | None = None
    """The update that the action makes of the session, which may need the content too. None: it makes none."""
    removes: Callable[[c.Action], bool] | None = None
    """Whether the action removes something that callers have stored, which legal holds forbid (holds.py). None:
    never."""
    with_work: bool = False
    """Whether the action may end or start other runs than the one it names. If so, the session's open runs and tool
    calls are loaded, and an expired lease and overdue approvals are ended before the action is decided, as the sweeper
    would have done."""


def always(_: c.Action) -> bool:
    """For `Action.with_content` and `Action.removes`."""
    return True


def ask_for_work(asked: Needs, key: tuple[str, str], head: Head) -> None:
    """Asks for the session's open runs and tool calls. Asks for nothing where the session has never had a run and has
    no open tool call."""
    core = Session.FromString(head.core)
    if (core.run_count or core.open_tool_call_count) and key not in asked.work:
        asked.work.append(key)


def ask_for_shared(asked: Needs, key: tuple[str, str], head: Head) -> None:
    """Asks what the session shares with others, where it may share anything."""
    if (head.forked or head.fork_seq is not None) and key not in asked.shared:
        asked.shared.append(key)


def written_session(events: Sequence[StoredEvent], content: bytes) -> c.SessionWritten:
    last = events[-1]
    return c.SessionWritten(c.SessionSnapshot(last.seq, last.body, content))


def written_tool_call(events: Sequence[StoredEvent], content: bytes) -> c.ToolCallWritten:
    last = events[-1]
    return c.ToolCallWritten(last.seq, last.body + content)


def written_run(events: Sequence[StoredEvent], types: Sequence[int]) -> c.RunWritten:
    """The outcome of an action on a run, from its only event of one of these types. Before and after that event there
    may be events of the run's tool calls and the start of the next run."""
    (event,) = (event for event in events if event.type in types)
    return c.RunWritten(events[-1].seq, event.body)
