"""Documents in Postgres: their part of the write path (see write.py), and their reads."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import asyncpg

from sessiond.v1.document_pb2 import DocumentScope
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.documents.rows import (
    SESSION,
    USER,
    DocumentKey,
    DocumentRecord,
    DocumentRequest,
    DocumentRow,
    Owner,
)
from sessiond_server.domain.rows import Known, Needs, Writes
from sessiond_server.errors import SessionNotFound
from sessiond_server.postgres.columns import Column, columns
from sessiond_server.postgres.read import GET_CORE
from sessiond_server.postgres.statements import DOCUMENTS, LIST, numbered
from sessiond_server.postgres.transactions import Raced, Transactions
from sessiond_server.store.documents import DocumentsPage, Name
from sessiond_server.store.session_reads import PAGE_BYTES

LOOK_UP_ALL = DOCUMENTS["look_up_all"].text
LOCK_FREE_DOCUMENTS = DOCUMENTS["lock_free_documents"].text
PRESENT_DOCUMENTS = DOCUMENTS["present_documents"].text
FIND_DOCUMENT_REQUESTS = DOCUMENTS["find_document_requests"].text
WRITE_DOCUMENTS = DOCUMENTS["write_documents"].text
WRITE_LOG_AND_DOCUMENTS = DOCUMENTS["write_log_and_documents"].text
GET_DOCUMENTS = DOCUMENTS["get_documents"].text

DOCUMENT: Final = 3
CONTENT: Final = 4
"""Kinds of the rows of LOOK_UP_ALL that LOOK_UP does not have: documents, and contents of sessions."""


def keys(needs: Needs) -> list[DocumentKey]:
    """The documents to lock, in the order that all writers use."""
    return sorted(set(needs.documents))


def record(row: Sequence[Any]) -> DocumentRecord:
    """The record in a row of LOOK_UP_ALL."""
    return DocumentRecord(row[4], row[6], row[7], row[8], row[9])


async def look_up_requests(connection: asyncpg.Connection, asked: Sequence[tuple[Owner, str]], known: Known) -> None:
    """Looks up the idempotency records of writes without a session, once their documents are locked."""
    requests = columns(((*owner, request_id) for owner, request_id in asked), 4)
    for place, fingerprint, change in await connection.fetch(FIND_DOCUMENT_REQUESTS, *requests):
        known.document_requests[asked[place - 1]] = DocumentRequest(fingerprint, change)


async def lock_free(connection: asyncpg.Connection, suspects: Iterable[DocumentKey]) -> set[DocumentKey]:
    """Locks those of the documents that no other transaction has locked. Returns the others."""
    wanted = sorted(suspects)
    free = await connection.fetch(LOCK_FREE_DOCUMENTS, *columns(wanted, 4))
    present = await connection.fetch(PRESENT_DOCUMENTS, *columns(wanted, 4))
    return {wanted[row[0] - 1] for row in present} - {wanted[row[0] - 1] for row in free}


def row_columns(writes: Writes, now_us: int) -> list[Column | int]:
    """The parameters of the part document_changes."""
    requests = (
        (*row.owner, row.request_id, row.record.fingerprint, row.record.change) for row in writes.document_requests
    )
    return [*columns(map(_columns, writes.documents), 14), now_us, *columns(requests, 6)]


async def write(connection: asyncpg.Connection, writes: Writes, now_us: int) -> None:
    """Writes documents and their request records. Raises Raced."""
    check(writes, await connection.fetchval(WRITE_DOCUMENTS, *row_columns(writes, now_us)))


def check(writes: Writes, written: int) -> None:
    """Raises Raced if another transaction has created a document, or recorded a request, since the documents were
    locked."""
    if written != sum(row.created for row in writes.documents) + len(writes.document_requests):
        raise Raced


def _columns(row: DocumentRow) -> tuple[Any, ...]:
    record = row.record
    return (
        row.created,
        *row.key,
        record.version,
        record.create_time_us,
        record.update_time_us,
        record.expire_time_us,
        row.delete_time_us,
        row.user_readable,
        json.dumps(row.labels, ensure_ascii=False),
        row.body,
        row.value,
    )


class PostgresDocuments:
    """Implements `store.documents.DocumentReads`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def get_documents(self, scope: Scope, names: Sequence[Name]) -> Sequence[bytes | None]:
        found: list[bytes | None] = [None] * len(names)
        parameters = (scope.tenant_id, scope.user_id, *columns(names, 3), PAGE_BYTES)
        for place, document in await self._transactions.fetch(GET_DOCUMENTS, *parameters):
            found[place - 1] = b"".join(document)
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
        if owner[0] == SESSION:
            if not await self._transactions.fetch(GET_CORE, scope.tenant_id, owner[1], scope.user_id):
                raise SessionNotFound(owner[1])
        elif owner[0] == USER and scope.user_id not in ("", owner[1]):
            # As much work as for a user without documents.
            owner = (owner[0], "")
        text, parameters = page(scope, owner, key_prefix, labels, after, limit, values)
        rows = await self._transactions.fetch(text, *parameters)
        more = bool(rows) and rows[0][2] > len(rows)
        return DocumentsPage([b"".join(row[1]) for row in rows], rows[-1][0] if more else None)


def page(
    scope: Scope,
    owner: tuple[DocumentScope.ValueType, str],
    key_prefix: str,
    labels: Mapping[str, str],
    after: str,
    limit: int,
    values: bool,
) -> tuple[str, tuple[Any, ...]]:
    """A query for rows of key, document, found, and its parameters; see DocumentReads.list_documents. `found` exceeds
    the number of rows if there are more documents."""
    given: dict[str, Any] = {
        "tenant_id": scope.tenant_id,
        "scope": owner[0],
        "scope_id": owner[1],
        "after": after,
        "key_prefix": key_prefix,
        "limit": limit,
        "page_bytes": PAGE_BYTES,
        "values": values,
    }
    conditions = ["documents_of_owner"]
    if before := behind(key_prefix):
        conditions.append("documents_before")
        given["before"] = before
    if scope.user_id and owner[0] not in (USER, SESSION):
        conditions.append("documents_user_readable")
    if labels:
        conditions.append("documents_labels")
        given["labels"] = json.dumps(dict(labels), ensure_ascii=False)
    joined = "\n    and ".join(LIST[name].text for name in conditions)
    text, names = numbered(LIST["page_of_documents"].text.replace("{conditions}", joined))
    return text, tuple(given[name] for name in names)


def behind(prefix: str) -> str:
    """The lowest text that is above all texts that begin with `prefix`, by code points; "" if there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last == 0xD800:
            last = 0xE000  # surrogates are no characters
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(last)
        prefix = prefix[:-1]
    return ""
