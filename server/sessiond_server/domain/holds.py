"""The rule of legal holds: what removes something of a held session or user is refused.

Whether an action removes something is `Action.removes`, which every row of ACTIONS says. docs/forgetting.md tells what
a hold covers.
"""

from collections.abc import Iterator
from typing import Final

from sessiond_server.domain import commands as c
from sessiond_server.domain.actions import Action
from sessiond_server.domain.documents.rows import SESSION, USER
from sessiond_server.domain.rows import Held, Known, Needs
from sessiond_server.errors import UnderLegalHold

LONGEST_REASON: Final = 1024
"""Longest reason of a hold, in characters."""


def removed_of(command: c.Command, user_id: str) -> Iterator[Held]:
    """Of what an action that removes something does so. `user_id`: that of the command's session."""
    action, tenant_id = command.action, command.key[0]
    if isinstance(action, c.AppendMessages):
        for write in action.documents:
            yield from _of_document(command, write, user_id)
    elif isinstance(action, c.PutDocument | c.DeleteDocument):
        yield from _of_document(command, action, user_id)
    else:
        yield (tenant_id, command.session_id, user_id)


def _of_document(command: c.Command, write: c.DocumentWrite, user_id: str) -> Iterator[Held]:
    if isinstance(write, c.DeleteDocument) and write.scope == USER:
        yield (command.key[0], "", write.scope_id)
    elif isinstance(write, c.DeleteDocument) and write.scope == SESSION:
        yield (command.key[0], command.session_id, user_id)


def deletes_documents(action: c.Action) -> bool:
    """For `Action.removes` of appends."""
    assert isinstance(action, c.AppendMessages)
    return any(isinstance(write, c.DeleteDocument) for write in action.documents)


def ask(asked: Needs, row: Action, command: c.Command, user_id: str) -> None:
    """Asks what is held of that which the command removes, if it removes something."""
    if row.removes is not None and row.removes(command.action):
        asked.holds += removed_of(command, user_id)


def check(row: Action, command: c.Command, user_id: str, known: Known) -> None:
    """Raises UnderLegalHold where the command removes something that is held, or that a held session shows too."""
    if row.removes is None or not row.removes(command.action):
        return
    for tenant_id, session_id, owner in removed_of(command, user_id):
        if (tenant_id, session_id, owner) in known.held:
            raise UnderLegalHold(session_id=session_id, user_id="" if session_id else owner)
    action = command.action
    if isinstance(action, c.RedactMessage) and (command.key, action.message_id) in known.held_messages:
        raise UnderLegalHold(session_id=command.session_id)
