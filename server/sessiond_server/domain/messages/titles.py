"""Names that messages gave their sessions. Events of a session repeat its name, each with the session's core, so what
removes such a message removes the name from them, too."""

from sessiond.v1.event_pb2 import Event
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import Title
from sessiond_server.domain.state import State


def take_away(state: State, seq: int, head: Event) -> bool:
    """Removes the name that the message at `seq` gave from `head`, which is its own, from the events after it and from
    the session. Returns whether the message gave one."""
    name = head.session_name
    if not name:
        return False
    head.session_name = ""
    state.titles.append(Title(state.key, name, seq, state.core.version))
    if state.core.name == name:
        state.core.name = ""
        state.indexed = True
    return True


def without(title: Title, body: bytes) -> bytes:
    """The payload of an event of the session without the name."""
    core = Session.FromString(body)
    if core.name != title.name:
        return body
    core.name = ""
    return core.SerializeToString()
