"""Names that messages give their sessions. Events of a session repeat its name, each with the session's core, so what
removes such a message removes the name from them, too."""

from typing import Final

from sessiond.v1.message_pb2 import Message, Role
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import Title
from sessiond_server.domain.state import State

_USER: Final = Role.ROLE_USER  # each access through the enum costs most of a microsecond

TITLE_CHARACTERS = 50
"""Length of the name that the first user message gives a session."""


def title(message: Message) -> str:
    """The name that a session without one gets from this message; "" if the message gives none.

    It is the first TITLE_CHARACTERS characters of a user message's first text, with white space folded.
    """
    if message.role != _USER:
        return ""
    text = next((part.text for part in message.parts if part.text.strip()), "")
    # The prefix bounds the cost for long texts. A title may come out shorter where the prefix is mostly white space.
    return " ".join(text[: 20 * TITLE_CHARACTERS].split())[:TITLE_CHARACTERS].rstrip()


def take_away(state: State, seq: int, name: str, *, inherited: bool = False) -> bool:
    """Removes the name that the message at `seq` gave from the events after it and from the session. The head of the
    message's own event is the caller's. `inherited`: as Title.inherited. Returns whether the message gave one."""
    if not name:
        return False
    state.titles.append(Title(state.key, name, seq, state.core.version, inherited))
    if state.core.name == name:
        state.core.name = ""
        state.indexed = True
    return True


def without(title: Title, body: bytes) -> bytes:
    """The payload of an event of the session, or the core that its row has, without the name."""
    core = Session.FromString(body)
    if core.name != title.name:
        return body
    core.name = ""
    return core.SerializeToString()
