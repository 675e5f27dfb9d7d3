"""Checks of the requests of DocumentService, and of the documents of AppendMessages. See rpc/sessions/checks.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope, DocumentWrite
from sessiond.v1.document_service_pb2 import (
    BatchGetDocumentsRequest,
    DeleteDocumentRequest,
    GetDocumentRequest,
    ListDocumentsRequest,
    PutDocumentRequest,
)
from sessiond_server.domain import commands, text, validation
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.documents import validation as documents
from sessiond_server.domain.documents.rows import SESSION, USER
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import DocumentReadOnly
from sessiond_server.rpc import fields
from sessiond_server.store.documents import Name

NAMES: Final = 100
DOCUMENTS_PAGE: Final = (20, 100)
APPENDED: Final = 16
APPENDED_BYTES: Final = 512 * validation.KIB

_Named = Document | DocumentName | GetDocumentRequest | DeleteDocumentRequest
_OTHER_USER = "must be the user that the key is bound to"


@dataclass(frozen=True, slots=True)
class DocumentsList:
    """A requested page of documents."""

    owner: tuple[DocumentScope.ValueType, str]
    limit: int
    """Page size: 1 to 100."""


def get_document(request: GetDocumentRequest, scope: Scope) -> Name:
    found = FieldViolations()
    name = _name(found, "", request, scope)
    found.check()
    return name


def batch_get_documents(request: BatchGetDocumentsRequest, scope: Scope) -> Sequence[Name]:
    found = FieldViolations()
    if not 1 <= len(request.names) <= NAMES:
        found.add("names", f"must be 1 to {NAMES}")
        found.check()
    names: dict[Name, int] = {}
    for place, given in enumerate(request.names):
        if found.enough:
            break
        name = _name(found, f"names[{place}].", given, scope)
        first = names.setdefault(name, place)
        if first != place:
            found.add(f"names[{place}]", f"is names[{first}]")
    found.check()
    return list(names)


def put_document(request: PutDocumentRequest, scope: Scope) -> commands.PutDocument:
    """The action, whose document is the request's own object. Raises DocumentReadOnly."""
    found = FieldViolations()
    fields.request_id(found, request)
    document = request.document
    name = _name(found, "document.", document, scope)
    _writable(found, "document.", name, scope)
    documents.content(found, "document.", document)
    fields.not_negative(found, "expected_version", request.expected_version)
    found.check()
    expected = request.expected_version if request.HasField("expected_version") else None
    return commands.PutDocument(*name, document, expected)


def delete_document(request: DeleteDocumentRequest, scope: Scope) -> commands.DeleteDocument:
    """Raises DocumentReadOnly."""
    found = FieldViolations()
    fields.request_id(found, request)
    name = _name(found, "", request, scope)
    _writable(found, "", name, scope)
    fields.not_negative(found, "expected_version", request.expected_version)
    found.check()
    return commands.DeleteDocument(*name, request.expected_version or None)


def list_documents(request: ListDocumentsRequest, scope: Scope) -> DocumentsList:
    found = FieldViolations()
    scope_id = _scope_id(request.scope, request.scope_id, scope)
    documents.owner(found, "", request.scope, scope_id)
    found.add("key_prefix", text.line(request.key_prefix, 0, text.ID_BYTES))
    validation.labels(found, "labels", request.labels, documents.LABELS)
    limit = fields.page_size(found, request.page_size, DOCUMENTS_PAGE)
    found.check()
    return DocumentsList((request.scope, scope_id), limit)


def appended(
    found: FieldViolations, session_id: str, writes: Sequence[DocumentWrite], scope: Scope
) -> list[commands.DocumentWrite]:
    """Checks the documents of an append, and returns them as actions. Raises DocumentReadOnly."""
    if len(writes) > APPENDED:
        found.add("documents", f"must be at most {APPENDED}")
        return []
    if sum(write.ByteSize() for write in writes) > APPENDED_BYTES:
        found.add("documents", f"must be at most {APPENDED_BYTES} bytes together")
    names: dict[Name, int] = {}
    actions: list[commands.DocumentWrite] = []
    for place, write in enumerate(writes):
        kind = write.WhichOneof("write")
        path = f"documents[{place}]"
        if kind is None:
            found.add(path, "must be a put or a deletion")
            continue
        given = write.put if kind == "put" else write.delete
        here = f"{path}.{kind}."
        name = _name(found, here, given, scope, session_id)
        if name[0] == SESSION and name[1] != session_id:
            found.add(f"{here}scope_id", "must be empty, or the session of the request")
        _writable(found, here, name, scope)
        fields.not_negative(found, f"{path}.expected_version", write.expected_version)
        first = names.setdefault(name, place)
        if first != place:
            found.add(path, f"is the document of documents[{first}]")
        expected = write.expected_version if write.HasField("expected_version") else None
        if kind == "put":
            documents.content(found, here, write.put)
            actions.append(commands.PutDocument(*name, write.put, expected))
        else:
            actions.append(commands.DeleteDocument(*name, expected))
    return actions


def _name(found: FieldViolations, path: str, given: _Named, scope: Scope, session_id: str = "") -> Name:
    """The checked name of a document. An empty `scope_id` is that of the key's user, or of the append's session."""
    scope_id = _scope_id(given.scope, given.scope_id, scope, session_id)
    documents.name(found, path, given.scope, scope_id, given.key)
    return (given.scope, scope_id, given.key)


def _scope_id(document_scope: int, given: str, scope: Scope, session_id: str = "") -> str:
    if document_scope == USER:
        return given or scope.user_id
    return given or session_id if document_scope == SESSION else given


def _writable(found: FieldViolations, path: str, name: Name, scope: Scope) -> None:
    if not scope.user_id:
        return
    if name[0] == USER and name[1] != scope.user_id:
        found.add(f"{path}scope_id", _OTHER_USER)
    elif name[0] in documents.SHARED:
        found.check()
        raise DocumentReadOnly(DocumentScope.Name(name[0]))
