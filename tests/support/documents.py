"""Documents as tests write and read them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sessiond.v1.document_pb2 import Document, DocumentChange, DocumentScope
from sessiond_server.domain import commands as c
from sessiond_server.store.commits import Commits
from sessiond_server.store.documents import DocumentReads, DocumentsPage
from tests.support.caller import PRINT, one

TENANT = DocumentScope.DOCUMENT_SCOPE_TENANT
AGENT = DocumentScope.DOCUMENT_SCOPE_AGENT
USER = DocumentScope.DOCUMENT_SCOPE_USER
SESSION = DocumentScope.DOCUMENT_SCOPE_SESSION

Owner = tuple[DocumentScope.ValueType, str]
ALL: Owner = (TENANT, "")
APP: Owner = (AGENT, "app")
ANN: Owner = (USER, "ann")
S: Owner = (SESSION, "s")

EVERYONE = c.Scope("tenant")
_numbers = itertools.count(1)


def put(owner: Owner, key: str, json: str = "1", expected: int | None = None, **fields: Any) -> c.PutDocument:
    """The action that a checked PutDocument becomes. `ttl`: seconds."""
    document = Document(scope=owner[0], scope_id=owner[1], key=key)
    if "data" not in fields:
        document.json = json
    if ttl := fields.pop("ttl", 0):
        document.ttl.FromSeconds(ttl)
    document.MergeFrom(Document(**fields))
    return c.PutDocument(*owner, key, document, expected)


def delete(owner: Owner, key: str, expected: int | None = None) -> c.DeleteDocument:
    return c.DeleteDocument(*owner, key, expected)


def alone(
    action: c.DocumentWrite, request_id: str = "", *, scope: c.Scope = EVERYONE, fingerprint: bytes = PRINT
) -> c.Command:
    """The command of PutDocument or DeleteDocument."""
    session_id = action.scope_id if action.scope == SESSION else ""
    return c.Command(
        scope, session_id, action, "test", request_id or f"!d{next(_numbers)}", fingerprint if request_id else b""
    )


def change_of(outcome: c.DocumentWritten) -> DocumentChange:
    return DocumentChange.FromString(outcome.change)


async def written(store: Commits, action: c.DocumentWrite, request_id: str = "", **more: Any) -> DocumentChange:
    """Writes one document; fails unless that was accepted."""
    return change_of(await one(store, alone(action, request_id, **more), c.DocumentWritten))


async def read(reads: DocumentReads, owner: Owner, key: str, scope: c.Scope = EVERYONE) -> Document | None:
    (found,) = await reads.get_documents(scope, [(*owner, key)])
    return None if found is None else Document.FromString(found)


async def value(reads: DocumentReads, owner: Owner, key: str, scope: c.Scope = EVERYONE) -> str | None:
    """Its JSON text; None if there is no such document."""
    found = await read(reads, owner, key, scope)
    return None if found is None else found.json


async def page(
    reads: DocumentReads,
    owner: Owner,
    *,
    scope: c.Scope = EVERYONE,
    key_prefix: str = "",
    labels: Mapping[str, str] | None = None,
    after: str = "",
    limit: int = 100,
    values: bool = True,
) -> DocumentsPage:
    return await reads.list_documents(
        scope, owner, key_prefix=key_prefix, labels=labels or {}, after=after, limit=limit, values=values
    )


def keys(documents: Sequence[bytes]) -> list[str]:
    return [Document.FromString(document).key for document in documents]
