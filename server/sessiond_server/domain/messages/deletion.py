"""The rule that deletes messages. It checks everything before it changes anything."""

from collections.abc import Container, Iterator, Sequence
from typing import Final

from sessiond.v1.event_pb2 import DeletedMessages, Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold
from sessiond_server.domain.actions import ask_for_shared
from sessiond_server.domain.messages import marks, titles
from sessiond_server.domain.rows import AppendedMessage, FoundMessages, Head, Needs, StoredEvent
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import DeletionTooLarge, MessageNotFound, MessageShared

REMAINING: Final = ("message_id", "seq", "session_id", "role", "usage", "create_time", "run_id", "model")
"""Fields of Message that the appending event keeps. `usage` is among them because the log must still fold to the
session's token totals."""

_NOTHING: Final = FoundMessages((), complete=True)
"""What a selection finds in a session that the batch itself has created."""


def delete(step: Step, state: State, action: c.DeleteMessages) -> c.Outcome:
    core = state.core
    lifecycle.check_open(core, step.now_us)
    chosen = sorted(_chosen(step, state, action), key=lambda message: message.seq)
    if any(state.shows_to_others(message.seq) for message in chosen):
        raise MessageShared(core.session_id)
    _check_size(state, action, chosen)
    time_us = step.time_after(core)
    gave_name, ids = False, []
    for original in chosen:
        message, head = Message.FromString(original.body), Event.FromString(original.head)
        ids.append(message.message_id)
        gave_name |= titles.take_away(state, original.seq, head.session_name)
        if head.session_name:
            head.session_name = ""
        state.removed[original.seq] = AppendedMessage(
            original.seq, head.SerializeToString(), _remains(message, time_us).SerializeToString()
        )
        state.unmark(original.seq, marks.of_message(message))
        state.redacted.pop(message.message_id, None)
        if message.message_id in state.new_message_ids:
            state.new_message_ids.discard(message.message_id)
        else:
            state.freed_message_ids.add(message.message_id)
    seqs = [message.seq for message in chosen]
    fold.remove_messages(core, seqs)
    step.advance(core, time_us, activity=False)
    body = DeletedMessages(seqs=seqs, message_ids=ids).SerializeToString()
    event_type = EventType.EVENT_TYPE_MESSAGES_DELETED
    step.emit(state, event_type, time_us, body=body, session_name=core.name if gave_name else None)
    messages = b""
    if action.return_messages:
        messages = encoding.repeated(encoding.RETURNED_MESSAGE, (message.body for message in chosen))
    return c.MessagesDeleted(core.version, tuple(seqs), tuple(ids), time_us, messages)


def _remains(message: Message, time_us: int) -> Message:
    """What the log keeps of a deleted message."""
    kept = Message()
    kept.CopyFrom(message)
    strip(kept, REMAINING)
    set_timestamp(kept.delete_time, time_us)
    return kept


def strip(message: Message, kept: Container[str]) -> None:
    """Removes all fields but those that are named, also fields that only later versions know."""
    for field, _ in message.ListFields():
        if field.name not in kept:
            message.ClearField(field.name)  # type: ignore[arg-type]  # the stubs want literals
    message.DiscardUnknownFields()


def _chosen(step: Step, state: State, action: c.DeleteMessages) -> Sequence[AppendedMessage]:
    """The selected messages as they are now, in any order. Raises MessageNotFound, DeletionTooLarge."""
    if action.message_ids:
        return _named(step, state, action)
    known, key = state.known, state.key
    if action.last_n:
        found = known.newest.get(key, _NOTHING)
        newest = sorted(_present(step, state, found), key=lambda message: -message.seq)[: action.last_n]
        if len(newest) < action.last_n and not found.complete:
            raise _too_large(state, action)
        if len(newest) < action.last_n and state.fork_seq is not None and state.core.message_count > len(newest):
            raise MessageShared(state.core.session_id)
        return newest
    found = known.ranges.get((key, action.from_seq, action.to_seq), _NOTHING)
    if not found.complete:
        raise _too_large(state, action)
    if state.fork_seq is not None and action.from_seq <= state.fork_seq:
        raise MessageShared(state.core.session_id)
    present = _present(step, state, found)
    return [message for message in present if action.from_seq <= message.seq <= action.to_seq]


def _named(step: Step, state: State, action: c.DeleteMessages) -> Sequence[AppendedMessage]:
    found = state.known.named.get((state.key, action.message_ids), _NOTHING)
    present = {Message.FromString(message.body).message_id: message for message in _present(step, state, found)}
    for message_id in action.message_ids:
        if message_id not in present:
            if not found.complete:
                raise _too_large(state, action)
            if state.inherits(message_id):
                raise MessageShared(state.core.session_id)
            raise MessageNotFound(state.core.session_id, message_id)
    return [present[message_id] for message_id in action.message_ids]


def _present(step: Step, state: State, found: FoundMessages) -> Iterator[AppendedMessage]:
    """The stored messages that were found and all that this batch has appended, without those that it has deleted and
    with those that it has redacted."""
    rewritten = {message.seq: message for message in state.redacted.values()}
    for message in found.messages:
        if message.seq not in state.removed:
            yield rewritten.get(message.seq, message)
    for row in step.batch_messages():
        if row.seq not in state.removed:
            yield rewritten.get(row.seq) or AppendedMessage(row.seq, row.head, row.body)


def _check_size(state: State, action: c.DeleteMessages, chosen: Sequence[AppendedMessage]) -> None:
    together = sum(len(message.body) for message in chosen)
    if len(chosen) > c.DELETED_AT_ONCE or (len(chosen) > 1 and together > action.most_bytes):
        raise _too_large(state, action)


def _too_large(state: State, action: c.DeleteMessages) -> DeletionTooLarge:
    return DeletionTooLarge(state.core.session_id, c.DELETED_AT_ONCE, action.most_bytes)


def ask(asked: Needs, command: c.Command, head: Head) -> None:
    """Asks for the messages that the deletion may choose. Earlier commands of the batch may take some of the newest
    ones, so deletions of the newest of one session are added up."""
    action, key = command.action, command.key
    assert isinstance(action, c.DeleteMessages)
    ask_for_shared(asked, key, head)
    if head.fork_seq is not None:
        asked.inherited += [(key, message_id) for message_id in action.message_ids]
    if action.message_ids:
        name = (key, action.message_ids)
        asked.named[name] = max(asked.named.get(name, 0), action.most_bytes)
    elif action.last_n:
        count, most_bytes = asked.newest.get(key, (0, 0))
        asked.newest[key] = count + action.last_n, most_bytes + action.most_bytes
    else:
        place = (key, action.from_seq, action.to_seq)
        _, most_bytes = asked.ranges.get(place, (0, 0))
        asked.ranges[place] = c.DELETED_AT_ONCE + 1, max(most_bytes, action.most_bytes)


def first_outcome(events: Sequence[StoredEvent], answer: bytes) -> c.MessagesDeleted:
    (event,) = events
    deleted = DeletedMessages.FromString(event.body)
    return c.MessagesDeleted(event.seq, tuple(deleted.seqs), tuple(deleted.message_ids), event.create_time_us, answer)
