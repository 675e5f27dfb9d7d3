"""The rules: what a command does to a session, or why it is refused. Pure: state and clock come in, events go out.

Each rule checks everything before it changes anything, so that a refusal leaves the state as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.struct_pb2 import Struct

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import AgentMode, EndReason, Session, SessionConfig, SessionView
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold, lifecycle, validation, wire
from sessiond_server.domain.merge import merge_patch
from sessiond_server.domain.parts import CONTENT_FIELDS, content_of, copy_field, core_of, limits_of
from sessiond_server.domain.rows import AppendedMessage, EventRow, Head, Key, Rules
from sessiond_server.domain.times import SECOND, microseconds, set_timestamp
from sessiond_server.errors import (
    InvalidFields,
    MessageAlreadyExists,
    MessageLimitReached,
    MessageNotFound,
    ToolBlocked,
    Violation,
)

# Looked up once: each access through the enum costs most of a microsecond.
APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
NO_VIEW: Final = SessionView.SESSION_VIEW_UNSPECIFIED


@dataclass(slots=True)
class State:
    """One session while a batch is decided. `core`, `content` and the rest change as commands are accepted."""

    key: Key
    core: Session
    limits: SessionConfig
    user_id: str
    content: bytes = b""
    """Known only where a command of the batch needs it."""
    created: bool = False
    deleted: bool = False
    indexed: bool = False
    """A column by which sessions are listed changed."""
    metadata_changed: bool = False
    new_message_ids: set[str] = field(default_factory=set)
    redacted: dict[str, AppendedMessage] = field(default_factory=dict)
    """Messages rewritten in this batch, by id."""

    @classmethod
    def load(cls, key: Key, head: Head, content: bytes) -> "State":
        core = Session.FromString(head.core)
        core.version = head.version
        return cls(key, core, SessionConfig.FromString(head.limits), head.user_id, content, deleted=head.deleted)

    def snapshot(self) -> c.SessionSnapshot:
        return c.SessionSnapshot(self.core.version, self.core.SerializeToString(), self.content)


@dataclass(slots=True)
class Step:
    """One command being decided: what it may know, and the events it has made so far."""

    command: c.Command
    now_us: int
    rules: Rules
    new_id: Callable[[], str]
    taken_message_ids: Callable[[str], bool]
    message_to_redact: AppendedMessage | None
    events: list[EventRow] = field(default_factory=list)

    def emit(
        self,
        state: State,
        event_type: EventType.ValueType,
        time_us: int,
        *,
        body: bytes | None = None,
        content: bytes | None = None,
        session_name: str | None = None,
    ) -> None:
        """Adds the one event of a write, at the state's version, which has just been advanced.

        `body` None: the session's core.
        """
        view = SessionView.SESSION_VIEW_UNSPECIFIED
        if event_type < wire.FIRST_MESSAGE_EVENT:
            full = content is not None or event_type == EventType.EVENT_TYPE_SESSION_CREATED
            view = SessionView.SESSION_VIEW_FULL if full else SessionView.SESSION_VIEW_BASIC
        core, event_id = state.core, self.new_id()
        previous, core.last_event_id = core.last_event_id, event_id
        head = self.head_of_all(event_type, time_us, view) + wire.event_head(
            core.version, event_id, previous, 0, session_name
        )
        if body is None:
            body = core.SerializeToString()
        self.events.append(
            EventRow(state.key, core.version, event_id, previous, event_type, time_us, None, head, body, content)
        )

    def head_of_all(self, event_type: EventType.ValueType, time_us: int, view: SessionView.ValueType) -> bytes:
        """What the heads of all events of this write share, serialised; wire.event_head has the rest."""
        command = self.command
        # Field by field: keyword arguments would take more than twice as long.
        head = Event()
        head.session_id = command.session_id
        head.type = event_type
        set_timestamp(head.create_time, time_us)
        head.actor = command.actor
        head.session_view = view
        if not command.request_id.startswith(c.INTERNAL_REQUEST_PREFIX):
            head.request_id = command.request_id
        return head.SerializeToString()

    def time_after(self, session: Session) -> int:
        """The event's time: now, but never before the session's previous event, whatever the clock did."""
        return max(self.now_us, microseconds(session.update_time))

    def advance(self, session: Session, time_us: int, *, activity: bool, events: int = 1) -> None:
        """What the events of a write do to the session, whatever they are."""
        fold.advance(session, session.version + events, time_us, first_of_request=True, activity=activity)


def create(step: Step, action: c.CreateSession) -> State:
    """A new session, with its first event."""
    session, now = action.session, step.now_us
    if session.HasField("expire_time") and microseconds(session.expire_time) <= now:
        raise InvalidFields([Violation("session.expire_time", "must be in the future")])
    core = core_of(session)
    core.session_id = step.command.session_id
    set_timestamp(core.create_time, now)
    if not core.HasField("ttl") and not core.HasField("expire_time") and step.rules.default_ttl_us:
        core.ttl.seconds, rest = divmod(step.rules.default_ttl_us, SECOND)
        core.ttl.nanos = rest * 1000
    content = content_of(session)
    core.content_version = 1 if content else 0
    limits = SessionConfig.FromString(limits_of(session.config))
    state = State(step.command.key, core, limits, core.user_id, content, created=True)
    state.indexed = state.metadata_changed = True
    step.advance(core, now, activity=True)
    step.emit(
        state,
        EventType.EVENT_TYPE_SESSION_CREATED,
        now,
        content=content or None,
    )
    return state


def update(step: Step, state: State, action: c.UpdateSession) -> c.Outcome:
    lifecycle.check_open(state.core, step.now_us)
    time_us = step.time_after(state.core)
    core = core_of(state.core)
    content = _updated_content(state.content, action)
    for path in action.paths:
        if path == "expire_time":
            _set_expiry(core, action.session, step.now_us)
        elif path == "ttl":
            _set_ttl(core, action.session, time_us)
        elif path.partition(".")[0] not in CONTENT_FIELDS:
            copy_field(action.session, core, path)
    core.agent_mode = core.agent_mode or AgentMode.AGENT_MODE_GENERAL
    state.core = core
    if content is not None:
        state.content = content.SerializeToString()
        state.limits = SessionConfig.FromString(limits_of(content.config))
        core.content_version = core.version + 1
        state.metadata_changed |= "metadata" in action.paths
    state.indexed = True
    step.advance(core, time_us, activity=False)
    step.emit(
        state,
        EventType.EVENT_TYPE_SESSION_UPDATED,
        time_us,
        content=None if content is None else state.content,
    )
    return c.SessionWritten(state.snapshot())


def _updated_content(old: bytes, action: c.UpdateSession) -> Session | None:
    """The content after the update; None when no path is of it. Raises InvalidFields when a merge made it too large."""
    paths = [path for path in action.paths if path.partition(".")[0] in CONTENT_FIELDS]
    if not paths:
        return None
    content = Session.FromString(old)
    merge = action.struct_update == StructUpdate.STRUCT_UPDATE_MERGE
    for path in paths:
        name, _, member = path.partition(".")
        given: object = getattr(action.session, name)
        if member:
            _copy_config_field(action.session.config, content.config, member)
        elif merge and isinstance(given, Struct):
            kept: Struct = getattr(content, name)
            kept.SetInParent()
            merge_patch(kept, given)
        else:
            copy_field(action.session, content, name)
    if merge:
        found = validation.Found()
        for path in paths:
            if "." not in path:
                validation.mutable_field(found, "session", content, path)
        found.check()
    return content


def _copy_config_field(source: SessionConfig, target: SessionConfig, name: str) -> None:
    target.ClearField(name)  # type: ignore[arg-type]  # the stubs want literals
    value = getattr(source, name)
    if isinstance(value, int | str):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def _set_expiry(core: Session, given: Session, now_us: int) -> None:
    if given.HasField("expire_time") and microseconds(given.expire_time) <= now_us:
        raise InvalidFields([Violation("session.expire_time", "must be in the future")])
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
    state.core.status = target
    state.indexed = True
    step.advance(state.core, time_us, activity=event_type != EventType.EVENT_TYPE_SESSION_SUSPENDED)
    step.emit(state, event_type, time_us)
    return c.SessionWritten(state.snapshot())


def end(step: Step, state: State, action: c.EndSession) -> c.Outcome:
    """Ends the session; one whose time had run out already ends for that reason, not for the caller's."""
    if state.core.status != lifecycle.ENDED:
        expired = lifecycle.is_expired(state.core, step.now_us)
        _end(step, state, EndReason.END_REASON_EXPIRED if expired else action.reason)
    return c.SessionWritten(state.snapshot())


