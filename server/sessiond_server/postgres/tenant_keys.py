"""The wrapped data keys of tenants in Postgres."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from sessiond_server.encryption.keyring import StoredKey, context, new_key
from sessiond_server.encryption.wrapping import KeyEncryption, Wrapped
from sessiond_server.postgres.statements import ENCRYPTION
from sessiond_server.postgres.transactions import Transactions

_TEXT = {name: statement.text for name, statement in ENCRYPTION.items()}


@dataclass(frozen=True, slots=True)
class TenantState:
    """The keys of a tenant, for operators."""

    tenant_id: str
    keys: int
    destroyed: bool
    keks: Sequence[str]
    """Ids of the key-encryption keys that have wrapped them."""
    newest_us: int
    """When the newest was made: microseconds since 1970."""


class PostgresKeys:
    """Implements `encryption.keyring.KeyStore`. Its connections open nothing that is encrypted."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def keys(self, tenant_id: str) -> Sequence[StoredKey]:
        return stored(tenant_id, await self._transactions.fetch(_TEXT["keys"], tenant_id))

    async def add_first_key(self, key: StoredKey) -> None:
        assert key.wrapped is not None
        parameters = (key.tenant_id, key.id, key.wrapped.by, key.wrapped.data)

        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(_TEXT["add_first_key"], *parameters)

        await self._transactions.run(work)

    async def changed(self, since: int) -> tuple[int, Collection[str]]:
        ((version, tenants),) = await self._transactions.fetch(_TEXT["changed"], since)
        return version, tenants


class PostgresKeyAdmin:
    """What `sessiond encryption` does to keys. Each method raises StoreUnavailable, and CannotUnwrap before it has
    changed anything."""

    def __init__(self, transactions: Transactions, keks: KeyEncryption) -> None:
        self._transactions = transactions
        self._keks = keks

    async def tenants(self, after: str, limit: int) -> Sequence[TenantState]:
        """The next tenants that have keys."""
        return [TenantState(*row) for row in await self._transactions.fetch(_TEXT["status"], after, limit)]

    async def add(self, tenant_id: str) -> int:
        """Adds a data key that may only decrypt yet, so that all servers know it before one encrypts with it. Returns
        its id."""
        key = await new_key(tenant_id, self._keks, active=False)
        assert key.wrapped is not None
        wrapped = key.wrapped

        async def work(connection: asyncpg.Connection) -> None:
            version = await connection.fetchval(_TEXT["next_version"])
            await connection.execute(_TEXT["add_key"], tenant_id, key.id, wrapped.by, wrapped.data, version)

        await self._transactions.run(work)
        return key.id

    async def activate(self, tenant_id: str, key_id: int) -> None:
        """Makes it the key that encrypts."""

        async def work(connection: asyncpg.Connection) -> None:
            version = await connection.fetchval(_TEXT["next_version"])
            await connection.execute(_TEXT["activate"], tenant_id, key_id, version)

        await self._transactions.run(work)

    async def rewrap(self) -> AsyncIterator[int]:
        """Wraps data keys by the current key-encryption key that another one has wrapped. Yields how many so far. Safe
        to interrupt and repeat. No server need know: the data keys stay the same."""
        current, last, done = await self._keks.current(), ("", 0), 0
        while rows := await self._transactions.fetch(_TEXT["wrapped_by_others"], current, *last):
            for tenant_id, key_id, kek_id, wrapped in rows:
                to = context(tenant_id, key_id)
                new = await self._keks.wrap(await self._keks.unwrap(Wrapped(kek_id, wrapped), to), to)
                await self._execute("rewrap", tenant_id, key_id, new.by, new.data, wrapped)
                done += 1
                last = (tenant_id, key_id)
            yield done

    async def shred(self, tenant_id: str) -> None:
        """Destroys the tenant's data keys."""

        async def work(connection: asyncpg.Connection) -> None:
            version = await connection.fetchval(_TEXT["next_version"])
            await connection.execute(_TEXT["destroy_keys"], tenant_id, version)
            await connection.execute(_TEXT["destroyed_marker"], tenant_id, version)

        await self._transactions.run(work)
        await self._execute("leave_unswept", tenant_id)

    async def _execute(self, name: str, *parameters: object) -> None:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(_TEXT[name], *parameters)

        await self._transactions.run(work)


async def one_of_each(fetch: Callable[..., Awaitable[Sequence[Any]]]) -> Sequence[StoredKey]:
    """A data key for each key-encryption key that has wrapped one; none: nothing is, or was, encrypted."""
    return [
        StoredKey(tenant_id, key_id, None if wrapped is None else Wrapped(kek_id, wrapped), active=False)
        for tenant_id, key_id, kek_id, wrapped in await fetch(_TEXT["one_of_each"])
    ]


def stored(tenant_id: str, rows: Sequence[Any]) -> list[StoredKey]:
    return [
        StoredKey(tenant_id, key_id, None if wrapped is None else Wrapped(kek_id, wrapped), active)
        for key_id, kek_id, wrapped, active in rows
    ]
