"""The fence of a move: which database takes writes of the tenant, and that feeds go on in order where it goes."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from sessiond_server.postgres.feed_order import EPOCH
from sessiond_server.postgres.moving import copying
from sessiond_server.postgres.moving.record import MoveRefused
from sessiond_server.postgres.statements import MOVING, PLACEMENT

NEWEST = MOVING["newest"].text
NEXT = MOVING["next"].text
RAISE = MOVING["raise"].text
HOME = PLACEMENT["home"].text
LOCK = PLACEMENT["lock"].text
NEXT_VERSION = PLACEMENT["next_version"].text
WRITE_HOME = PLACEMENT["write_home"].text

LOCK_SECONDS: Final = 0.3
"""Longest wait for the lock that keeps all writers of a database out, since they queue behind it."""
LONG_LOCK_SECONDS: Final = 1.2
"""Longest wait after QUICK_ATTEMPTS: long enough for Postgres to cancel an autovacuum that has the lock."""
QUICK_ATTEMPTS: Final = 30
LOCK_ATTEMPTS: Final = 60
LOCK_PAUSE: Final = 0.3
"""Seconds between two attempts to get the lock."""
AHEAD: Final = EPOCH // 4
"""Transactions by which the target's ids are to be ahead of the source's before rows are copied, so that the source
does not overtake it meanwhile."""


@asynccontextmanager
async def without_writers(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction in which no other one writes for a tenant: those that had begun have ended. Raises
    asyncpg.LockNotAvailableError after LOCK_ATTEMPTS."""
    for attempt in range(LOCK_ATTEMPTS):
        transaction = connection.transaction(isolation="read_committed")
        await transaction.start()
        try:
            seconds = LOCK_SECONDS if attempt < QUICK_ATTEMPTS else LONG_LOCK_SECONDS
            await connection.execute(f"set local lock_timeout = {round(seconds * 1000)}")
            await connection.execute(LOCK)
        except asyncpg.LockNotAvailableError:
            await transaction.rollback()
            if attempt == LOCK_ATTEMPTS - 1:
                raise
            await asyncio.sleep(LOCK_PAUSE)
            continue
        except BaseException:
            await _undone(connection, transaction)
            raise
        break
    try:
        yield
    except BaseException:
        await _undone(connection, transaction)
        raise
    await transaction.commit()


async def _undone(connection: asyncpg.Connection, transaction: asyncpg.transaction.Transaction) -> None:
    if not connection.is_closed():
        await transaction.rollback()


async def home(connection: asyncpg.Connection, tenant_id: str) -> str | None:
    """Where the database says that the tenant lives; None: it says nothing."""
    found: str | None = await connection.fetchval(HOME, tenant_id)
    return found


async def write_home(
    connection: asyncpg.Connection, tenant_id: str, database_id: str, *, leaving: bool = False, key: bytes | None = None
) -> None:
    """Notes where the tenant lives. `key`: that of its tokens; None keeps the one that is there."""
    version = await connection.fetchval(NEXT_VERSION)
    await connection.execute(WRITE_HOME, tenant_id, database_id, version, leaving, key)


async def token_key(connection: asyncpg.Connection, tenant_id: str) -> bytes:
    """The key that signs the tenant's tokens in the database where it lives."""
    row = await connection.fetchrow(HOME, tenant_id)
    own: bytes = await connection.fetchval("select secret from service_keys where name = 'tokens'")
    return own if row is None or row["token_key"] is None else bytes(row["token_key"])


async def shut_target(
    target: asyncpg.Connection, tenant_id: str, source_id: str, key: bytes, tables: Sequence[str]
) -> None:
    """Makes the target refuse writes of the tenant, of which it must hold nothing. Raises MoveRefused."""
    holds = " or ".join(f"exists (select from {table} where tenant_id = $1)" for table in tables)
    async with without_writers(target):
        if await target.fetchval(f"select {holds}", tenant_id):
            raise MoveRefused(
                "the database to which the tenant is to move holds data of it already, which was written by its name "
                "(db_id): delete it first"
            )
        await write_home(target, tenant_id, source_id, key=key)


async def leave_source(source: asyncpg.Connection, tenant_id: str, target_id: str) -> uuid.UUID:
    """Makes the source refuse writes of the tenant from now on, and marks the end of what was written."""
    async with without_writers(source):
        await write_home(source, tenant_id, target_id)
        return await copying.set_mark(source, tenant_id)


async def put_feed_behind(target: asyncpg.Connection, place: int, ahead: int) -> None:
    """Makes all new events of the target come behind `place` in the order of feeds, with `ahead` places between."""
    if place + ahead < await target.fetchval(NEXT):
        return
    async with without_writers(target):
        missing = place + max(ahead, 1) - await target.fetchval(NEXT)
        epochs = -(-missing // EPOCH)
        if epochs > 0:
            shift = await target.fetchval("select shift from feed_order")
            await target.fetchval(RAISE, epochs * EPOCH, shift)