def expire(step: Step, state: State, action: c.ExpireSession) -> c.Outcome:
    if state.core.status == lifecycle.ENDED or not lifecycle.is_expired(state.core, step.now_us):
        return c.NothingToDo()
    _end(step, state, EndReason.END_REASON_EXPIRED)
    return c.SessionWritten(state.snapshot())


def _end(step: Step, state: State, reason: EndReason.ValueType) -> None:
    core, time_us = state.core, step.time_after(state.core)
    expired = reason == EndReason.END_REASON_EXPIRED
    event_type = EventType.EVENT_TYPE_SESSION_EXPIRED if expired else EventType.EVENT_TYPE_SESSION_ENDED
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
    """Leaves the ids and the final event."""
    time_us, version = step.time_after(state.core), state.core.version + 1
    previous = state.core.last_event_id
    state.core = Session(session_id=step.command.session_id, version=version, last_event_id=previous)
    state.limits = SessionConfig()
    state.content = b""
    state.deleted = True
    set_timestamp(state.core.update_time, time_us)
    body = Session(session_id=step.command.session_id, version=version).SerializeToString()
    step.emit(state, EventType.EVENT_TYPE_SESSION_DELETED, time_us, body=body)
    return c.SessionDeleted(version)


def append(step: Step, state: State, action: c.AppendMessages) -> c.Outcome:
    core = state.core
    lifecycle.check_active(core, step.now_us)
    limit = state.limits.max_messages
    if limit and core.message_count + len(action.messages) > limit:
        raise MessageLimitReached(core.session_id, limit)
    _check_tools(state.limits, core.session_id, action)
    _check_message_ids(step, state, action)

    time_us, first_seq = step.time_after(core), core.version + 1
    head_of_all = step.head_of_all(APPENDED, time_us, NO_VIEW)
    body_of_all = _body_of_all(core.session_id, time_us)
    message_ids = []
    previous = core.last_event_id
    for index, given in enumerate(action.messages):
        seq, event_id = first_seq + index, step.new_id()
        message_id = given.message_id or event_id
        name = None
        if not core.name and (title := fold.title(given)):
            core.name = name = title
            state.indexed = True
        head = head_of_all + wire.event_head(seq, event_id, previous, index, name)
        body = _stored(given, core).SerializeToString() + body_of_all + wire.message_place(seq, message_id)
        step.events.append(
            EventRow(state.key, seq, event_id, previous, APPENDED, time_us, message_id, head, body, None)
        )
        message_ids.append(message_id)
        previous = event_id
    core.last_event_id = previous
    step.advance(core, time_us, activity=True, events=len(message_ids))
    state.new_message_ids.update(message_ids)
    return c.MessagesAppended(core.version, first_seq, tuple(message_ids), time_us)


