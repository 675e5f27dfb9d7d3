"""The rules of sessions: create, update, transitions, end, expire, touch, delete.

Each rule checks everything before it changes anything, so that a refusal leaves the state unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.patches import CONTENT_FIELDS, apply_patch, copy_config_field
from sessiond.v1.event_pb2 import EventType, SessionPatch
from sessiond.v1.run_pb2 import Run, RunEndReason
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionConfig
from sessiond.v1.tool_call_pb2 import ToolCallCancelReason
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold, validation
from sessiond_server.domain.actions import Action, always, ask_for_shared, written_session
from sessiond_server.domain.forks.rows import HIDDEN_AT_ONCE, RewoundRow, Shared
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rewinds import rules as rewind_rules
from sessiond_server.domain.rows import Head, Known, Needs
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.domain.runs.work import Work
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions import validation as session_validation
from sessiond_server.domain.sessions.content import OBJECT_BYTES, Sizes, after_unread, patch_of, stored_patch, whole
from sessiond_server.domain.sessions.parts import content_of, copy_field, core_of, limits_of
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import SECOND, microseconds, set_timestamp
from sessiond_server.errors import InvalidFields, TemplateNotFound, Violation


def create(step: Step, action: c.CreateSession, known: Known, base_version: int) -> State:
    """Creates a session with its first event, whose `seq` is base_version + 1. Raises InvalidFields for times that
    contradict the clock, and TemplateNotFound."""
    session, now = action.session, step.now_us
    if action.missing_template:
        raise TemplateNotFound(action.missing_template)
    if session.HasField("expire_time") and microseconds(session.expire_time) <= now:
        raise InvalidFields([Violation(f"{action.prefix}session.expire_time", "must be in the future")])
    _check_preset(action, now)
    core = core_of(session)
    core.session_id = step.command.session_id
    core.version = core.base_version = base_version
    set_timestamp(core.create_time, now)
    limited = core.HasField("ttl") or core.HasField("expire_time") or action.no_expiry
    if not limited and step.policy.default_ttl_us:
        core.ttl.seconds, rest = divmod(step.policy.default_ttl_us, SECOND)
        core.ttl.nanos = rest * 1000
    content = content_of(session)
    core.content_version = base_version + 1 if content else 0
    limits = SessionConfig.FromString(limits_of(session.config))
    state = State(step.command.key, core, limits, core.user_id, known, content, base_version=base_version)
    if content:
        state.sizes = Sizes.of_whole(Session.FromString(content), core.content_version)
        state.content_changed = True
    state.indexed = True
    state.metadata = session.metadata
    runs = [_preset_run(step, core, run, now) for run in action.runs]
    state.opened_work = Work(state.key, known, RunCounters())
    state.opened_work.preset_runs(runs)
    step.advance(core, now, activity=True)
    step.emit(
        state,
        EventType.EVENT_TYPE_SESSION_CREATED,
        now,
        content=content or None,
        more=encoding.repeated(encoding.EVENT_PRESET_RUN, (run.SerializeToString() for run in runs)),
    )
    return state


def _check_preset(action: c.CreateSession, now_us: int) -> None:
    found = validation.FieldViolations()
    for index, run in enumerate(action.runs):
        for name in ("create_time", "start_time", "end_time"):
            if microseconds(getattr(run, name)) > now_us:
                found.add(f"{action.prefix}runs[{index}].{name}", "must not be in the future")
    found.check()


def _preset_run(step: Step, core: Session, given: Run, now_us: int) -> Run:
    """Makes the stored form of a run that comes from another system, and adds it to the session's counters."""
    run = Run(
        run_id=given.run_id or step.new_id(),
        session_id=core.session_id,
        seq=core.base_version + 1,
        version=core.base_version + 1,
        status=given.status,
        agent_id=given.agent_id,
        model=given.model,
    )
    for name in ("metadata", "usage", "error", "create_time", "start_time", "end_time"):
        if given.HasField(name):
            getattr(run, name).CopyFrom(getattr(given, name))
    if not run.HasField("create_time"):
        set_timestamp(run.create_time, now_us)
    if not run.HasField("end_time"):
        set_timestamp(run.end_time, now_us)
    core.run_count += 1
    if run.HasField("usage"):
        fold.fill_in_total(run.usage)
        fold.add_usage(core, run.usage)
    return run


@dataclass(frozen=True, slots=True)
class ContentChange:
    """What an update makes of the content."""

    stored: bytes
    """What the event stores: the whole content, or a patch."""
    whole: bytes | None
    """None: not known, because the content was not loaded."""
    sizes: Sizes
    limits: SessionConfig
    metadata: Struct | None
    """The metadata, if the update writes them."""


@dataclass(frozen=True, slots=True)
class Update:
    """A session as an update leaves it, not yet applied."""

    core: Session
    content: ContentChange | None
    """None: the update writes no field of the content."""
    limits: SessionConfig
    indexed: bool
    """Whether the update writes a column of IndexRow."""


def update(step: Step, state: State, action: c.UpdateSession) -> c.Outcome:
    lifecycle.check_open(state.core, step.now_us)
    apply(step, state, updated(step, state, action))
    return c.SessionWritten(state.snapshot(content=action.full))


