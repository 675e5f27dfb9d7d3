"""Runs work in transactions. A transaction always ends, also when its caller is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cache
from typing import Any, Final, TypeVar

import asyncpg

from sessiond_server import failpoints
from sessiond_server.errors import SessionLocked, StoreUnavailable
from sessiond_server.postgres.blockers import Blockers
from sessiond_server.postgres.causes import Causes
from sessiond_server.postgres.connection import LOCK_SECONDS, READ_SECONDS, Connections, cut
from sessiond_server.postgres.sqlstates import Meaning, meaning
from sessiond_server.postgres.statements import WRITE

T = TypeVar("T")

ATTEMPTS = 10
"""Most times that a transaction is run when it loses races against others. Each lost race means that another
transaction succeeded."""

TRANSACTION_SECONDS: Final = 6.0
"""Longest time from BEGIN to the answer to COMMIT. A connection that takes longer is cut as silent; the server rolls
back, or has committed. Longer than LOCK_SECONDS and IDLE_SECONDS, so that a responsive server reaches its own limits
first."""

LEAST_COMMIT_SECONDS: Final = 2.0
"""Least time that COMMIT gets, however long the work before it took."""

IDLE_SECONDS: Final = 5.0
"""Time after which the server ends a transaction whose client is idle, so that a paused process does not keep its
locks."""

LOOK_SECONDS: Final = 1.0
"""A transaction that takes longer makes `Blockers` look for the holders of locks, while it still waits."""

ROLLBACK_SECONDS: Final = 2.0
"""Longest time for a rollback. After it the connection is cut, and the server rolls back by itself."""

CLOSE_SECONDS: Final = 2.0
"""Longest time that `close` waits for transactions in progress."""


class Raced(Exception):
    """Another transaction created a row first, so this one must roll back and run again. Never leaves this package."""


class TookTooLong(Exception):
    """The server has ended a statement that took longer than it may. Never leaves this package."""


async def begin(connection: Any, lock_seconds: float) -> None:
    """Begins a transaction that writes. Raises ReadOnlySQLTransactionError, also on a standby."""
    try:
        await connection.execute(_begin(lock_seconds, IDLE_SECONDS))
    except asyncpg.FeatureNotSupportedError as error:
        # A standby answers READ WRITE with this error.
        raise asyncpg.ReadOnlySQLTransactionError(str(error)) from error


async def _fetch_in_one(
    connection: asyncpg.Connection, statement: str, parameters: Sequence[Any]
) -> Sequence[asyncpg.Record]:
    """The rows of a read, in a transaction of its own, which a pooler keeps on one connection. Cuts the connection on
    any error."""
    try:
        await connection.execute("begin isolation level read committed read only")
        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
        await connection.execute("commit")
    except BaseException:
        cut(connection)
        raise
    return rows


@cache
def _begin(lock_seconds: float, idle_seconds: float) -> str:
    """BEGIN and the limits of this transaction, in one round trip.

    The settings are local because a pooler shares the session. statement_timeout is off even if the role has one: it
    would also end a commit that waits for a synchronous standby, and Postgres would then show rows that are not safe.
    """
    return (
        f"{WRITE['begin'].text}; set local lock_timeout = {round(lock_seconds * 1000)};"
        f" set local idle_in_transaction_session_timeout = {round(idle_seconds * 1000)};"
        " set local statement_timeout = 0"
    )


class Transactions:
    """Runs work in transactions of a pool."""

    def __init__(self, connections: Connections, beside: "Transactions | None" = None) -> None:
        """`beside`: another instance. Its causes are shared, and its connections are used to ask who holds locks,
        because all connections of this instance may be waiting for them. None: creates its own causes."""
        self.causes: Causes = beside.causes if beside else Causes()
        self.blockers = Blockers((beside or self).fetch)
        self._connections = connections
        self._endings: set[asyncio.Task[Any]] = set()
        self._rollbacks: set[asyncio.Future[Any]] = set()
        """ROLLBACK statements in progress."""

    async def run(
        self,
        work: Callable[[asyncpg.Connection], Awaitable[T]],
        *,
        session_id: str | None = None,
        seconds: float | None = None,
    ) -> T:
        """Runs `work` in a transaction and returns its result once that is committed. If `work` raises, rolls back.

        After a lost race it runs `work` again, so `work` must keep no state of its own. Raises StoreUnavailable if the
        connection is lost, or silent for `seconds` (TRANSACTION_SECONDS by default): during the commit, the outcome is
        then unknown. Raises it also after ATTEMPTS lost races. If others hold a needed lock for LOCK_SECONDS, raises
        SessionLocked if `session_id` is given, else StoreUnavailable.

        Cancelling before the commit is sent rolls back. After that, the commit continues in its own task, and only the
        caller stops waiting: cancelling a commit that waits for a synchronous standby would make Postgres commit
        locally and show the rows, and the caller could not tell.
        """
        with self.causes.translating():
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
        """As `run`, but raises Postgres' own errors, except for lost races."""
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
        """The rows of one reading statement, outside any transaction. Raises StoreUnavailable, also if there is no
        answer within READ_SECONDS.

        Cancelling takes effect at once, even if the server does not answer: the connection is released in the
        background, or cut.
        """
        with self.causes.translating():
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

    async def fetch_within(self, seconds: float, statement: str, *parameters: Any) -> Sequence[asyncpg.Record]:
        """As `fetch`, for a statement that the server ends after so many seconds. Then raises
        TookTooLong."""
        with self.causes.translating():
            connection = await self._connections.acquire()
            try:
                with self._connections.limited(connection, READ_SECONDS):
                    await connection.execute(
                        "begin isolation level read committed read only;"
                        f" set local statement_timeout = {round(seconds * 1000)}"
                    )
                    try:
                        rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
                    except asyncpg.QueryCanceledError:
                        await connection.execute("rollback")
                        raise TookTooLong from None
                    await connection.execute("commit")
            except TookTooLong:
                raise
            except BaseException:
                cut(connection)
                raise
            finally:
                await self._connections.release(connection)
            return rows

    async def use(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, seconds: float = 60.0) -> T:
        """Returns what `work` returns; `work` begins and ends its own transactions. Raises StoreUnavailable, also after
        `seconds`."""
        with self.causes.translating():
            connection = await self._connections.acquire()
            try:
                with self._connections.limited(connection, seconds):
                    return await work(connection)
            except BaseException:
                cut(connection)
                raise
            finally:
                await self._connections.release(connection)

    @property
    def can_send_alone(self) -> bool:
        """Whether `alone` may be used: not behind a pooler that keeps no statements, or refused LOCK_SECONDS."""
        return bool(self._connections.keeps_statements) and self._connections.has_settings

    async def alone(self, statement: str, *parameters: Any) -> Sequence[asyncpg.Record]:
        """The rows of one writing statement that is a transaction of its own: its answer is that of the commit.

        Raises Postgres' own errors; none with a meaning other than AWAY leaves anything written. Cancelling only stops
        the waiting once the statement is sent, as for a commit in `run`. The statement must wait for no row: for locks
        of tables it waits for LOCK_SECONDS.
        """
        connection = await self._connections.acquire()
        return await asyncio.shield(self._begin_ending(self._send_alone(connection, statement, parameters)))

    async def close(self) -> None:
        """Waits until every transaction has ended, including those whose callers were cancelled. After CLOSE_SECONDS it
        cuts all connections; a commit in flight then happens or not."""
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
            # The commit has its own time limit, because it continues when this call is cancelled.
            await self._end(self._commit(connection, max(LEAST_COMMIT_SECONDS, until - loop.time())))
        finally:
            look.cancel()
        return result

    async def _end(self, ending: Coroutine[object, object, None]) -> None:
        await asyncio.shield(self._begin_ending(ending))

    def _begin_ending(self, ending: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        caller = asyncio.current_task()
        task = asyncio.get_running_loop().create_task(ending, name=caller.get_name() if caller else None)
        self._endings.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._endings.discard(task)
        if not task.cancelled():
            task.exception()  # Marks it as retrieved: the caller gets it, unless it was cancelled.

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

    async def _send_alone(
        self, connection: asyncpg.Connection, statement: str, parameters: Sequence[Any]
    ) -> Sequence[asyncpg.Record]:
        look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.blockers.look)
        try:
            _ = failpoints.armed and await failpoints.reach("before_commit")
            with self._connections.limited(connection, TRANSACTION_SECONDS):
                rows: Sequence[asyncpg.Record] = await connection.fetch(statement, *parameters)
            _ = failpoints.armed and await failpoints.reach("after_commit")
        except (asyncpg.PostgresError, asyncpg.DataError):
            raise  # The server has answered, or was not asked: the connection is as good as before.
        except BaseException:
            cut(connection)
            raise
        finally:
            look.cancel()
            await self._connections.release(connection)
        return rows

    async def _give_back(self, connection: asyncpg.Connection) -> None:
        """Releases a connection whose statement was cancelled. asyncpg waits until the server confirms the
        cancellation."""
        with self._connections.limited(connection, ROLLBACK_SECONDS):
            await self._connections.release(connection)

    async def _roll_back(self, connection: asyncpg.Connection) -> None:
        """Rolls back; if that fails, cuts the connection, and the server rolls back by itself. Never raises: the caller
        gets the error that caused the rollback."""
        # ROLLBACK runs in a task: asyncpg 0.32 never completes a statement that follows a cancelled one if the
        # connection is cut before the server has confirmed the cancellation.
        rollback = asyncio.ensure_future(_send_rollback(connection))
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


async def _send_rollback(connection: asyncpg.Connection) -> None:
    # This is a coroutine because on a cut connection the call of `execute` itself raises.
    await connection.execute("rollback")
