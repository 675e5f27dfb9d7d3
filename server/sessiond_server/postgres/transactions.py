"""One transaction: begun, given to some work, and ended for certain, whatever becomes of the caller."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg

from sessiond_server import failpoints
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.connection import cut, reaching
from sessiond_server.postgres.statements import WRITE

T = TypeVar("T")

ATTEMPTS = 10
"""Times that a transaction is run when others get in its way. Each time one of the others has got through."""

ROLLBACK_SECONDS = 5.0
"""A connection that cannot roll back for this long is cut; the server then rolls back by itself."""

_BEGIN = WRITE["begin"].text


class Raced(Exception):
    """Another transaction created a row first: this one must roll back and run again. Never leaves this package."""


_AGAIN = (
    Raced,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    # A migration changed a table under a cached statement; asyncpg has dropped it from its cache.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)


class Transactions:
    """Runs work in transactions of a pool."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._endings: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """What `work` returns, once it is committed; nothing is kept when it raises.

        Runs the work again, so it must not keep anything itself, when it loses a race. Raises StoreUnavailable when the
        connection is lost (during the commit: the outcome is unknown), or when it has lost ATTEMPTS races.

        Cancelled before the commit is sent it rolls back. From then on the commit goes on in a task of its own and only
        the caller stops waiting: cancelling a commit that waits for a synchronous standby would make Postgres commit
        locally and show the rows, and the caller could not tell.
        """
        with reaching():
            for _ in range(ATTEMPTS):
                try:
                    return await self._once(work)
                except _AGAIN as lost:
                    last = lost
            raise StoreUnavailable from last

    async def fetch(self, statement: str, *parameters: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement that reads, outside of any transaction. Raises StoreUnavailable.

        Cancelled it returns at once, also when the server does not answer: the connection is given back in the
        background, or cut.
        """
        with reaching():
            connection = await self._pool.acquire()
            try:
                rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
            except BaseException:
                self._begin_ending(self._give_back(connection))
                raise
            await self._pool.release(connection)
            return rows

    async def close(self) -> None:
        """Returns when every transaction has ended, those that nobody waits for any more too."""
        while self._endings:
            await asyncio.wait(self._endings)

    async def _once(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        connection = await self._pool.acquire()
        try:
            await connection.execute(_BEGIN)
            result = await work(connection)
        except BaseException:
            await self._end(self._roll_back(connection))
            raise
        await self._end(self._commit(connection))
        return result

    async def _end(self, ending: Coroutine[object, object, None]) -> None:
        await asyncio.shield(self._begin_ending(ending))

    def _begin_ending(self, ending: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if not task.cancelled():
            task.exception()  # Raised to the caller; one that was cancelled does not want it.

    async def _commit(self, connection: asyncpg.Connection) -> None:
        try:
            _ = failpoints.armed and await failpoints.reach("before_commit")
            status = await connection.execute("commit")
            _ = failpoints.armed and await failpoints.reach("after_commit")
            if status != "COMMIT":
                raise asyncpg.InternalClientError(f"commit answered {status}")
        except BaseException:
            cut(connection)
            raise
        finally:
            await self._pool.release(connection)

    async def _give_back(self, connection: asyncpg.Connection) -> None:
        """Releases a connection whose statement was cancelled: asyncpg waits until the server has taken notice."""
        releasing = asyncio.ensure_future(self._pool.release(connection))
        await asyncio.wait((releasing,), timeout=ROLLBACK_SECONDS)
        if not releasing.done():
            cut(connection)
        await releasing

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        try:
            await connection.execute("rollback", timeout=ROLLBACK_SECONDS)
        except Exception:
            # Not this error but the one that made it roll back is the caller's; the server rolls back by itself.
            cut(connection)
        finally:
            await self._pool.release(connection)