def updated(step: Step, state: State, action: c.UpdateSession) -> Update:
    """What the update makes of the session, which it leaves unchanged. Raises InvalidFields."""
    core = core_of(state.core)
    change = _content_change(step, state, action)
    for path in action.paths:
        if path == "expire_time":
            _set_expiry(core, action, step.now_us)
        elif path == "ttl":
            _set_ttl(core, action.session, step.time_after(state.core))
        elif path.partition(".")[0] not in CONTENT_FIELDS:
            copy_field(action.session, core, path)
    core.agent_mode = core.agent_mode or AgentMode.AGENT_MODE_GENERAL
    limits = state.limits if change is None else change.limits
    return Update(core, change, limits, indexed=not _INDEXED.isdisjoint(action.paths))


def apply(step: Step, state: State, update: Update) -> None:
    """Makes the session what the update says, with an event."""
    time_us = step.time_after(state.core)
    core = state.core = update.core
    if (change := update.content) is not None:
        state.content, state.sizes, state.content_changed = change.whole, change.sizes, True
        state.limits = change.limits
        state.metadata = state.metadata if change.metadata is None else change.metadata
        core.content_version = core.version + 1
    state.indexed |= update.indexed
    step.advance(core, time_us, activity=False)
    step.emit(
        state,
        EventType.EVENT_TYPE_SESSION_UPDATED,
        time_us,
        content=None if change is None else change.stored,
    )


_INDEXED: Final = frozenset({"agent_id", "team_id", "workflow_id", "name", "labels", "metadata"})
"""Fields of an update that lists of sessions filter or sort by."""


def _content_change(step: Step, state: State, action: c.UpdateSession) -> ContentChange | None:
    """What the update makes of the content; None if no path is part of it. Raises InvalidFields if what stays and what
    the update adds are together too large."""
    patch = patch_of(action)
    if patch is None:
        return None
    version = state.core.version + 1
    stored, limits = stored_patch(patch), _limits_after(state, patch)
    sizes = after_unread(state.sizes, patch, version, step.policy)
    if sizes is not None:
        metadata = action.session.metadata if "metadata" in action.paths else None
        after = None if state.content is None else whole([state.content, stored])
        return ContentChange(stored, after, sizes, limits, metadata)
    assert state.content is not None, "the batch loads a content to which a patch may not fit"
    content = Session.FromString(state.content)
    apply_patch(content, patch)
    found = validation.FieldViolations()
    for name in (*patch.keys_set, *patch.merged):
        # The stored object and the given one are valid each, so only their size together may break a rule.
        if getattr(content, name).ByteSize() > OBJECT_BYTES[name]:
            session_validation.mutable_field(found, f"{action.prefix}session", content, name)
    session_validation.content_size(found, f"{action.prefix}session", content.ByteSize())
    found.check()
    after = content.SerializeToString()
    sizes = None if state.sizes is None else state.sizes.after_patch(patch, version)
    if sizes is not None and sizes.allows_patch(step.policy):
        sizes = sizes.exact(content)
    else:
        stored, sizes = after, Sizes.of_whole(content, version)
    metadata = content.metadata if "metadata" in action.paths else None
    return ContentChange(stored, after, sizes, limits, metadata)


def _limits_after(state: State, patch: SessionPatch) -> SessionConfig:
    """The session's limits after the patch."""
    limits = state.limits
    for path in patch.replaced:
        name, _, member = path.partition(".")
        if path == "config":
            limits = SessionConfig.FromString(limits_of(patch.session.config))
        elif name == "config" and member != "system_prompt":
            changed = SessionConfig()
            changed.CopyFrom(limits)
            copy_config_field(patch.session.config, changed, member)
            limits = changed
    return limits


def _set_expiry(core: Session, action: c.UpdateSession, now_us: int) -> None:
    given = action.session
    if given.HasField("expire_time") and microseconds(given.expire_time) <= now_us:
        raise InvalidFields([Violation(f"{action.prefix}session.expire_time", "must be in the future")])
    if given.HasField("expire_time") or not given.HasField("ttl"):
        core.ClearField("ttl")
        copy_field(given, core, "expire_time")


def _set_ttl(core: Session, given: Session, time_us: int) -> None:
    if given.HasField("ttl") or not given.HasField("expire_time"):
        core.ClearField("expire_time")
        copy_field(given, core, "ttl")
        if core.HasField("ttl"):
            set_timestamp(core.expire_time, time_us + microseconds(core.ttl))


def change_status(step: Step, state: State, action: lifecycle.Transition) -> c.Outcome:
    target, event_type = lifecycle.transition(state.core, action, step.now_us)
    time_us = step.time_after(state.core)
    if target == lifecycle.SUSPENDED:
        run_rules.cancel_all(
            step,
            state,
            time_us,
            RunEndReason.RUN_END_REASON_SESSION_SUSPENDED,
            ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_SUSPENDED,
            keep_waiting=True,
        )
    state.core.status = target
    state.indexed = True
    step.advance(state.core, time_us, activity=event_type != EventType.EVENT_TYPE_SESSION_SUSPENDED)
    step.emit(state, event_type, time_us)
    return c.SessionWritten(state.snapshot())


