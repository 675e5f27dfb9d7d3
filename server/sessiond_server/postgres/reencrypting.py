"""Encrypts what was written in the clear, and what an older data key has encrypted: tenant by tenant, table by table, a
few hundred rows in each transaction, while the service runs."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from sessiond_server.encryption.columns import is_tokens, metadata_tokens
from sessiond_server.encryption.envelope import Kind, is_sealed, sealed_by
from sessiond_server.encryption.keyring import Keyring, TenantKeys
from sessiond_server.encryption.rows import document_log, has_words
from sessiond_server.postgres.statements import ENCRYPTION
from sessiond_server.postgres.transactions import Transactions

NEXT_TENANT: Final = ENCRYPTION["next_tenant"].text
AT_ONCE: Final = 200
"""Rows of one transaction, whose locks writers may wait for."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with encrypted columns, and to what they are bound."""

    name: str
    key: Sequence[str]
    """Columns of its primary key, behind the tenant."""
    columns: Sequence[tuple[str, Kind]]
    log: Callable[[Any], str]
    item: str | None = None
    """The column of the place; None: 0."""


def _session(row: Any) -> str:
    log: str = row["session_id"]
    return log


TABLES: Final = (
    Table("session_heads", ("session_id",), (("core", Kind.HEAD_CORE), ("limits", Kind.HEAD_LIMITS)), _session),
    Table(
        "events", ("session_id", "seq"),
        (
            ("head", Kind.EVENT_HEAD), ("body", Kind.EVENT_BODY), ("content", Kind.EVENT_CONTENT),
            ("core", Kind.EVENT_CORE),
        ),
        _session, "seq",
    ),
    Table(
        "requests", ("session_id", "request_id"), (("fingerprint", Kind.FINGERPRINT), ("answer", Kind.ANSWER)),
        _session, "first_seq",
    ),
    Table("runs", ("session_id", "run_id"), (("body", Kind.RUN),), _session, "place"),
    Table("tool_calls", ("session_id", "tool_call_id"), (("body", Kind.TOOL_CALL),), _session, "seq"),
    Table("attachments", ("session_id", "attachment_id"), (("body", Kind.ATTACHMENT),), _session),
    Table("uploads", ("session_id", "attachment_id"), (("body", Kind.ATTACHMENT),), _session),
    Table(
        "documents", ("scope", "scope_id", "key"), (("body", Kind.DOCUMENT_BODY), ("value", Kind.DOCUMENT_VALUE)),
        lambda row: document_log(row["scope"], row["scope_id"], row["key"]),
    ),
    Table(
        "document_requests", ("scope", "scope_id", "request_id"),
        (("fingerprint", Kind.FINGERPRINT), ("change", Kind.DOCUMENT_CHANGE)),
        lambda row: document_log(row["scope"], row["scope_id"], "\x00" + row["request_id"]),
    ),
)  # fmt: skip
"""All tables with encrypted columns of bytes that outlive a day. What is staged of imports goes with the import, and
`sessions` has tokens."""


@dataclass(frozen=True, slots=True)
class Progress:
    tenant_id: str
    table: str
    looked_at: int
    encrypted: int


async def reencrypt(transactions: Transactions, keyring: Keyring, tenant_id: str = "") -> AsyncIterator[Progress]:
    """Yields how far it is after each transaction; of one tenant, or of all ("") that live here. May be interrupted and
    repeated: it leaves alone what is encrypted by the newest key. `transactions` open nothing that is encrypted."""
    async for tenant in _tenants(transactions, tenant_id):
        for table in TABLES:
            async for progress in _walk(transactions, keyring, tenant, table.name, table.key, _columns(table)):
                yield progress
        async for progress in _walk(transactions, keyring, tenant, "sessions", ("session_id",), _index):
            yield progress


async def _tenants(transactions: Transactions, only: str) -> AsyncIterator[str]:
    if only:
        yield only
        return
    last = ""
    while (found := (await transactions.fetch(NEXT_TENANT, last))[0]) and found[0] is not None:
        last = found[0]
        if not found[1]:
            yield last


Change = Callable[[TenantKeys, Any], dict[str, Any]]
"""The columns of a row that change, with their new values."""


async def _walk(
    transactions: Transactions, keyring: Keyring, tenant_id: str, table: str, key: Sequence[str], change: Change
) -> AsyncIterator[Progress]:
    last: Sequence[Any] = ()
    looked_at = encrypted = 0
    while True:
        keys = await keyring.sealing(tenant_id)

        async def work(connection: asyncpg.Connection, keys: TenantKeys = keys, last: Sequence[Any] = last) -> Any:
            rows = await connection.fetch(_select(table, key, bool(last)), tenant_id, *last)
            changed = 0
            for row in rows:
                if values := change(keys, row):
                    changed += 1
                    place = (row[name] for name in key)
                    await connection.execute(_update(table, key, list(values)), tenant_id, *place, *values.values())
            return rows, changed

        rows, changed = await transactions.run(work)
        looked_at, encrypted = looked_at + len(rows), encrypted + changed
        if rows:
            yield Progress(tenant_id, table, looked_at, encrypted)
        if len(rows) < AT_ONCE:
            return
        last = [rows[-1][name] for name in key]


def _columns(table: Table) -> Change:
    def change(keys: TenantKeys, row: Any) -> dict[str, Any]:
        assert keys.active is not None
        found = {}
        for name, kind in table.columns:
            data: bytes | None = row[name]
            if not data or (kind is Kind.EVENT_HEAD and not has_words(data)):
                continue
            log, item = table.log(row), row[table.item] if table.item else 0
            if is_sealed(data):
                by = sealed_by(data)
                if by == keys.active.id:
                    continue
                old = keys.by_id[by]
                opened, _, of_kind, of_log, _ = old.open(data)
                if (of_kind, of_log) != (kind, old.tag(log)):
                    continue  # what a hidden log has stays bound to its session; what was moved here stays unreadable
                data = opened
            found[name] = keys.active.seal(kind, log, item, data)
        return found

    return change


def _index(keys: TenantKeys, row: Any) -> dict[str, Any]:
    assert keys.first is not None
    found: dict[str, Any] = {}
    if row["name"]:
        found |= {"name": "", "name_folded": ""}
    if row["metadata"] is not None and not is_tokens(row["metadata"]):
        found["metadata"] = metadata_tokens(keys.first, json.dumps(json.loads(row["metadata"])), stored=True)
    return found


def _select(table: str, key: Sequence[str], behind: bool) -> str:
    names = ", ".join(key)
    numbers = ", ".join(f"${number}" for number in range(2, len(key) + 2))
    beyond = f" and ({names}) > ({numbers})" if behind else ""
    return f"select * from {table} where tenant_id = $1{beyond} order by {names} limit {AT_ONCE} for update"


def _update(table: str, key: Sequence[str], columns: Sequence[str]) -> str:
    places = " and ".join(f"{name} = ${number}" for number, name in enumerate(key, 2))
    values = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, len(key) + 2))
    return f"update {table} set {values} where tenant_id = $1 and {places}"
