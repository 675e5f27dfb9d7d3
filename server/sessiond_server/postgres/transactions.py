"""One transaction: begun, given to some work, and ended for certain, whatever becomes of the caller."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cache
from typing import Any, Final, TypeVar

import asyncpg

from sessiond_server import failpoints
from sessiond_server.errors import SessionLocked, StoreUnavailable
from sessiond_server.postgres.blockers import Blockers
from sessiond_server.postgres.causes import Causes
from sessiond_server.postgres.connection import READ_SECONDS, Connections, cut
from sessiond_server.postgres.sqlstates import Meaning, meaning
from sessiond_server.postgres.statements import WRITE

T = TypeVar("T")

ATTEMPTS = 10
"""Times that a transaction is run when others get in its way. Each time one of the others has got through."""

TRANSACTION_SECONDS: Final = 6.0
"""From BEGIN to the answer to COMMIT. A connection that takes longer is cut: it is silent, and the server rolls back or
has committed. Longer than LOCK_SECONDS and IDLE_SECONDS, so that a server that does answer ends things itself."""

LEAST_COMMIT_SECONDS: Final = 2.0
"""That COMMIT is given, however long the rest took."""

LOCK_SECONDS: Final = 2.0
"""For each lock that another transaction holds: theirs take milliseconds."""

IDLE_SECONDS: Final = 5.0
"""After which the server ends a transaction whose client says nothing: one that was paused must not hold its locks."""

LOOK_SECONDS: Final = 1.0
"""A transaction that takes longer asks who holds what it waits for, while it still waits."""

ROLLBACK_SECONDS: Final = 2.0
"""A connection that cannot roll back for this long is cut; the server then rolls back by itself."""

CLOSE_SECONDS: Final = 2.0
"""How long closing waits for what is under way."""

FAREWELL_SECONDS: Final = 1.0
"""How long it waits for the server to take leave of idle connections."""


class Raced(Exception):
    """Another transaction created a row first: this one must roll back and run again. Never leaves this package."""


async def begin(connection: Any, lock_seconds: float) -> None:
    """Begins a transaction that writes. Raises ReadOnlySQLTransactionError at a standby, too."""
    try:
        await connection.execute(_begin(lock_seconds))
    except asyncpg.FeatureNotSupportedError as error:
        # What a standby says to READ WRITE.
        raise asyncpg.ReadOnlySQLTransactionError(str(error)) from error


async def _fetch_in_one(
    connection: asyncpg.Connection, statement: str, parameters: Sequence[Any]
) -> Sequence[asyncpg.Record]:
    """In a transaction, which a pooler does not spread over several connections. Cuts the connection when it fails."""
    try:
        await connection.execute("begin isolation level read committed read only")
        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
        await connection.execute("commit")
    except BaseException:
        cut(connection)
        raise
    return rows


@cache
def _begin(lock_seconds: float) -> str:
    """BEGIN and the limits of this transaction alone, in one trip to the server.

    Local, for behind a pooler the session is shared. No statement_timeout, also where the role has one: it would reach
    a commit that waits for its synchronous standby, and make it show what is not safe.
    """
    return (
        f"{WRITE['begin'].text}; set local lock_timeout = {round(lock_seconds * 1000)};"
        f" set local idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)};"
        " set local statement_timeout = 0"
    )


class Transactions:
    """Runs work in transactions of a pool."""

    def __init__(self, connections: Connections, causes: Causes | None = None) -> None:
        """`causes`: those of another one, to share; None: its own."""
        self.causes = causes or Causes()
        self.blockers = Blockers(self.fetch)
        self._connections = connections
        self._endings: set[asyncio.Task[None]] = set()
        self._rollbacks: set[asyncio.Future[Any]] = set()
        """The statements of those that roll back."""

    async def run(
        self,
        work: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        session_id: str | None = None,
        seconds: float | None = None,
    ) -> T:
        """What `work` returns, once it is committed; nothing is kept when it raises.

        Runs the work again, so it must not keep anything itself, when it loses a race. Raises StoreUnavailable when the
        connection is lost, or silent for `seconds`, TRANSACTION_SECONDS unless given (during the commit: the outcome is
        unknown), when it has lost ATTEMPTS races, and when others hold its locks for LOCK_SECONDS: SessionLocked where
        `session_id` is given.

        Cancelled before the commit is sent it rolls back. From then on the commit goes on in a task of its own and only
        the caller stops waiting: cancelling a commit that waits for a synchronous standby would make Postgres commit
        locally and show the rows, and the caller could not tell.
        """
        with self.causes.told():
            try:
                return await self.attempt(work, seconds=seconds)
            except asyncpg.PostgresError as error:
                if session_id is not None and meaning(error) is Meaning.LOCKED:
                    raise SessionLocked(session_id) from error
                raise

    async def attempt(
        self,
        work: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        lock_seconds: float | None = None,
        seconds: float | None = None,
    ) -> T:
        """As `run`, with errors as they are but for lost races."""
        for _ in range(ATTEMPTS):
            try:
                return await self._once(work, lock_seconds or LOCK_SECONDS, seconds or TRANSACTION_SECONDS)
            except Raced as lost:
                last: Exception = lost
            except Exception as lost:
                if meaning(lost) is not Meaning.RACED:
                    raise
                last = lost
        raise StoreUnavailable from last

    async def fetch(self, statement: str, *parameters: Any) -> Sequence[asyncpg.Record]:
        """The rows of one statement that reads, outside of any transaction. Raises StoreUnavailable, also when there is
        no answer for READ_SECONDS.

        Cancelled it returns at once, also when the server does not answer: the connection is given back in the
        background, or cut.
        """
        with self.causes.told():
            connection = await self._connections.acquire()
            try:
                with self._connections.limited(connection, READ_SECONDS):
                    if self._connections.keeps_statements:
                        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
                    else:
                        rows = await _fetch_in_one(connection, statement, parameters)
            except BaseException:
                self._begin_ending(self._give_back(connection))
                raise
            await self._connections.release(connection)
            return rows

    async def use(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, seconds: float = 60.0) -> T:
        """What `work` returns, which begins and ends transactions of its own. Raises StoreUnavailable."""
        with self.causes.told():
            connection = await self._connections.acquire()
            try:
                with self._connections.limited(connection, seconds):
                    return await work(connection)
            except BaseException:
                cut(connection)
                raise
            finally:
                await self._connections.release(connection)

    async def close(self) -> None:
        """Returns when every transaction has ended, those that nobody waits for any more too. What takes longer than
        CLOSE_SECONDS is cut: a commit then comes to pass or not."""
        if self._endings:
            await asyncio.wait(self._endings, timeout=CLOSE_SECONDS)
        if self._endings:
            self._connections.cut_all()
            for rollback in self._rollbacks:
                rollback.cancel()
        while self._endings:
            await asyncio.wait(self._endings)
        await self.blockers.close()

    async def _once(self, work: Callable[[asyncpg.Connection], Awaitable[T]], lock_seconds: float, seconds: float) -> T:
        connection = await self._connections.acquire()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        look = loop.call_later(LOOK_SECONDS, self.blockers.look)
        try:
            with self._connections.limited(connection, seconds):
                try:
                    await begin(connection, lock_seconds)
                    result = await work(connection)
                except BaseException:
                    await self._end(self._roll_back(connection))
                    raise
            # Its own limit: it goes on when this call is cancelled.
            await self._end(self._commit(connection, max(LEAST_COMMIT_SECONDS, until - loop.time())))
        finally:
            look.cancel()
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

    async def _commit(self, connection: asyncpg.Connection, seconds: float) -> None:
        try:
            _ = failpoints.armed and await failpoints.reach("before_commit")
            with self._connections.limited(connection, seconds):
                status = await connection.execute("commit")
            _ = failpoints.armed and await failpoints.reach("after_commit")
            if status != "COMMIT":
                raise asyncpg.InternalClientError(f"commit answered {status}")
        except BaseException:
            cut(connection)
            raise
        finally:
            await self._connections.release(connection)

    async def _give_back(self, connection: asyncpg.Connection) -> None:
        """Releases a connection whose statement was cancelled: asyncpg waits until the server has taken notice."""
        with self._connections.limited(connection, ROLLBACK_SECONDS):
            await self._connections.release(connection)

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        """Rolls back, or cuts the connection: the server then rolls back by itself. Raises nothing: not this error but
        the one that made it roll back is the caller's."""
        # In a task: a statement that asyncpg begins after a cancelled one waits for ever when the connection is cut
        # before the server has taken notice of the cancellation (asyncpg 0.32).
        rollback = asyncio.ensure_future(_say_rollback(connection))
        self._rollbacks.add(rollback)
        try:
            await asyncio.wait((rollback,), timeout=ROLLBACK_SECONDS)
            if not rollback.done() or rollback.cancelled() or rollback.exception() is not None:
                cut(connection)
                rollback.cancel()
                await asyncio.gather(rollback, return_exceptions=True)
        finally:
            self._rollbacks.discard(rollback)
            await self._connections.release(connection)


async def _say_rollback(connection: asyncpg.Connection) -> None:
    # A coroutine: on a connection that was cut, the call itself raises.
    await connection.execute("rollback")
