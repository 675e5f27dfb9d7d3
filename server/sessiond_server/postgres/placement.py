"""Which database this is among several, and the homes of tenants: reads them, and gives a tenant a home.

A tenant gets a home in two steps, each a transaction of one database: first its new database notes it, then the default
one, which also stops writing for it in that moment. In between, nothing has changed for callers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.causes import translating
from sessiond_server.postgres.statements import ATTACHMENTS, PLACEMENT, SEARCH
from sessiond_server.store.homes import Homes

_log = logging.getLogger("sessiond.databases")

READ = PLACEMENT["read"].text
HOMES = PLACEMENT["homes"].text
LOCK_HOMES = SEARCH["lock_homes"].text
IS_ELSEWHERE = ATTACHMENTS["is_elsewhere"].text
HOME = PLACEMENT["home"].text
CLAIM = PLACEMENT["claim"].text
LOCK = PLACEMENT["lock"].text
HOLDS = PLACEMENT["holds"].text
HOLDS_ANY = PLACEMENT["holds_any"].text
NEXT_VERSION = PLACEMENT["next_version"].text
WRITE_HOME = PLACEMENT["write_home"].text

LOCK_SECONDS: Final = 1.0
"""Longest wait for the lock that keeps writers out, since they queue behind it."""

LOCK_ATTEMPTS: Final = 40
LOCK_PAUSE: Final = 0.25
"""Seconds between two attempts to get the lock."""

Fetch = Callable[[str], Awaitable[Sequence[Any]]]


async def at_home(connection: asyncpg.Connection, tenant_id: str) -> None:
    """Keeps the tenant in this database until the transaction ends. Raises StoreUnavailable if it lives in another."""
    await connection.execute(LOCK_HOMES)
    if await connection.fetchval(IS_ELSEWHERE, tenant_id):
        raise StoreUnavailable(elsewhere=True)


class HoldsData(Exception):
    """The database already holds sessions or documents, so it cannot be what it was meant to become."""


class Claimed(Exception):
    """The database has another id or belongs to another group, or the tenant has another home."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What a database says of itself."""

    database_id: str
    """Its id in the map of databases; empty: it has none yet."""
    group_id: str
    """Identity of the default database of its group; empty: it belongs to none yet."""
    homes_version: int


async def read(fetch: Fetch) -> Placement:
    return Placement(*(await fetch(READ))[0])


async def load(fetch: Fetch, homes: Homes) -> None:
    """Brings the map up to date."""
    rows = await fetch(HOMES)
    placed = [row[2:] for row in rows if row[2]]
    homes.use(
        rows[0][0],
        rows[0][1],
        {tenant_id: database_id for tenant_id, database_id, *_ in placed},
        frozenset(tenant_id for tenant_id, _, leaving, _ in placed if leaving),
        {tenant_id: key for tenant_id, _, _, key in placed if key is not None},
    )


async def claim(connection: asyncpg.Connection, database_id: str, group_id: str, *, empty: bool) -> None:
    """Makes the database the one with this id in the group; does nothing where it is.

    Raises Claimed if it is another one. With `empty`, raises HoldsData if it holds anything when it gets its id.
    """
    with translating():
        async with connection.transaction(isolation="read_committed"):
            found = Placement(*await connection.fetchrow(READ))
            if (found.database_id, found.group_id) == (database_id, group_id):
                return
            if empty and not found.database_id and await connection.fetchval(HOLDS_ANY):
                raise HoldsData
            if not await connection.fetchval(CLAIM, database_id, group_id):
                raise Claimed


async def give_home(default: asyncpg.Connection, home: asyncpg.Connection, tenant_id: str, database_id: str) -> None:
    """Makes `database_id`, to which `home` is connected, the tenant's home. Safe to repeat after any failure.

    Raises Claimed if another home was given to the tenant before, HoldsData if the default database holds anything of
    it, and StoreUnavailable, also if transactions keep the lock from it in all attempts. Then its home is as before.
    """
    for attempt in range(LOCK_ATTEMPTS):
        with translating():
            version = await default.fetchval(NEXT_VERSION)
            await home.execute(WRITE_HOME, tenant_id, database_id, version, None, None)
            try:
                await _give(default, tenant_id, database_id, version)
                break
            except asyncpg.LockNotAvailableError:
                if attempt == LOCK_ATTEMPTS - 1:
                    raise
        await asyncio.sleep(LOCK_PAUSE)
    _log.info("tenant %r lives in database %r from version %d on", tenant_id, database_id, version)


async def _give(default: asyncpg.Connection, tenant_id: str, database_id: str, version: int) -> None:
    async with default.transaction(isolation="read_committed"):
        await default.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}")
        await default.execute(LOCK)
        if await default.fetchval(HOME, tenant_id) not in (None, database_id):
            raise Claimed
        if await default.fetchval(HOLDS, tenant_id):
            raise HoldsData
        await default.execute(WRITE_HOME, tenant_id, database_id, version, None, None)
