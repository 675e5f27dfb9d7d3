"""What an action is to the write path: one row for each, in the `ACTIONS` of its resource's rules.

`batch.py` joins the tables, and takes from a row all that differs between actions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Head, Needs, StoredEvent

Ask = Callable[[Needs, c.Command, Head], None]
"""Adds what a command needs to know, besides its request id; the head is the session's, locked."""

FirstOutcome = Callable[[Sequence[StoredEvent], bytes], c.Outcome]
"""Takes the events that a request wrote the first time, complete and ascending, with the content of the last one, and
gives an outcome equal to the first one's."""


@dataclass(frozen=True, slots=True)
class Action:
    """One row. The rules are pure: state and clock come in, events go out."""

    rule: Callable[..., c.Outcome] | None
    """Takes (step, state, action) of a session that exists. Checks everything before it changes anything, so that a
    refusal leaves the state as it was. None: CreateSession, whose rule makes the state."""
    first_outcome: FirstOutcome | None
    """What a retry gets. None: the action writes no event when it is asked for by a request."""
    ask: Ask | None = None
    """None: it needs nothing but the head."""
    with_content: bool = False
    """It changes the content of the session, or answers with it."""
    with_work: bool = False
    """It may end or start runs other than the one that it names. It then needs the session's open work, and before it
    is decided, a lease that has run out is dealt with as if the sweeper had come."""


def ask_for_work(asked: Needs, key: tuple[str, str], head: Head) -> None:
    """Asks for the open runs and tool calls; for nothing where the session has had none."""
    core = Session.FromString(head.core)
    if (core.run_count or core.open_tool_call_count) and key not in asked.work:
        asked.work.append(key)


def written_session(events: Sequence[StoredEvent], content: bytes) -> c.SessionWritten:
    last = events[-1]
    return c.SessionWritten(c.SessionSnapshot(last.seq, last.body, content))


def written_tool_call(events: Sequence[StoredEvent], content: bytes) -> c.ToolCallWritten:
    last = events[-1]
    return c.ToolCallWritten(last.seq, last.body + content)


def written_run(events: Sequence[StoredEvent], types: Sequence[int]) -> c.RunWritten:
    """With the one event of these types; around it may be events of the run's calls, and the next run's start."""
    (event,) = (event for event in events if event.type in types)
    return c.RunWritten(events[-1].seq, event.body)
