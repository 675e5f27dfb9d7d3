"""The memory store's documents: DocumentReads (see store/documents.py), and their part of the writes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from sessiond.v1.document_pb2 import DocumentScope
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.documents.rows import (
    SESSION,
    USER,
    DocumentKey,
    DocumentRequest,
    DocumentRow,
    Owner,
)
from sessiond_server.domain.rows import Key, Known, Needs, Writes
from sessiond_server.errors import SessionNotFound
from sessiond_server.memory.pages import fitting
from sessiond_server.store.documents import DocumentsPage, Name
from sessiond_server.store.session_reads import PAGE_BYTES


class MemoryDocuments:
    """The documents of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        has_session: Callable[[Scope, str], bool],
        clock: Callable[[], int],
        request_retention_us: int,
        tombstone_retention_us: int,
    ) -> None:
        self._has_session = has_session
        self._clock = clock
        self._request_retention_us = request_retention_us
        self._tombstone_retention_us = tombstone_retention_us
        self._rows: dict[DocumentKey, DocumentRow] = {}
        self._requests: dict[tuple[Owner, str], tuple[DocumentRequest, int]] = {}
        """(owner, request id) -> (record, time at which it was recorded)."""
        self.is_held: Callable[[DocumentKey], bool] = lambda key: False
        """Whether a legal hold keeps the document."""

    async def get_documents(self, scope: Scope, names: Sequence[Name]) -> Sequence[bytes | None]:
        found: list[bytes | None] = []
        together = 0
        for name in names:
            row = self._visible(scope, (scope.tenant_id, *name))
            data = None if row is None else row.body + row.value
            if data is not None:
                together += len(data)
                if together > PAGE_BYTES and any(found):
                    data = b""
            found.append(data)
        return found

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
        if owner[0] == SESSION and not self._has_session(scope, owner[1]):
            raise SessionNotFound(owner[1])
        whole = (scope.tenant_id, *owner)
        rows = [
            row
            for key in sorted(self._rows)
            if key[:3] == whole and key[3] > after and key[3].startswith(key_prefix)
            if (row := self._visible(scope, key)) is not None and labels.items() <= row.labels.items()
        ]
        items = fitting(row.body + row.value if values else row.body for row in rows[:limit])
        return DocumentsPage(items, rows[len(items) - 1].key[3] if len(items) < len(rows) else None)

    def look_up(self, needs: Needs, known: Known) -> None:
        """Adds the rows that the rules need to `known`."""
        for key in needs.documents:
            if (row := self._rows.get(key)) is not None:
                known.documents[key] = row.record
        for request in needs.document_requests:
            if (recorded := self._requests.get(request)) is not None:
                known.document_requests[request] = recorded[0]

    def write(self, writes: Writes, now_us: int) -> None:
        for gone in writes.deletions:
            self._end(now_us, [row for row in self._rows.values() if row.key[:3] == _owner(gone.key)])
        for row in writes.documents:
            self._rows[row.key] = row
        for request in writes.document_requests:
            self._requests[(request.owner, request.request_id)] = (request.record, now_us)

    def purge(self, limit: int) -> int:
        """Makes expired documents tombstones, and removes what is past its retention; at most `limit` of each."""
        now = self._clock()
        live = [row for row in self._rows.values() if row.delete_time_us is None]
        expired = [row for row in live if not row.record.lives(now) and not self.is_held(row.key)][:limit]
        self._end(now, expired)
        oldest = now - self._tombstone_retention_us
        tombstones = [k for k, row in self._rows.items() if (row.delete_time_us or now) < oldest][:limit]
        for key in tombstones:
            del self._rows[key]
        oldest = now - self._request_retention_us
        requests = [request for request, (_, recorded) in self._requests.items() if recorded < oldest][:limit]
        for request in requests:
            del self._requests[request]
        return len(expired) + len(tombstones) + len(requests)

    def erase(self, tenant_id: str, user_id: str, limit: int) -> int:
        """Removes at most `limit` documents of the user, and at most as many of their request records."""
        own = (tenant_id, USER, user_id)
        documents = [key for key in self._rows if key[:3] == own][:limit]
        requests = [request for request in self._requests if request[0] == own][:limit]
        for key in documents:
            del self._rows[key]
        for request in requests:
            del self._requests[request]
        return len(documents) + len(requests)

    def erase_names(self, tenant_id: str, session_ids: Iterable[str]) -> int:
        """Removes the tombstones of documents of these sessions."""
        owners = {(tenant_id, SESSION, each) for each in session_ids}
        ended = [key for key, row in self._rows.items() if key[:3] in owners and row.delete_time_us is not None]
        for key in ended:
            del self._rows[key]
        return len(ended)

    def _end(self, now_us: int, rows: Iterable[DocumentRow]) -> None:
        for row in rows:
            if row.delete_time_us is None:
                record = replace(row.record, deleted=True, expire_time_us=None)
                self._rows[row.key] = DocumentRow(row.key, False, record, now_us, False, {}, b"", b"")

    def _visible(self, scope: Scope, key: DocumentKey) -> DocumentRow | None:
        """The row of a document that exists for the caller."""
        row = self._rows.get(key)
        if row is None or not row.record.lives(self._clock()):
            return None
        if key[1] == SESSION:
            visible = self._has_session(scope, key[2])
        elif key[1] == USER:
            visible = scope.user_id in ("", key[2])
        else:
            visible = not scope.user_id or row.user_readable
        return row if visible else None


def _owner(key: Key) -> Owner:
    return (key[0], SESSION, key[1])
