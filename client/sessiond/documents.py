"""Documents as Python values, and the writes that an append takes along."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sessiond.fields import duration
from sessiond.texts import naming_texts
from sessiond.v1.document_pb2 import Document, DocumentName, DocumentScope, DocumentWrite

if TYPE_CHECKING:
    Owner = tuple["DocumentScope.ValueType", str]


def owner(agent_id: str | None, user_id: str | None, session_id: str | None) -> "Owner":
    """Whose a document is: that of the only id that is not None; without one, the tenant's. Raises ValueError for more
    than one id."""
    given = [
        (scope, value)
        for scope, value in (
            (DocumentScope.DOCUMENT_SCOPE_AGENT, agent_id),
            (DocumentScope.DOCUMENT_SCOPE_USER, user_id),
            (DocumentScope.DOCUMENT_SCOPE_SESSION, session_id),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise ValueError("agent_id, user_id, session_id: at most one of them")
    return given[0] if given else (DocumentScope.DOCUMENT_SCOPE_TENANT, "")


@naming_texts
def document_name(
    key: str, *, agent_id: str | None = None, user_id: str | None = None, session_id: str | None = None
) -> DocumentName:
    """The name of a document, for `Client.batch_get_documents`. The ids are as in `Client.put_document`."""
    scope, scope_id = owner(agent_id, user_id, session_id)
    return DocumentName(scope=scope, scope_id=scope_id, key=key)


def to_document(
    key: str,
    value: Any,
    *,
    agent_id: str | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    json_text: bool = False,
    media_type: str = "",
    labels: Mapping[str, str] | None = None,
    ttl: timedelta | float | None = None,
    user_readable: bool = False,
) -> Document:
    """The document to put; see `Client.put_document`. Raises TypeError and ValueError for a value that JSON cannot
    have."""
    scope, scope_id = owner(agent_id, user_id, session_id)
    document = Document(
        scope=scope,
        scope_id=scope_id,
        key=key,
        media_type=media_type,
        labels=labels,
        ttl=None if ttl is None else duration(ttl),
        user_readable=user_readable,
    )
    if isinstance(value, bytes):
        document.data = value
    elif json_text:
        document.json = value
    else:
        document.json = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return document


def document_value(document: Document) -> Any:
    """The value of a document: bytes, or what its JSON text says; None if the document came without its value."""
    kind = document.WhichOneof("value")
    if kind is None:
        return None
    return document.data if kind == "data" else json.loads(document.json)


@naming_texts
def document_put(key: str, value: Any, *, expected_version: int | None = None, **fields: Any) -> DocumentWrite:
    """A document to put along with messages: one of `documents` of `Client.append_messages`.

    `fields` and `expected_version` are as in `Client.put_document`. An empty `session_id` is that of the append.
    """
    return DocumentWrite(put=to_document(key, value, **fields), expected_version=expected_version)


@naming_texts
def document_delete(
    key: str,
    *,
    agent_id: str | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    expected_version: int | None = None,
) -> DocumentWrite:
    """A document to delete along with messages, if there is one; see `document_put`."""
    name = document_name(key, agent_id=agent_id, user_id=user_id, session_id=session_id)
    return DocumentWrite(delete=name, expected_version=expected_version)
