"""Ends expired sessions and leases, and removes what is past its retention, in small transactions."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import asyncpg

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import session_rows
from sessiond_server.domain.commands import (
    ACTOR,
    INTERNAL_REQUEST_PREFIX,
    Command,
    ExpireSession,
    Scope,
)
from sessiond_server.domain.rows import Head, Key, Policy, Writes
from sessiond_server.postgres import write
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.statements import DOCUMENTS, SWEEP
from sessiond_server.postgres.transactions import Transactions

LOCK_DUE = SWEEP["lock_due"].text
LOCK_OVERDUE_APPROVALS = SWEEP["lock_overdue_approvals"].text
POSTPONE_CHECKS = SWEEP["postpone_checks"].text
PURGE_REQUESTS = SWEEP["purge_requests"].text
PURGE_TOMBSTONES = SWEEP["purge_tombstones"].text
PURGE_DOCUMENTS = DOCUMENTS["purge_documents"].text
PURGE_DOCUMENT_TOMBSTONES = DOCUMENTS["purge_document_tombstones"].text
PURGE_DOCUMENT_REQUESTS = DOCUMENTS["purge_document_requests"].text

SWEEP_SECONDS: Final = 30.0
"""Longest time for one transaction, in seconds. It may be long, because no caller waits for it."""


async def expire_due(
    transactions: Transactions, limit: int, policy: Policy, new_id: Callable[[], str], closed: Sequence[str] = ()
) -> Writes:
    """See Store.expire_due. A session that was extended meanwhile gets a later check time. `closed`: tenants whose
    sessions are left out."""
    written = Writes()
    for due in (LOCK_DUE, LOCK_OVERDUE_APPROVALS):
        written.extend(await _expire_all(transactions, due, limit, policy, new_id, closed))
    return written


async def _expire_all(
    transactions: Transactions,
    due: str,
    limit: int,
    policy: Policy,
    new_id: Callable[[], str],
    closed: Sequence[str],
) -> Writes:
    """Ends what the statement `due` finds: at most `limit` sessions."""
    written = Writes()
    while len(written.heads) < limit:
        wanted = limit - len(written.heads)

        async def work(connection: asyncpg.Connection, wanted: int = wanted) -> tuple[int, Writes]:
            return await _expire(connection, due, wanted, policy, new_id, closed)

        looked_at, writes = await transactions.run(work, seconds=SWEEP_SECONDS)
        written.extend(writes)
        if looked_at < wanted:
            break
    return written


async def _expire(
    connection: asyncpg.Connection,
    due: str,
    limit: int,
    policy: Policy,
    new_id: Callable[[], str],
    closed: Sequence[str],
) -> tuple[int, Writes]:
    """(number of sessions checked, the writes that ended them, their live runs or their tool calls)."""
    rows = await connection.fetch(due, limit, closed)
    heads: dict[Key, Head] = {(row[0], row[1]): write.head(row, 2) for row in rows}
    commands = [
        Command(Scope(tenant_id), session_id, ExpireSession(), ACTOR, INTERNAL_REQUEST_PREFIX + new_id())
        for tenant_id, session_id in heads
    ]
    if not commands:
        return 0, Writes()
    writes = (await write.apply(connection, commands, heads, policy, new_id)).writes
    after = heads | {row.key: row.head for row in writes.heads}
    checks = [(*key, _next_check(head)) for key, head in after.items()]
    await connection.fetch(POSTPONE_CHECKS, *columns(checks, 3))
    return len(heads), writes


def _next_check(head: Head) -> int | None:
    return None if head.deleted else session_rows.next_check(Session.FromString(head.core), head.lease_expire_us)


async def purge(
    transactions: Transactions, limit: int, request_retention: timedelta, tombstone_retention: timedelta
) -> int:
    """See Store.purge."""
    removals: tuple[tuple[Any, ...], ...] = (
        (PURGE_REQUESTS, request_retention, limit),
        (PURGE_TOMBSTONES, tombstone_retention, limit),
        (PURGE_DOCUMENTS, limit),
        (PURGE_DOCUMENT_TOMBSTONES, tombstone_retention, limit),
        (PURGE_DOCUMENT_REQUESTS, request_retention, limit),
    )
    purged = 0
    for removal in removals:

        async def work(connection: asyncpg.Connection, removal: tuple[Any, ...] = removal) -> int:
            return _rows_of(await connection.execute(*removal))

        purged += await transactions.run(work, seconds=SWEEP_SECONDS)
    return purged


def _rows_of(status: str) -> int:
    """The row count in a command tag, such as `DELETE 3`."""
    return int(status.rpartition(" ")[2])
