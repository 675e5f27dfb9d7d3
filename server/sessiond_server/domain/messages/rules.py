"""The rules of messages: append and redact; deletion.py has the one that deletes.

Each checks everything before it changes anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold, holds
from sessiond_server.domain.actions import Action, always, ask_for_shared
from sessiond_server.domain.documents import rules as document_rules
from sessiond_server.domain.forks.rows import CORES, Spread
from sessiond_server.domain.messages import deletion, marks, titles
from sessiond_server.domain.rows import AppendedMessage, EventRow, Head, Needs, StoredEvent
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.domain.state import NO_VIEW, State, Step
from sessiond_server.domain.times import set_timestamp
from sessiond_server.domain.tool_calls.tools import tool_allowed
from sessiond_server.errors import MessageAlreadyExists, MessageLimitReached, MessageNotFound, ToolBlocked

# A constant, because each access through the enum costs most of a microsecond.
APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED

_REDACTED: Final = (*deletion.REMAINING, "client_time")
"""Fields of Message that a redaction leaves."""


def append(step: Step, state: State, action: c.AppendMessages) -> c.Outcome:
    lifecycle.check_active(state.core, step.now_us)
    _check(step, state, state.limits, action)
    return _append(step, state, action)


def update_and_append(step: Step, state: State, action: c.UpdateAndAppend) -> c.Outcome:
    """The update comes first, so the messages are subject to the limits and tools that it sets."""
    lifecycle.check_active(state.core, step.now_us)
    update = session_rules.updated(step, state, action.update)
    _check(step, state, update.limits, action)
    session_rules.apply(step, state, update)
    return _append(step, state, action)


def _check(step: Step, state: State, limits: SessionConfig, action: c.AppendMessages) -> None:
    core = state.core
    limit = limits.max_messages
    if limit and core.message_count + len(action.messages) > limit:
        raise MessageLimitReached(core.session_id, limit)
    _check_tools(limits, core.session_id, action)
    _check_message_ids(step, state, action)
    if action.documents:
        document_rules.check_beside(step, state, action.documents)


def _append(step: Step, state: State, action: c.AppendMessages) -> c.MessagesAppended:
    core = state.core
    time_us, first_seq, first_index = step.time_after(core), core.version + 1, len(step.events)
    shared_head = step.shared_head(APPENDED, time_us, NO_VIEW)
    shared_body = _shared_body(step.command, time_us)
    written = (
        [change.SerializeToString() for change in document_rules.write_beside(step, state, action.documents, first_seq)]
        if action.documents
        else []
    )
    message_ids = []
    previous = core.last_event_id
    for index, given in enumerate(action.messages):
        seq, event_id = first_seq + index, step.new_id()
        message_id = given.message_id or event_id
        name = None
        if not core.name and (title := titles.title(given)):
            core.name = name = title
            state.indexed = True
        head = shared_head + encoding.event_head(seq, event_id, previous, first_index + index, name)
        if marks.has_marks(given):
            state.marks.update(((mark, seq), None) for mark in marks.of_message(given))
        if written and not index:
            head += encoding.repeated(encoding.EVENT_DOCUMENT, written)
        body = _stored(given, core).SerializeToString() + shared_body + encoding.message_place(seq, message_id)
        kept = _core_at(core, seq, event_id, time_us, first_of_request=not first_index) if not seq % CORES else None
        step.events.append(
            EventRow(state.key, seq, event_id, previous, APPENDED, time_us, message_id, head, body, None, kept)
        )
        message_ids.append(message_id)
        previous = event_id
    core.last_event_id = previous
    fold.advance(core, core.version + len(message_ids), time_us, first_of_request=not first_index, activity=True)
    state.new_message_ids.update(message_ids)
    return c.MessagesAppended(core.version, first_seq, tuple(message_ids), time_us, tuple(written))


def _core_at(core: Session, seq: int, event_id: str, time_us: int, *, first_of_request: bool) -> bytes:
    """The serialised core after the event at `seq`, of an append to which `core` has added the messages up to there."""
    here = Session()
    here.CopyFrom(core)
    here.last_event_id = event_id
    fold.advance(here, seq, time_us, first_of_request=first_of_request, activity=True)
    return here.SerializeToString()


def _shared_body(command: c.Command, time_us: int) -> bytes:
    """The serialised fields that all messages of one append share."""
    shared = Message()
    shared.session_id = command.session_id
    set_timestamp(shared.create_time, time_us)
    if command.fence is not None:
        shared.run_id = command.fence.run_id
    return shared.SerializeToString()


def _stored(given: Message, core: Session) -> Message:
    """The message without the output-only fields that a client may have set; a copy if any had to be removed. Adds it
    to the session's counters."""
    message = given
    if (
        given.HasField("create_time")
        or given.HasField("redact_time")
        or given.redact_reason
        or given.HasField("delete_time")
        or given.rewound
    ):
        # The other output-only fields are overridden by the server's, which follow them in the serialised message.
        message = Message()
        message.CopyFrom(given)
        message.ClearField("create_time")
        message.ClearField("redact_time")
        message.ClearField("redact_reason")
        message.ClearField("delete_time")
        message.ClearField("rewound")
    if given.HasField("usage") and not given.usage.total_tokens:
        if message is given:
            message = Message()
            message.CopyFrom(given)
        fold.fill_in_total(message.usage)
    fold.add_message(core, message)
    return message


