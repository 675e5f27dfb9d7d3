"""Erasures of users in Postgres, with the statements of erasures.sql."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, Final

import asyncpg

from sessiond.v1.erasure_pb2 import Erasure, ErasureState
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.erasures import ErasedSession, Removed, report
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import ErasureNotFound, UnderLegalHold
from sessiond_server.postgres import retention, usage
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.placement import at_home
from sessiond_server.postgres.statements import ERASURES
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.erasures import ErasureClaim, ErasuresPage

_TEXT = {name: statement.text for name, statement in ERASURES.items()}
_REMOVALS: Final = ("erase_documents_of_user", "erase_document_requests_of_user")


class PostgresErasures:
    """Implements `store.erasures.ErasureStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions, new_id: Callable[[], str]) -> None:
        self._transactions = transactions
        self._new_id = new_id

    async def begin_erasure(self, scope: Scope, user_id: str, request_id: str) -> Erasure:
        async def work(connection: asyncpg.Connection) -> Erasure:
            await at_home(connection, scope.tenant_id)
            key = (scope.tenant_id, user_id)
            await retention.lock(connection, scope.tenant_id)
            if await retention.is_held(connection, *key):
                row = await connection.fetchrow(_TEXT["get_erasure"], *key)
                if row is None or not _answers(row, request_id):
                    raise UnderLegalHold(user_id=user_id)
                return _erasure(user_id, *row)
            await connection.execute(_TEXT["begin_erasure"], *key, self._new_id(), request_id)
            return _erasure(user_id, *await connection.fetchrow(_TEXT["get_erasure"], *key))

        return await self._transactions.run(work)

    async def get_erasure(self, scope: Scope, user_id: str) -> Erasure:
        rows = await self._transactions.fetch(_TEXT["get_erasure"], scope.tenant_id, user_id)
        if not rows:
            raise ErasureNotFound(user_id)
        return _erasure(user_id, *rows[0])

    async def list_erasures(self, scope: Scope, *, after: str, limit: int) -> ErasuresPage:
        asked = (scope.tenant_id, scope.user_id, after, limit + 1)
        rows = await self._transactions.fetch(_TEXT["list_erasures"], *asked)
        page = [_erasure(*row) for row in rows[:limit]]
        return ErasuresPage(page, page[-1].user_id if len(rows) > limit else "")

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        async def work(connection: asyncpg.Connection) -> ErasureClaim | None:
            row = await connection.fetchrow(_TEXT["claim_erasure"], seconds)
            return None if row is None else ErasureClaim(*row)

        return await self._transactions.run(work)

    async def sessions_to_erase(self, claim: ErasureClaim, limit: int) -> Sequence[str]:
        key = (claim.tenant_id, claim.user_id)

        async def work(connection: asyncpg.Connection) -> Sequence[str]:
            await at_home(connection, claim.tenant_id)
            if await connection.fetchval(_TEXT["hold_erasure"], *key, claim.number) is None:
                return ()
            rows = await connection.fetch(_TEXT["sessions_to_erase"], *key, limit)
            noted = [astuple(ErasedSession.of(*row)) for row in rows]
            if noted:
                await connection.execute(_TEXT["note_sessions"], *key, *columns(noted, 5))
            return [session_id for session_id, *_ in noted]

        return await self._transactions.run(work)

    async def noted_deletions(self, claim: ErasureClaim, after: str, limit: int) -> Sequence[tuple[str, int]]:
        asked = (claim.tenant_id, claim.user_id, claim.number, after, limit)
        rows = await self._transactions.fetch(_TEXT["noted_deletions"], *asked)
        return [(session_id, version) for session_id, version in rows]

    async def erase_documents(self, claim: ErasureClaim, limit: int) -> int:
        key = (claim.tenant_id, claim.user_id)

        async def work(connection: asyncpg.Connection) -> int:
            await at_home(connection, claim.tenant_id)
            if not await _may_remove(connection, claim):
                return 0
            removed = 0
            for name in _REMOVALS:
                removed += _rows_of(await connection.execute(_TEXT[name], *key, limit))
            if removed:
                await connection.execute(_TEXT["count_erased"], *key, removed)
            return removed

        return await self._transactions.run(work)

    async def erase_names(self, claim: ErasureClaim, after: str, limit: int) -> str | None:
        key = (claim.tenant_id, claim.user_id)

        async def work(connection: asyncpg.Connection) -> str | None:
            await at_home(connection, claim.tenant_id)
            if not await _may_remove(connection, claim):
                return None
            rows = await connection.fetch(_TEXT["deleted_sessions_of_user"], *key, after, limit + 1)
            found = [session_id for (session_id,) in rows[:limit]]
            removed = _rows_of(await connection.execute(_TEXT["erase_names"], claim.tenant_id, found))
            if removed:
                await connection.execute(_TEXT["count_erased"], *key, removed)
            return found[-1] if len(rows) > limit else None

        return await self._transactions.run(work)

    async def erase_usage(self, claim: ErasureClaim) -> None:
        key = (claim.tenant_id, claim.user_id)

        async def work(connection: asyncpg.Connection) -> None:
            await at_home(connection, claim.tenant_id)
            if await _may_remove(connection, claim):
                await usage.erase(connection, *key)

        await self._transactions.run(work)

    async def advance_erasure(self, claim: ErasureClaim, seconds: float, *, sessions: int, done: bool) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            await at_home(connection, claim.tenant_id)
            own = (claim.tenant_id, claim.user_id, claim.number)
            row = await connection.fetchrow(_TEXT["advance_erasure"], *own, sessions, seconds, done)
            if row is not None and row[3] is not None:
                await _report(connection, claim, *row)
            return row is not None

        return await self._transactions.run(work)


async def _report(
    connection: asyncpg.Connection,
    claim: ErasureClaim,
    erasure_id: str,
    document_count: int,
    create_time_us: int,
    end_time_us: int,
) -> None:
    """Writes what the erasure removed, which has ended in this transaction."""
    key = (claim.tenant_id, claim.user_id)
    row = await connection.fetchrow(_TEXT["count_noted"], *key)
    sessions, events, messages, attachments, attachment_bytes, digest = row
    removed = Removed(sessions, events, messages, attachments, attachment_bytes, document_count)
    made = report(*key, erasure_id, create_time_us, end_time_us, removed, digest)
    await connection.execute(_TEXT["report_erasure"], *key, made, removed.sessions)
    await connection.execute(_TEXT["forget_noted"], *key)


async def _may_remove(connection: asyncpg.Connection, claim: ErasureClaim) -> bool:
    """Whether the claim holds, and no legal hold on the user, until the transaction ends."""
    await retention.lock(connection, claim.tenant_id)
    own = (claim.tenant_id, claim.user_id)
    if await connection.fetchval(_TEXT["hold_erasure"], *own, claim.number) is None:
        return False
    return not await retention.is_held(connection, *own)


def _answers(row: Sequence[Any], request_id: str) -> bool:
    """Whether the last erasure is the answer to the request: it is under way, or the request began it."""
    end_time, first = row[4], row[6]
    return end_time is None or (request_id != "" and request_id == first)


def _rows_of(status: str) -> int:
    """The row count in a command tag, such as `DELETE 3`."""
    return int(status.rpartition(" ")[2])


def _erasure(
    user_id: str,
    erasure_id: str,
    session_count: int,
    document_count: int,
    create_time_us: int,
    end_time_us: int | None,
    held: bool,
    request_id: str,
    report: str | None,
) -> Erasure:
    erasure = Erasure(
        erasure_id=erasure_id,
        user_id=user_id,
        state=ErasureState.ERASURE_STATE_DONE if end_time_us is not None else ErasureState.ERASURE_STATE_RUNNING,
        session_count=session_count,
        document_count=document_count,
        held=held,
    )
    set_timestamp(erasure.create_time, create_time_us)
    if end_time_us is not None:
        set_timestamp(erasure.end_time, end_time_us)
    if report is not None:
        erasure.report.json = report
    return erasure
