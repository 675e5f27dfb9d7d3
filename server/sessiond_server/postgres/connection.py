"""Connections to Postgres: the pool, and which of its errors mean that the database cannot be reached.

No statement here changes a session setting: nothing need be reset when a connection goes back, which saves a round trip
on every use, and a transaction pooler may stand between.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres import feed_order

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC in microseconds since 1970: where Postgres counts from."""

STATEMENTS_CACHED = 256
"""Prepared statements kept for each connection: all named ones and the lists that are in use."""

_UNAVAILABLE = (
    "08",  # connection exceptions
    "25006",  # the server has become a standby
    "28",  # refused at the door
    "3D000",  # no such database
    "53100",  # disk full
    "53300",  # too many connections
    "57P01",  # administrator shut it down
    "57P02",  # crash of another server process
    "57P03",  # starting or recovering
)


def cannot_reach(error: BaseException) -> bool:
    """Whether the error says that the database cannot be reached, for now."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_UNAVAILABLE)
    if isinstance(error, asyncpg.InternalClientError):
        # No server of the DSN is the primary; or the server's last words came while the connection was idle, and the
        # driver cannot use it any more but has not seen its end yet.
        return True
    if isinstance(error, asyncpg.InterfaceError):
        # asyncpg has no class of its own for the use of a connection or pool that has been closed meanwhile.
        return "clos" in str(error)
    return isinstance(error, OSError)


@contextmanager
def reaching() -> Iterator[None]:
    """Raises StoreUnavailable in place of errors that mean it."""
    try:
        yield
    except Exception as error:
        if cannot_reach(error):
            raise StoreUnavailable from error
        raise


async def _prepare(connection: asyncpg.Connection) -> None:
    # The name may lead to another cluster than it did for the connection before.
    await feed_order.settle(connection, thorough=False)
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda microseconds: (microseconds - POSTGRES_EPOCH_US,),
        decoder=lambda value: value[0] + POSTGRES_EPOCH_US,
        format="tuple",
    )


def cut(connection: asyncpg.Connection) -> None:
    """Ends a connection at once, without a word to the server. One that has ended already is left alone."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


@contextmanager
def abandoned_copies() -> Iterator[None]:
    """The running loop does not report what asyncpg leaves behind of a COPY that could not begin.

    On a connection that cannot be used any more (see `cannot_reach`) it raises, as it should, but has made a future for
    the answer that it never awaits (asyncpg 0.32, `copy_in`). It fails when the connection is cut, and nobody has it.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        lost = isinstance(context.get("exception"), asyncpg.ConnectionDoesNotExistError)
        if lost and "future" in context and not isinstance(context["future"], asyncio.Task):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    loop.set_exception_handler(report)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


async def _keep(connection: asyncpg.Connection) -> None:
    """Resets nothing."""


def pool(dsn: str, *, max_connections: int, connect_timeout: float) -> asyncpg.Pool:
    """A pool that connects when it is used; timestamptz are ints, microseconds since 1970. Await it to open it.

    `dsn` may name several hosts (`target_session_attrs=read-write` picks the primary).
    """
    return asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_connections,
        timeout=connect_timeout,
        command_timeout=None,
        statement_cache_size=STATEMENTS_CACHED,
        init=_prepare,
        reset=_keep,
        server_settings={"application_name": "sessiond"},
    )
