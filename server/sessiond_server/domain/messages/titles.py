"""Names that messages gave their sessions. Events of a session repeat its name, each with the session's core, so what
removes such a message removes the name from them, too."""

from collections.abc import Iterable

from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import AppendedMessage, Key, Known
from sessiond_server.domain.state import State, Step


def given_by(known: Known) -> list[tuple[Key, int, bytes]]:
    """(key, seq, name) of each message that redactions and deletions have found and that gave its session a name."""
    found: dict[tuple[Key, int], AppendedMessage] = {}
    for (key, _), message in known.messages.items():
        found[(key, message.seq)] = message
    selections = (
        *known.newest.items(),
        *((place[0], messages) for place, messages in known.ranges.items()),
        *((name[0], messages) for name, messages in known.named.items()),
    )
    for key, selection in selections:
        found.update(((key, message.seq), message) for message in selection.messages)
    names = ((key, seq, Event.FromString(message.head).session_name) for (key, seq), message in found.items())
    return [(key, seq, name.encode()) for key, seq, name in names if name]


def take_away(step: Step, state: State, original: AppendedMessage, head: Event) -> bool:
    """Removes the name that the message gave from `head`, which is its own, from the events after it and from the
    session. Returns whether the message gave one."""
    name = head.session_name
    if not name:
        return False
    head.session_name = ""
    for event in _later(step, state, original.seq):
        event = state.renamed.get(event.seq, event)
        core = Session.FromString(event.body)
        if core.name == name:
            core.name = ""
            state.renamed[event.seq] = AppendedMessage(event.seq, event.head, core.SerializeToString())
    if state.core.name == name:
        state.core.name = ""
        state.indexed = True
    return True


def _later(step: Step, state: State, seq: int) -> Iterable[AppendedMessage]:
    for event in state.known.repeating.get(state.key, ()):
        if event.seq > seq:
            yield event
    for row in step.batch_sessions():
        if row.seq > seq:
            yield AppendedMessage(row.seq, row.head, row.body)
