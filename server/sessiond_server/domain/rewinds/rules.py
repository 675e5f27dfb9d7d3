"""The rule that takes a session back to one of its places. It checks everything before it changes anything."""

from collections.abc import Mapping
from typing import Final

from sessiond.patches import copy_content_field
from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import RunEndReason
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCallCancelReason
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.actions import Action, always, written_session
from sessiond_server.domain.forks.rows import LOOKED_BACK, ForkAsk, RewindSource, RewoundRow
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import Head, Needs
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions.content import Sizes
from sessiond_server.domain.state import State, Step
from sessiond_server.errors import InvalidFields, MessageNotFound, RewindLimitReached, RunInProgress, Violation

RESTORED: Final = ("metadata", "state", "agent_data", "summary")
"""Fields of the content that become what they were at the place. `config` says how to go on, and stays."""
REWOUND: Final = EventType.EVENT_TYPE_SESSION_REWOUND


def rewind(step: Step, state: State, action: c.RewindSession) -> c.Outcome:
    """Makes visible exactly what was visible at the place. Closes what is hidden by it and was open. Raises
    SessionEnded, RunInProgress, InvalidFields, MessageNotFound, RewindLimitReached."""
    core = state.core
    lifecycle.check_open(core, step.now_us)
    if core.live_run_id and step.command.fence is None:
        raise RunInProgress(core.session_id, core.live_run_id)
    source = state.known.rewinds.get(state.key, RewindSource(0))
    before = _checked(state, action, source)
    time_us = step.time_after(core)
    run_rules.cancel_after(
        step,
        state,
        time_us,
        source.seq,
        RunEndReason.RUN_END_REASON_SESSION_REWOUND,
        ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_REWOUND,
    )
    hidden = ranges.after_rewind(ranges.of_session(before), source.seq, core.version + 1)
    core.ClearField("rewound")
    core.rewound.extend(ranges.messages(hidden))
    core.message_count = before.message_count
    core.summary_seq = before.summary_seq
    content = _restored(state, source) if action.restore else None
    if content is not None:
        _set_content(state, content)
    step.advance(core, time_us, activity=True)
    state.rewound = (RewoundRow(state.key, hidden),)
    place = encoding.number_field(Event.REWOUND_TO_SEQ_FIELD_NUMBER, source.seq)
    step.emit(state, REWOUND, time_us, content=content, more=place)
    return c.SessionWritten(state.snapshot())


def _checked(state: State, action: c.RewindSession, source: RewindSource) -> Session:
    """The session's core at the place."""
    session_id = state.core.session_id
    if not source.seq:
        if action.place.message_id:
            raise MessageNotFound(session_id, action.place.message_id)
        raise InvalidFields([Violation("seq", "must be a place in the session's log")])
    if not source.core:
        raise RewindLimitReached(session_id, "events", LOOKED_BACK)
    before = Session.FromString(source.core)
    if len(ranges.after_rewind(ranges.of_session(before), source.seq, source.seq + 1)) > ranges.MOST:
        raise RewindLimitReached(session_id, "ranges", ranges.MOST)
    return before


def _restored(state: State, source: RewindSource) -> bytes | None:
    """The content with the fields of the place; None where they are what they were."""
    assert state.content is not None, "the content was loaded"
    now, then = Session.FromString(state.content), Session.FromString(source.content)
    after = Session()
    after.CopyFrom(now)
    for name in RESTORED:
        copy_content_field(then, after, name)
    return None if after == now else after.SerializeToString()


def _set_content(state: State, content: bytes) -> None:
    """Makes it the content as of the next event."""
    whole = Session.FromString(content)
    state.content, state.content_changed = content, True
    state.core.content_version = state.core.version + 1 if content else 0
    state.sizes = Sizes.of_whole(whole, state.core.content_version) if content else None
    state.metadata = whole.metadata
    state.indexed = True


def _ask(asked: Needs, command: c.Command, head: Head) -> None:
    """Asks for the session as it was at the place."""
    action = command.action
    assert isinstance(action, c.RewindSession)
    base_version = Session.FromString(head.core).base_version
    if not head.deleted:
        place = action.place
        asked.rewinds.append(
            ForkAsk(command.key, place, head.version, head.fork_seq, base_version, head.core, action.restore)
        )


ACTIONS: Final[Mapping[type, Action]] = {
    c.RewindSession: Action(rewind, written_session, _ask, with_content=always, with_work=True),
}
