"""The rows of documents, as plain values. domain/rows.py describes how a batch reads and writes rows.

Times are microseconds since 1970-01-01 UTC. An ended document (deleted, or expired and swept) keeps its row without
content for a retention: its tombstone. So the versions of a name never begin again while a writer may remember one.
"""

from dataclasses import dataclass
from typing import Final

from sessiond.v1.document_pb2 import DocumentScope

Owner = tuple[str, DocumentScope.ValueType, str]
"""(tenant_id, scope, scope_id): the first columns of the primary keys, so that all documents of a user or a
session are one range."""
DocumentKey = tuple[str, DocumentScope.ValueType, str, str]
"""(tenant_id, scope, scope_id, key). All transactions lock documents in this order, after sessions."""

# Constants, because each access through the enum costs most of a microsecond.
USER: Final = DocumentScope.DOCUMENT_SCOPE_USER
SESSION: Final = DocumentScope.DOCUMENT_SCOPE_SESSION


@dataclass(slots=True)
class DocumentRecord:
    """What the rules need of a stored document."""

    version: int
    create_time_us: int
    update_time_us: int
    expire_time_us: int | None
    deleted: bool
    """Whether it is a tombstone."""

    def lives(self, now_us: int) -> bool:
        """Whether the document exists. Its expiry is inclusive."""
        return not self.deleted and (self.expire_time_us is None or self.expire_time_us > now_us)


@dataclass(slots=True)
class DocumentRow:
    """A document after the batch, to insert or update."""

    key: DocumentKey
    created: bool
    """There was no row when the documents were locked: insert it, and start over if another transaction inserted
    first."""
    record: DocumentRecord
    delete_time_us: int | None
    user_readable: bool
    labels: dict[str, str]
    body: bytes
    """Serialised Document without its value; b"" for a tombstone."""
    value: bytes
    """Serialised Document with its value only, which joined to `body` is the Document; b"" for a tombstone."""


@dataclass(slots=True)
class DocumentRequest:
    """The idempotency record of a write of documents that belong to no session."""

    fingerprint: bytes
    change: bytes
    """Serialised DocumentChange: what the write did."""


@dataclass(slots=True)
class DocumentRequestRow:
    owner: Owner
    request_id: str
    record: DocumentRequest