def _body_of_all(session_id: str, time_us: int) -> bytes:
    """What all messages of one append share, serialised."""
    shared = Message()
    shared.session_id = session_id
    set_timestamp(shared.create_time, time_us)
    return shared.SerializeToString()


def _stored(given: Message, core: Session) -> Message:
    """The message with nothing that the client may not set, counted in the session: itself, or a copy."""
    message = given
    if given.HasField("create_time") or given.HasField("redact_time") or given.redact_reason:
        # The other output-only fields are followed by the server's own, which prevail.
        message = Message()
        message.CopyFrom(given)
        message.ClearField("create_time")
        message.ClearField("redact_time")
        message.ClearField("redact_reason")
    if given.HasField("usage") and not given.usage.total_tokens:
        if message is given:
            message = Message()
            message.CopyFrom(given)
        message.usage.total_tokens = min(given.usage.input_tokens + given.usage.output_tokens, fold.MOST)
    fold.add_message(core, message)
    return message


def _check_tools(limits: SessionConfig, session_id: str, action: c.AppendMessages) -> None:
    if not limits.allowed_tools and not limits.blocked_tools:
        return
    for m, message in enumerate(action.messages):
        for p, part in enumerate(message.parts):
            if part.HasField("tool_call") and not tool_allowed(limits, part.tool_call.name):
                raise ToolBlocked(session_id, f"messages[{m}].parts[{p}].tool_call.name", part.tool_call.name)


def tool_allowed(limits: SessionConfig, name: str) -> bool:
    """Blocked tools are never allowed; an empty list of allowed ones allows all others."""
    return name not in limits.blocked_tools and (not limits.allowed_tools or name in limits.allowed_tools)


def _check_message_ids(step: Step, state: State, action: c.AppendMessages) -> None:
    seen: set[str] = set()
    for message in action.messages:
        if not (message_id := message.message_id):
            continue
        if message_id in seen or message_id in state.new_message_ids or step.taken_message_ids(message_id):
            raise MessageAlreadyExists(state.core.session_id, message_id)
        seen.add(message_id)


def redact(step: Step, state: State, action: c.RedactMessage) -> c.Outcome:
    core = state.core
    lifecycle.check_open(core, step.now_us)
    original = step.message_to_redact
    if original is None:
        raise MessageNotFound(core.session_id, action.message_id)
    time_us = step.time_after(core)
    message, head = Message.FromString(original.body), Event.FromString(original.head)
    gave_name = head.HasField("session_name") and head.session_name == core.name
    message.ClearField("parts")
    message.ClearField("metadata")
    message.ClearField("name")
    set_timestamp(message.redact_time, time_us)
    message.redact_reason = action.reason
    if head.HasField("session_name"):
        head.session_name = ""
    if gave_name:
        core.name = ""
        state.indexed = True
    body = message.SerializeToString()
    state.redacted[action.message_id] = AppendedMessage(original.seq, head.SerializeToString(), body)
    step.advance(core, time_us, activity=False)
    step.emit(
        state,
        EventType.EVENT_TYPE_MESSAGE_REDACTED,
        time_us,
        body=body,
        session_name="" if gave_name else None,
    )
    return c.MessageRedacted(core.version, body)


RULES: dict[type, Callable[..., c.Outcome]] = {
    c.UpdateSession: update,
    c.ActivateSession: change_status,
    c.SuspendSession: change_status,
    c.ResumeSession: change_status,
    c.EndSession: end,
    c.ExpireSession: expire,
    c.TouchSession: touch,
    c.DeleteSession: delete,
    c.AppendMessages: append,
    c.RedactMessage: redact,
}
"""The rule of every action on a session that exists, taking (step, state, action). `create` stands apart: it makes the
state."""
