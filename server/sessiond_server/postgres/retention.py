"""Legal holds and retention in Postgres, with the statements of retention.sql, and their part of the write path."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg

from sessiond.v1.retention_pb2 import LegalHold, RetentionPolicy
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Known, Needs
from sessiond_server.domain.times import microseconds, set_duration, set_timestamp
from sessiond_server.errors import HoldNotFound, RequestIdReused, SessionNotFound
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.placement import at_home
from sessiond_server.postgres.statements import RETENTION
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.retention import EndedPage, HoldsPage, NewHold, Retained

_NEWEST: Final = (253_402_300_799_000_000, "")
"""A key behind which all holds are: the last second of the year 9999."""
_OLDEST: Final = (0, "")
"""A key that is before all sessions."""
_TEXT: Final = {name: statement.text for name, statement in RETENTION.items()}


async def look_up(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds what is held to `known`, and keeps holds from being placed until the transaction ends."""
    for (place,) in await connection.fetch(_TEXT["find_held"], *columns(needs.holds, 3)):
        known.held.add(needs.holds[place - 1])


async def look_up_messages(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds which of the messages to redact are shown by sessions that are held, once the messages are known."""
    shared = set(needs.shared)
    names = [name for name in needs.messages if name[0] in shared and name in known.messages]
    if not names:
        return
    asked = ((key[0], known.messages[key, m].log_id or key[1], known.messages[key, m].seq) for key, m in names)
    for (place,) in await connection.fetch(_TEXT["find_held_messages"], *columns(asked, 3)):
        known.held_messages.add(names[place - 1])


async def lock(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Keeps holds of the tenant from being placed until the transaction ends."""
    await connection.execute(_TEXT["lock_holds_shared"], tenant_id)


async def is_held(connection: asyncpg.Connection, tenant_id: str, user_id: str) -> bool:
    """Whether a hold keeps the user. To be called behind `lock`."""
    held: bool = await connection.fetchval(_TEXT["is_held"], tenant_id, "", user_id)
    return held


class PostgresRetention:
    """Implements `store.retention.RetentionStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions, new_id: Callable[[], str]) -> None:
        self._transactions = transactions
        self._new_id = new_id

    async def place_hold(self, scope: Scope, hold: NewHold) -> LegalHold:
        async def work(connection: asyncpg.Connection) -> LegalHold:
            await at_home(connection, scope.tenant_id)
            await connection.execute(_TEXT["lock_holds"], scope.tenant_id)
            first = await connection.fetchrow(_TEXT["find_hold_of_request"], scope.tenant_id, hold.request_id)
            if first is not None:
                placed = _hold(first)
                if (placed.session_id, placed.user_id, placed.reason) != (hold.session_id, hold.user_id, hold.reason):
                    raise RequestIdReused(hold.request_id)
                return placed
            named = (hold.session_id, hold.user_id, hold.request_id, hold.reason, hold.actor)
            row = await connection.fetchrow(_TEXT["place_hold"], scope.tenant_id, self._new_id(), *named)
            if row is None:
                raise SessionNotFound(hold.session_id)
            return _hold(row)

        return await self._transactions.run(work)

    async def lift_hold(self, scope: Scope, hold_id: str, actor: str, reason: str) -> LegalHold:
        async def work(connection: asyncpg.Connection) -> LegalHold:
            await at_home(connection, scope.tenant_id)
            row = await connection.fetchrow(_TEXT["lift_hold"], scope.tenant_id, hold_id, actor, reason)
            if row is None:
                raise HoldNotFound(hold_id)
            return _hold(row)

        return await self._transactions.run(work)

    async def list_holds(
        self, scope: Scope, *, session_id: str, user_id: str, lifted: bool, after: tuple[int, str] | None, limit: int
    ) -> HoldsPage:
        asked = (scope.tenant_id, session_id, user_id, lifted, *(after or _NEWEST), limit + 1)
        rows = await self._transactions.fetch(_TEXT["list_holds"], *asked)
        page = [_hold(row) for row in rows[:limit]]
        last = page[-1] if len(rows) > limit else None
        return HoldsPage(page, None if last is None else (microseconds(last.create_time), last.hold_id))

    async def set_policy(self, scope: Scope, ended_retention_us: int | None, actor: str) -> None:
        async def work(connection: asyncpg.Connection) -> None:
            await at_home(connection, scope.tenant_id)
            await connection.execute(_TEXT["set_policy"], scope.tenant_id, ended_retention_us, actor)

        await self._transactions.run(work)

    async def get_policy(self, scope: Scope) -> RetentionPolicy:
        policy = RetentionPolicy()
        for ended_retention_us, actor, update_time_us in await self._transactions.fetch(
            _TEXT["get_policy"], scope.tenant_id
        ):
            policy.actor = actor
            if ended_retention_us is not None:
                set_duration(policy.ended_retention, ended_retention_us)
            set_timestamp(policy.update_time, update_time_us)
        return policy

    async def retained_tenants(self, default_us: int, *, after: str, limit: int) -> Sequence[Retained]:
        rows = await self._transactions.fetch(_TEXT["retained_tenants"], default_us, after, limit)
        return [Retained(*row) for row in rows]

    async def ended_sessions(self, kept: Retained, *, after: tuple[int, str] | None, limit: int) -> EndedPage:
        asked = (kept.tenant_id, kept.kept_us, *(after or _OLDEST), limit)
        rows = await self._transactions.fetch(_TEXT["ended_sessions"], *asked)
        due = [(session_id, version) for session_id, _, version, is_due in rows if is_due]
        return EndedPage(due, (rows[-1][1], rows[-1][0]) if len(rows) == limit else None)


def _hold(row: Sequence[Any]) -> LegalHold:
    hold_id, session_id, user_id, reason, place_actor, create_time_us, lift_time_us, lift_actor, lift_reason = row
    hold = LegalHold(
        hold_id=hold_id,
        session_id=session_id,
        user_id=user_id,
        reason=reason,
        place_actor=place_actor,
        lift_actor=lift_actor,
        lift_reason=lift_reason,
    )
    set_timestamp(hold.create_time, create_time_us)
    if lift_time_us is not None:
        set_timestamp(hold.lift_time, lift_time_us)
    return hold
