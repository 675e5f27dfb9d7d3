"""Erasures of users in Postgres, with the statements of erasures.sql."""

from collections.abc import Callable, Sequence
from typing import Final

import asyncpg

from sessiond.v1.erasure_pb2 import Erasure, ErasureState
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import ErasureNotFound, StoreUnavailable
from sessiond_server.postgres import usage
from sessiond_server.postgres.attachments import IS_ELSEWHERE
from sessiond_server.postgres.statements import ERASURES, SEARCH
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.erasures import ErasureClaim

LOCK_HOMES = SEARCH["lock_homes"].text
_TEXT = {name: statement.text for name, statement in ERASURES.items()}
_REMOVALS: Final = ("erase_documents_of_user", "erase_document_requests_of_user")


class PostgresErasures:
    """Implements `store.erasures.ErasureStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions, new_id: Callable[[], str]) -> None:
        self._transactions = transactions
        self._new_id = new_id

    async def begin_erasure(self, scope: Scope, user_id: str, request_id: str) -> Erasure:
        async def work(connection: asyncpg.Connection) -> Erasure:
            await _at_home(connection, scope.tenant_id)
            key = (scope.tenant_id, user_id)
            await connection.execute(_TEXT["begin_erasure"], *key, self._new_id(), request_id)
            return _erasure(user_id, *await connection.fetchrow(_TEXT["get_erasure"], *key))

        return await self._transactions.run(work)

    async def get_erasure(self, scope: Scope, user_id: str) -> Erasure:
        rows = await self._transactions.fetch(_TEXT["get_erasure"], scope.tenant_id, user_id)
        if not rows:
            raise ErasureNotFound(user_id)
        return _erasure(user_id, *rows[0])

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        async def work(connection: asyncpg.Connection) -> ErasureClaim | None:
            row = await connection.fetchrow(_TEXT["claim_erasure"], seconds)
            return None if row is None else ErasureClaim(*row)

        return await self._transactions.run(work)

    async def sessions_to_erase(self, claim: ErasureClaim, limit: int) -> Sequence[str]:
        rows = await self._transactions.fetch(_TEXT["sessions_to_erase"], claim.tenant_id, claim.user_id, limit)
        return [session_id for (session_id,) in rows]

    async def erase_documents(self, claim: ErasureClaim, limit: int) -> int:
        key = (claim.tenant_id, claim.user_id)

        async def work(connection: asyncpg.Connection) -> int:
            await _at_home(connection, claim.tenant_id)
            if await connection.fetchval(_TEXT["hold_erasure"], *key, claim.number) is None:
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
            await _at_home(connection, claim.tenant_id)
            if await connection.fetchval(_TEXT["hold_erasure"], *key, claim.number) is None:
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
            await _at_home(connection, claim.tenant_id)
            if await connection.fetchval(_TEXT["hold_erasure"], *key, claim.number) is not None:
                await usage.erase(connection, *key)

        await self._transactions.run(work)

    async def advance_erasure(self, claim: ErasureClaim, seconds: float, *, sessions: int, done: bool) -> bool:
        async def work(connection: asyncpg.Connection) -> bool:
            await _at_home(connection, claim.tenant_id)
            own = (claim.tenant_id, claim.user_id, claim.number)
            return await connection.fetchval(_TEXT["advance_erasure"], *own, sessions, seconds, done) is not None

        return await self._transactions.run(work)


async def _at_home(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Keeps the tenant in this database until the transaction ends. Raises StoreUnavailable if it lives in another."""
    await connection.execute(LOCK_HOMES)
    if await connection.fetchval(IS_ELSEWHERE, tenant_id):
        raise StoreUnavailable(elsewhere=True)


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
) -> Erasure:
    erasure = Erasure(
        erasure_id=erasure_id,
        user_id=user_id,
        state=ErasureState.ERASURE_STATE_DONE if end_time_us is not None else ErasureState.ERASURE_STATE_RUNNING,
        session_count=session_count,
        document_count=document_count,
    )
    set_timestamp(erasure.create_time, create_time_us)
    if end_time_us is not None:
        set_timestamp(erasure.end_time, end_time_us)
    return erasure
