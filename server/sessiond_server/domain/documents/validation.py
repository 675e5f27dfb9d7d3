"""Validates documents by the rules that their proto comments state. See domain/validation.py."""

from typing import Final

from sessiond.v1.document_pb2 import Document, DocumentScope
from sessiond_server.domain import text, validation
from sessiond_server.domain.documents.rows import SESSION, USER
from sessiond_server.domain.sessions.validation import life_time
from sessiond_server.domain.validation import FieldViolations

VALUE_BYTES: Final = 256 * validation.KIB
LABELS: Final = 16
TENANT: Final = DocumentScope.DOCUMENT_SCOPE_TENANT
SHARED: Final = (TENANT, DocumentScope.DOCUMENT_SCOPE_AGENT)
"""Scopes that all users share."""


def name(found: FieldViolations, path: str, scope: int, scope_id: str, key: str) -> None:
    """Checks scope, id and key. `path` is what stands before their names, such as `document.`."""
    owner(found, path, scope, scope_id)
    found.add(f"{path}key", text.identifier(key))


def owner(found: FieldViolations, path: str, scope: int, scope_id: str) -> None:
    if scope not in (TENANT, DocumentScope.DOCUMENT_SCOPE_AGENT, USER, SESSION):
        found.add(f"{path}scope", "must be a known scope")
    elif scope == TENANT:
        if scope_id:
            found.add(f"{path}scope_id", "must be empty for DOCUMENT_SCOPE_TENANT")
    else:
        found.add(f"{path}scope_id", text.identifier(scope_id))


def content(found: FieldViolations, path: str, document: Document) -> None:
    """Checks everything of a document to put but its name."""
    kind = document.WhichOneof("value")
    if kind is None:
        found.add(f"{path}value", "must be set")
    elif kind == "json":
        size = len(document.json) if document.json.isascii() else len(document.json.encode())
        if size > VALUE_BYTES:
            found.add(f"{path}json", f"must be at most {VALUE_BYTES} bytes")
        elif "\0" in document.json:
            found.add(f"{path}json", text.NUL_RULE)
    elif len(document.data) > VALUE_BYTES:
        found.add(f"{path}data", f"must be at most {VALUE_BYTES} bytes")
    found.add(f"{path}media_type", text.line(document.media_type, 0, 255))
    validation.labels(found, f"{path}labels", document.labels, LABELS)
    if document.HasField("ttl"):
        life_time(found, f"{path}ttl", document.ttl)
    if document.user_readable and document.scope in (USER, SESSION):
        found.add(f"{path}user_readable", "must be false for this scope")