def _check_tools(limits: SessionConfig, session_id: str, action: c.AppendMessages) -> None:
    if not limits.allowed_tools and not limits.blocked_tools:
        return
    for m, message in enumerate(action.messages):
        for p, part in enumerate(message.parts):
            if part.HasField("tool_call") and not tool_allowed(limits, part.tool_call.name):
                raise ToolBlocked(session_id, f"messages[{m}].parts[{p}].tool_call.name", part.tool_call.name)


def _check_message_ids(step: Step, state: State, action: c.AppendMessages) -> None:
    seen: set[str] = set()
    for message in action.messages:
        if not (message_id := message.message_id):
            continue
        if message_id in seen or message_id in state.new_message_ids or _is_stored(step, state, message_id):
            raise MessageAlreadyExists(state.core.session_id, message_id)
        seen.add(message_id)


def _is_stored(step: Step, state: State, message_id: str) -> bool:
    taken = step.taken_message_ids(message_id) and message_id not in state.freed_message_ids
    return taken or state.inherits(message_id)


def redact(step: Step, state: State, action: c.RedactMessage) -> c.Outcome:
    core = state.core
    if not action.spread:
        lifecycle.check_open(core, step.now_us)
    original = step.message_to_redact
    if original is None:
        raise MessageNotFound(core.session_id, action.message_id)
    time_us = step.time_after(core)
    message, head = Message.FromString(original.body), Event.FromString(original.head)
    title = action.title or head.session_name
    inherited = state.fork_seq is not None and original.seq <= state.fork_seq
    gave_name = titles.take_away(state, original.seq, title, inherited=inherited)
    if title:
        head.session_name = ""
    labels = marks.of_labels(message.labels)
    if inherited:
        state.unmarks_elsewhere += [(original.log_id, mark, original.seq) for mark in labels]
    else:
        state.unmark(original.seq, labels)
    deletion.strip(message, _REDACTED)
    set_timestamp(message.redact_time, time_us)
    message.redact_reason = action.reason
    state.redacted[action.message_id] = replace(
        original, head=head.SerializeToString(), body=message.SerializeToString()
    )
    message.session_id = core.session_id  # the log that has an inherited message shows it under its own id
    body = message.SerializeToString()
    if not action.spread and state.shows_to_others(original.seq):
        state.spreads.append(_spread(step, state, action, original, title))
    step.advance(core, time_us, activity=False)
    step.emit(
        state,
        EventType.EVENT_TYPE_MESSAGE_REDACTED,
        time_us,
        body=body,
        session_name=core.name if gave_name else None,
    )
    return c.MessageRedacted(core.version, body)


def _spread(step: Step, state: State, action: c.RedactMessage, original: AppendedMessage, title: str) -> Spread:
    tenant_id, session_id = state.key
    return Spread(
        tenant_id=tenant_id,
        session_id=session_id,
        log_id=original.log_id or session_id,
        seq=original.seq,
        request_id=c.INTERNAL_REQUEST_PREFIX + step.new_id(),
        message_id=action.message_id,
        reason=action.reason,
        title=title,
        actor=step.command.actor,
    )


def _ask_to_append(asked: Needs, command: c.Command, head: Head) -> None:
    assert isinstance(command.action, c.AppendMessages)
    ids = [(command.key, m.message_id) for m in command.action.messages if m.message_id]
    asked.message_ids += ids
    if head.fork_seq is not None:
        asked.inherited += ids
    if command.action.documents:
        document_rules.ask(asked, command)


def _update_along(action: c.Action) -> c.UpdateSession:
    assert isinstance(action, c.UpdateAndAppend)
    return action.update


def _removes_content(action: c.Action) -> bool:
    """The content went with the redaction that is spread, which was not refused: sessions only learn of it."""
    assert isinstance(action, c.RedactMessage)
    return not action.spread


def _ask_to_redact(asked: Needs, command: c.Command, head: Head) -> None:
    assert isinstance(command.action, c.RedactMessage)
    message = (command.key, command.action.message_id)
    asked.messages.append(message)
    ask_for_shared(asked, command.key, head)
    if head.fork_seq is not None:
        asked.inherited.append(message)


def _appended(events: Sequence[StoredEvent], content: bytes) -> c.MessagesAppended:
    # An update of the session, where there was one, came first.
    appended = [event for event in events if event.type == APPENDED]
    first, last = appended[0], appended[-1]
    # The row of a message that was deleted since has no id any more, but its body has it.
    ids = tuple(event.message_id or Message.FromString(event.body).message_id for event in appended)
    documents = tuple(change.SerializeToString() for change in Event.FromString(first.head).documents)
    return c.MessagesAppended(last.seq, first.seq, ids, last.create_time_us, documents)


ACTIONS: Final[Mapping[type, Action]] = {
    c.AppendMessages: Action(append, _appended, _ask_to_append, removes=holds.deletes_documents),
    c.UpdateAndAppend: Action(
        update_and_append, _appended, _ask_to_append, update=_update_along, removes=holds.deletes_documents
    ),
    c.RedactMessage: Action(
        redact,
        lambda events, _: c.MessageRedacted(events[-1].seq, events[-1].body),
        _ask_to_redact,
        removes=_removes_content,
    ),
    c.DeleteMessages: Action(deletion.delete, deletion.first_outcome, deletion.ask, keeps_answer=True, removes=always),
}
