"""The contract for reads of documents. Every implementation passes tests/conformance.

Commands write documents, through Commits.apply. Each read goes to the primary and uses the store's clock: an expired
document does not exist, swept or not. Errors, times, bytes and cancelling as in contract.py.

A document in scope is one that the caller may see: any, if the Scope has no user. Else one of that user or of a session
of that user, or one of the tenant or an agent with `user_readable`. A document of a session exists only while the
session does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.document_pb2 import DocumentScope
from sessiond_server.domain.commands import Scope

Name = tuple[DocumentScope.ValueType, str, str]
"""(scope, scope_id, key)."""


@dataclass(frozen=True, slots=True)
class DocumentsPage:
    documents: Sequence[bytes]
    """Serialised Documents, ascending by key."""
    next_key: str | None
    """Key of the last document, if there are more; else None."""


class DocumentReads(Protocol):
    """Reads of documents."""

    async def get_documents(self, scope: Scope, names: Sequence[Name]) -> Sequence[bytes | None]:
        """One entry for each name, in order: the serialised Document; None if there is none in scope; b"" for one that
        would exceed PAGE_BYTES, which the first never does. All are from one snapshot."""
        ...

    async def list_documents(
        self,
        scope: Scope,
        owner: tuple[DocumentScope.ValueType, str],
        *,
        key_prefix: str,
        labels: Mapping[str, str],
        after: str,
        limit: int,
        values: bool,
    ) -> DocumentsPage:
        """At most `limit` (1 or more) documents of the owner (scope, scope_id) with key > `after` (code
        points) that begin with `key_prefix` and have all `labels`, ascending by key, within PAGE_BYTES. Without
        `values`, documents have none. Raises SessionNotFound."""
        ...
