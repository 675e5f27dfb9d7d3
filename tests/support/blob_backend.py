"""A blob store, as tests/blobs has it."""

from dataclasses import dataclass
from uuid import uuid4

from sessiond_server.blobs.contract import BlobStore
from sessiond_server.domain.attachments.rows import Piece


@dataclass(frozen=True)
class Backend:
    """One storage, seen by two replicas."""

    blobs: BlobStore
    other: BlobStore

    def piece(self, tenant_id: str = "acme") -> Piece:
        return Piece(tenant_id, str(uuid4()))
