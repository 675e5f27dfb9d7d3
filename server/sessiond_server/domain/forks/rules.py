"""The rule that forks a session. It checks everything before it changes anything."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.run_pb2 import Run, RunEndReason
from sessiond.v1.session_pb2 import EndReason, Session, SessionConfig
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding
from sessiond_server.domain.actions import Action, always
from sessiond_server.domain.attachments.rows import AttachmentRow
from sessiond_server.domain.forks.place import core_after
from sessiond_server.domain.forks.rows import FORKS, GENERATIONS, ITEMS, LOOKED_BACK, ForkRow, ForkSource, RewoundRow
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import Known, RunRow, StoredEvent, ToolCallRow
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.domain.runs.work import Work
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.domain.sessions.content import Sizes
from sessiond_server.domain.sessions.parts import core_of, limits_of
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import SECOND, set_timestamp
from sessiond_server.errors import ForkLimitReached, InvalidFields, MessageNotFound, Violation

_LIMITS: Final = {"generations": GENERATIONS, "forks": FORKS, "items": ITEMS, "events": LOOKED_BACK}
NAMES_BYTES: Final = 64 * 1024
"""Most bytes of Event.deleted_attachment_ids: an event has room for so much beside the largest content."""
FORKED: Final = EventType.EVENT_TYPE_SESSION_FORKED


def fork(step: Step, action: c.ForkSession, source: ForkSource, known: Known) -> State:
    """Creates a session that continues another one from the place of `source`. Its first event of its own says so; the
    events after that close what was live there. Raises InvalidFields, MessageNotFound, ForkLimitReached."""
    _check(step, action, source)
    state = _at_place(step, action, source, known)
    lost = _lost_attachments(source, state.core)
    content = state.content or b""
    if action.update is not None:
        update = session_rules.updated(step, state, action.update)
        state.core, state.limits = update.core, update.limits
        if update.content is not None:
            assert update.content.whole is not None, "the content was loaded"
            content = update.content.whole
    core, time_us = state.core, step.time_after(state.core)
    _begin_life(step, action, core, time_us)
    state.content = content
    core.content_version = core.version + 1 if content else 0
    whole = Session.FromString(content)
    state.sizes = Sizes.of_whole(whole, core.content_version) if content else None
    state.content_changed = bool(content)
    state.metadata = whole.metadata
    state.indexed = True
    step.advance(core, time_us, activity=True)
    step.emit(state, FORKED, time_us, content=content, more=lost)
    run_rules.cancel_all(
        step,
        state,
        time_us,
        RunEndReason.RUN_END_REASON_SESSION_FORKED,
        ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_FORKED,
        keep_waiting=False,
    )
    state.lease_expire_us = None
    state.fork_seq = source.seq
    if core.rewound:
        state.rewound = (RewoundRow(state.key, ranges.of_session(core)),)
    state.fork = ForkRow(state.key, action.parent_id, source.seq, source.segments, time_us)
    return state


def _check(step: Step, action: c.ForkSession, source: ForkSource) -> None:
    if source.exceeded:
        raise ForkLimitReached(action.parent_id, source.exceeded, _LIMITS[source.exceeded])
    if not source.seq:
        if action.place.message_id:
            raise MessageNotFound(action.parent_id, action.place.message_id)
        raise InvalidFields([Violation("seq", "must be a place in the session's log")])
    if len(source.segments) > GENERATIONS:
        raise ForkLimitReached(action.parent_id, "generations", GENERATIONS)
    if source.children >= FORKS:
        raise ForkLimitReached(action.parent_id, "forks", FORKS)


def _lost_attachments(source: ForkSource, core: Session) -> bytes:
    """The field of the event that names deleted attachments, if some were deleted between the place and the fork: the
    events up to the place upload them, and do not delete them."""
    if Session.FromString(source.core).attachment_count == core.attachment_count:
        return b""
    gone = (row.attachment_id.encode() for row in source.attachments if row.blob_id is None)
    names = encoding.repeated(encoding.EVENT_DELETED_ATTACHMENT_ID, gone)
    return names if len(names) <= NAMES_BYTES else b""


def _at_place(step: Step, action: c.ForkSession, source: ForkSource, known: Known) -> State:
    """The session as it was at the place, under the fork's id."""
    key = step.command.key
    core = Session.FromString(source.core)
    core.session_id = key[1]
    core.ClearField("forked_from")
    core.forked_from.session_id = action.parent_id
    core.forked_from.seq = source.seq
    core.forked_from.event_id = core.last_event_id
    attachments = [_attachment(row, key) for row in source.attachments]
    kept = [Attachment.FromString(row.body) for row in attachments if row.blob_id is not None]
    core.attachment_count = len(kept)
    core.attachment_bytes = sum(attachment.size_bytes for attachment in kept)
    limits = SessionConfig.FromString(limits_of(Session.FromString(source.content).config))
    state = State(key, core, limits, core.user_id, known, source.content, base_version=core.base_version)
    runs = [_run(row, key) for row in source.runs]
    counters = RunCounters()
    work = Work(key, known, counters)
    for run in runs:
        work.inherit_run(run)
    for call in source.tool_calls:
        work.inherit_call(_call(call, key))
    state.opened_work = work
    state.inherited_attachments = attachments
    return state


def _begin_life(step: Step, action: c.ForkSession, core: Session, time_us: int) -> None:
    """The fork lives anew, from now on."""
    core.status = lifecycle.ACTIVE
    core.end_reason = EndReason.END_REASON_UNSPECIFIED
    core.ClearField("end_time")
    set_timestamp(core.create_time, time_us)
    given = set() if action.update is None else set(action.update.paths)
    if "expire_time" in given and core.HasField("expire_time"):
        return
    had_end = core.HasField("expire_time")
    core.ClearField("expire_time")
    if had_end and not core.HasField("ttl") and not given & {"ttl", "expire_time"} and step.policy.default_ttl_us:
        core.ttl.seconds, rest = divmod(step.policy.default_ttl_us, SECOND)
        core.ttl.nanos = rest * 1000


def _run(row: RunRow, key: tuple[str, str]) -> RunRow:
    run = Run.FromString(row.body)
    run.session_id = key[1]
    return replace(row, key=key, body=run.SerializeToString())


def _call(row: ToolCallRow, key: tuple[str, str]) -> ToolCallRow:
    call = ToolCall.FromString(row.body)
    call.session_id = key[1]
    return replace(row, key=key, body=call.SerializeToString(), inherited=True)


def _attachment(row: AttachmentRow, key: tuple[str, str]) -> AttachmentRow:
    if row.blob_id is None:
        return AttachmentRow(key, row.attachment_id, row.seq, None, b"")
    attachment = Attachment.FromString(row.body)
    attachment.session_id = key[1]
    return AttachmentRow(key, row.attachment_id, row.seq, row.blob_id, attachment.SerializeToString())


def _first_outcome(events: Sequence[StoredEvent], content: bytes) -> c.SessionWritten:
    forked = events[0]
    core = core_after(core_of(Session.FromString(forked.body)), events[1:])
    return c.SessionWritten(c.SessionSnapshot(core.version, core.SerializeToString(), content))


ACTIONS: Final[Mapping[type, Action]] = {
    c.ForkSession: Action(None, _first_outcome, with_content=always),
}