def end(step: Step, state: State, action: c.EndSession) -> c.Outcome:
    """Ends the session. A session that has expired already ends with reason EXPIRED instead of the caller's."""
    if state.core.status != lifecycle.ENDED:
        expired = lifecycle.is_expired(state.core, step.now_us)
        _end(step, state, EndReason.END_REASON_EXPIRED if expired else action.reason)
    return c.SessionWritten(state.snapshot())


def expire(step: Step, state: State, action: c.ExpireSession) -> c.Outcome:
    """Ends the session if it has expired. An expired lease has been handled before (see batch.py)."""
    if state.core.status == lifecycle.ENDED or not lifecycle.is_expired(state.core, step.now_us):
        return c.NothingToDo(state.core.version)
    _end(step, state, EndReason.END_REASON_EXPIRED)
    return c.SessionWritten(state.snapshot(content=False))


def _end(step: Step, state: State, reason: EndReason.ValueType) -> None:
    core, time_us = state.core, step.time_after(state.core)
    expired = reason == EndReason.END_REASON_EXPIRED
    event_type = EventType.EVENT_TYPE_SESSION_EXPIRED if expired else EventType.EVENT_TYPE_SESSION_ENDED
    expiry = Timestamp()
    expiry.CopyFrom(core.expire_time)
    run_rules.cancel_all(
        step,
        state,
        time_us,
        RunEndReason.RUN_END_REASON_SESSION_EXPIRED if expired else RunEndReason.RUN_END_REASON_SESSION_ENDED,
        ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_EXPIRED
        if expired
        else ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_ENDED,
        keep_waiting=False,
    )
    if core.HasField("expire_time"):
        # Runs and calls that are cancelled with the session do not extend its expiry.
        core.expire_time.CopyFrom(expiry)
    core.status = lifecycle.ENDED
    core.end_reason = reason
    set_timestamp(core.end_time, time_us)
    state.indexed = True
    step.advance(core, time_us, activity=False)
    step.emit(state, event_type, time_us)


def touch(step: Step, state: State, action: c.TouchSession) -> c.Outcome:
    core = state.core
    lifecycle.check_open(core, step.now_us)
    time_us = step.time_after(core)
    step.advance(core, time_us, activity=True)
    if action.extend_us and core.HasField("expire_time"):
        fold.extend(core, time_us + action.extend_us)
    step.emit(state, EventType.EVENT_TYPE_SESSION_TOUCHED, time_us)
    return c.SessionWritten(state.snapshot())


def delete(step: Step, state: State, action: c.DeleteSession) -> c.Outcome:
    """Deletes the session. Its ids and the final event remain as a tombstone."""
    time_us, version = step.time_after(state.core), state.core.version + 1
    previous, hidden = state.core.last_event_id, state.core.rewound
    first_own = state.base_version if state.fork_seq is None else state.fork_seq
    shown = state.known.shared.get(state.key, Shared()).through if state.forked else 0
    state.kept_seq = shown if shown - first_own > HIDDEN_AT_ONCE else 0
    state.forked = bool(state.kept_seq)
    state.core = Session(session_id=step.command.session_id, version=version, last_event_id=previous)
    state.limits = SessionConfig()
    state.content, state.sizes, state.content_changed = b"", None, False
    state.lease_expire_us = None
    state.deleted = True
    if hidden:
        state.rewound = (RewoundRow(state.key, ranges.NOTHING),)
    set_timestamp(state.core.update_time, time_us)
    body = Session(session_id=step.command.session_id, version=version).SerializeToString()
    step.emit(state, EventType.EVENT_TYPE_SESSION_DELETED, time_us, body=body)
    return c.SessionDeleted(version)


def _ask_to_delete(asked: Needs, command: c.Command, head: Head) -> None:
    if head.forked or head.fork_seq is not None:
        asked.unsharing.append(command.key[0])
        ask_for_shared(asked, command.key, head)


def _itself(action: c.Action) -> c.UpdateSession:
    assert isinstance(action, c.UpdateSession)
    return action


def _asks_for_content(action: c.Action) -> bool:
    return _itself(action).full


ACTIONS: Final[Mapping[type, Action]] = {
    **rewind_rules.ACTIONS,
    c.CreateSession: Action(None, written_session, with_content=always),
    c.UpdateSession: Action(update, written_session, with_content=_asks_for_content, update=_itself),
    c.ActivateSession: Action(change_status, written_session, with_content=always),
    c.SuspendSession: Action(change_status, written_session, with_content=always, with_work=True),
    c.ResumeSession: Action(change_status, written_session, with_content=always),
    c.EndSession: Action(end, written_session, with_content=always, with_work=True),
    c.ExpireSession: Action(expire, None, with_work=True),
    c.TouchSession: Action(touch, written_session, with_content=always),
    c.DeleteSession: Action(delete, lambda events, _: c.SessionDeleted(events[-1].seq), _ask_to_delete, removes=always),
}
