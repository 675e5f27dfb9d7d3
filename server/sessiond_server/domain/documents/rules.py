"""The rules of documents: put and delete, alone or along with messages. Each checks everything before it changes
anything."""

from collections.abc import Mapping, Sequence
from typing import Final

from sessiond.v1.document_pb2 import DocumentChange, DocumentScope
from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain import commands as c
from sessiond_server.domain.actions import Action, always
from sessiond_server.domain.documents.changes import DocumentChanges
from sessiond_server.domain.documents.rows import USER, DocumentKey, Owner
from sessiond_server.domain.rows import Head, Needs, StoredEvent
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.errors import DocumentNotFound, DocumentVersionMismatch, InvalidFields, Violation


def document_key(tenant_id: str, write: c.DocumentWrite) -> DocumentKey:
    return (tenant_id, write.scope, write.scope_id, write.key)


def owner(command: c.Command) -> Owner:
    """Whose documents a command writes that belong to no session. Request ids are remembered for each owner."""
    action = command.action
    assert isinstance(action, c.PutDocument | c.DeleteDocument)
    return (command.scope.tenant_id, action.scope, action.scope_id)


def named(command: c.Command) -> Sequence[DocumentKey]:
    """The documents that the command may write. They depend on nothing but the command."""
    action, tenant_id = command.action, command.scope.tenant_id
    if isinstance(action, c.PutDocument | c.DeleteDocument):
        return (document_key(tenant_id, action),)
    if isinstance(action, c.AppendMessages) and action.documents:
        return [document_key(tenant_id, write) for write in action.documents]
    return ()


def write(documents: DocumentChanges, command: c.Command) -> c.DocumentWritten:
    """Writes a document that belongs to no session."""
    action = command.action
    assert isinstance(action, c.PutDocument | c.DeleteDocument)
    _check(documents, command.scope.tenant_id, action, must_exist=isinstance(action, c.DeleteDocument))
    change = _apply(documents, command.scope.tenant_id, action, 0)
    return c.DocumentWritten(0, change.SerializeToString())


def write_in_session(step: Step, state: State, action: c.DocumentWrite) -> c.Outcome:
    """Writes a document of the session, with its event."""
    core, tenant_id, documents = state.core, step.command.scope.tenant_id, step.documents
    lifecycle.check_open(core, step.now_us)
    deletes = isinstance(action, c.DeleteDocument)
    _check(documents, tenant_id, action, must_exist=deletes)
    time_us = step.time_after(core)
    step.advance(core, time_us, activity=False)
    change = _apply(documents, tenant_id, action, core.version).SerializeToString()
    event = EventType.EVENT_TYPE_DOCUMENT_DELETED if deletes else EventType.EVENT_TYPE_DOCUMENT_PUT
    step.emit(state, event, time_us, body=change)
    return c.DocumentWritten(core.version, change)


def check_beside(step: Step, state: State, writes: Sequence[c.DocumentWrite]) -> None:
    """Checks the documents of an append. Changes nothing."""
    for place, write in enumerate(writes):
        if write.scope == USER and write.scope_id != state.user_id:
            # Its name would be in the log of another user's session.
            raise InvalidFields([Violation(f"documents[{place}].scope_id", "must be the session's user")])
        _check(step.documents, state.key[0], write, must_exist=False)


def write_beside(step: Step, state: State, writes: Sequence[c.DocumentWrite], seq: int) -> list[DocumentChange]:
    """Writes the documents of an append, once they are checked. `seq`: that of its first message."""
    own = DocumentScope.DOCUMENT_SCOPE_SESSION
    return [_apply(step.documents, state.key[0], write, seq if write.scope == own else 0) for write in writes]


def _check(documents: DocumentChanges, tenant_id: str, write: c.DocumentWrite, *, must_exist: bool) -> None:
    """Raises DocumentNotFound, DocumentVersionMismatch."""
    version = documents.version(document_key(tenant_id, write))
    if must_exist and not version:
        raise DocumentNotFound(DocumentScope.Name(write.scope), write.scope_id, write.key)
    if write.expected_version not in (None, version):
        name = (DocumentScope.Name(write.scope), write.scope_id, write.key)
        raise DocumentVersionMismatch(*name, version, write.expected_version or 0)


def _apply(documents: DocumentChanges, tenant_id: str, write: c.DocumentWrite, seq: int) -> DocumentChange:
    key = document_key(tenant_id, write)
    return documents.put(key, write.document, seq) if isinstance(write, c.PutDocument) else documents.delete(key, seq)


def ask(asked: Needs, command: c.Command, head: Head | None = None) -> None:
    """Asks for the documents that the command may write."""
    asked.documents += named(command)


def _first_outcome(events: Sequence[StoredEvent], content: bytes) -> c.DocumentWritten:
    return c.DocumentWritten(events[-1].seq, events[-1].body)


ACTIONS: Final[Mapping[type, Action]] = {
    c.PutDocument: Action(write_in_session, _first_outcome, ask),
    c.DeleteDocument: Action(write_in_session, _first_outcome, ask, removes=always),
}
"""For documents of sessions. Those of others are written by `write`."""
