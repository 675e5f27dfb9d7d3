"""The documents that a batch names, while it is decided."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sessiond.v1.document_pb2 import Document, DocumentChange
from sessiond_server.domain import encoding
from sessiond_server.domain.documents.rows import SESSION, DocumentKey, DocumentRecord, DocumentRow
from sessiond_server.domain.times import microseconds, set_timestamp

_JSON = encoding.tag(Document.JSON_FIELD_NUMBER)
_DATA = encoding.tag(Document.DATA_FIELD_NUMBER)


@dataclass(slots=True)
class DocumentChanges:
    """The documents as they were found, and the changes that the batch makes to them. Each command sees those of the
    commands before it."""

    found: Mapping[DocumentKey, DocumentRecord]
    now_us: int
    changed: dict[DocumentKey, DocumentRow] = field(default_factory=dict)
    """The rows to write."""

    def version(self, key: DocumentKey) -> int:
        """The document's version; 0 if there is no such document."""
        record = self._record(key)
        return record.version if record is not None and record.lives(self.now_us) else 0

    def put(self, key: DocumentKey, given: Document, seq: int) -> DocumentChange:
        """Creates or replaces the document. `seq`: that of the event, for a document of a session; else 0."""
        before = self._record(key)
        # The clock may go back; the times of a document do not.
        time_us = self.now_us if before is None else max(self.now_us, before.update_time_us)
        record = DocumentRecord(
            version=1 if before is None else before.version + 1,
            create_time_us=before.create_time_us if before is not None and before.lives(self.now_us) else time_us,
            update_time_us=time_us,
            expire_time_us=time_us + microseconds(given.ttl) if given.HasField("ttl") else None,
            deleted=False,
        )
        change = _named(key, record.version)
        set_timestamp(change.create_time, record.create_time_us)
        set_timestamp(change.update_time, time_us)
        if record.expire_time_us is not None:
            set_timestamp(change.expire_time, record.expire_time_us)
        change.seq = seq
        body, value = parts(given, change)
        self._change(DocumentRow(key, False, record, None, given.user_readable, dict(given.labels), body, value))
        return change

    def delete(self, key: DocumentKey, seq: int) -> DocumentChange:
        """Deletes the document, if there is one."""
        version = self.version(key)
        change = _named(key, version)
        change.deleted, change.seq = True, seq
        if version:
            self._end(key)
        return change

    def end_session(self, tenant_id: str, session_id: str) -> None:
        """The session was deleted: its documents are gone. The store ends those that the batch does not name."""
        for key in {*self.found, *self.changed}:
            if key[:3] == (tenant_id, SESSION, session_id) and self.version(key):
                self._end(key)

    def rows(self) -> list[DocumentRow]:
        """`changed`, in the order of locks."""
        return [self.changed[key] for key in sorted(self.changed)]

    def _end(self, key: DocumentKey) -> None:
        record = self._record(key)
        assert record is not None
        ended = replace(record, deleted=True, expire_time_us=None)
        self._change(DocumentRow(key, False, ended, self.now_us, False, {}, b"", b""))

    def _record(self, key: DocumentKey) -> DocumentRecord | None:
        row = self.changed.get(key)
        return self.found.get(key) if row is None else row.record

    def _change(self, row: DocumentRow) -> None:
        row.created = row.key not in self.found
        self.changed[row.key] = row


def parts(given: Document, change: DocumentChange) -> tuple[bytes, bytes]:
    """The stored Document in its two parts, body and value. Joined they are the answer to the put that made the
    change, the first and the repeated one alike."""
    body = Document(
        scope=change.scope,
        scope_id=change.scope_id,
        key=change.key,
        media_type=given.media_type,
        labels=given.labels,
        user_readable=given.user_readable,
        version=change.version,
        create_time=change.create_time,
        update_time=change.update_time,
        seq=change.seq,
    )
    if given.HasField("ttl"):
        body.ttl.CopyFrom(given.ttl)
        body.expire_time.CopyFrom(change.expire_time)
    value = encoding.field(_JSON, given.json.encode()) if given.HasField("json") else encoding.field(_DATA, given.data)
    # The same bytes for the same document, though it has a map.
    return body.SerializeToString(deterministic=True), value


def _named(key: DocumentKey, version: int) -> DocumentChange:
    _, scope, scope_id, name = key
    return DocumentChange(scope=scope, scope_id=scope_id, key=name, version=version)
