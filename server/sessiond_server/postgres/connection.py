"""Connections to Postgres: how one is opened, limited in its silence and cut, and what its errors mean for callers.

No statement here changes a session setting: nothing need be reset when a connection goes back, which saves a round trip
on every use, and a transaction pooler may stand between. What a session needs is asked for as it begins.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakSet

import asyncpg

from sessiond_server.postgres import feed_order
from sessiond_server.postgres.poolers import keeps_prepared_statements

_log = logging.getLogger("sessiond.postgres")

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC in microseconds since 1970: where Postgres counts from."""

STATEMENTS_CACHED = 256
"""Prepared statements kept for each connection: all named ones and the lists that are in use."""

READ_SECONDS: Final = 8.0
"""The longest that one statement outside of a transaction may take before its connection is cut."""

SESSION: Final[Mapping[str, str]] = {
    "application_name": "sessiond",
    # Sooner than this side gives up: the server then ends what nobody waits for, and the connection stays of use.
    "statement_timeout": f"{round(READ_SECONDS * 900)}ms",
    # The server, too, must notice that its client is gone: its transaction holds locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""What a session asks for as it begins. A pooler that refuses it gets the name alone: see `Door`."""
_NAME_ONLY: Final[Mapping[str, str]] = {"application_name": SESSION["application_name"]}

_REFUSES_SETTINGS: Final = (
    asyncpg.ProtocolViolationError,  # PgBouncer
    asyncpg.UndefinedObjectError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)

_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 2),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 8_000),  # milliseconds
)
"""With these the kernel ends a connection whose peer acknowledges nothing, idle or not, within 11 seconds."""


def cut(connection: asyncpg.Connection) -> None:
    """Ends a connection at once, without a word to the server. One that has ended already is left alone."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


@contextmanager
def limited(
    connection: asyncpg.Connection, seconds: float, silent: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Cuts the connection when the block takes longer: what it waits for then raises that the connection is lost.

    Never by a cancel request, as asyncpg's own timeouts do: one that reaches a commit makes Postgres show what it has
    not made safe, and a server that is silent would not answer it either. `silent` is called after the cut.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, connection, seconds, silent)
    try:
        yield
    finally:
        timer.cancel()


def _give_up(connection: asyncpg.Connection, seconds: float, silent: Callable[[], None]) -> None:
    _log.warning("a connection to Postgres gave no answer for %g s and is closed", seconds)
    cut(connection)
    silent()


@contextmanager
def abandoned_copies() -> Iterator[None]:
    """The running loop does not report what asyncpg leaves behind of a COPY that could not begin.

    On a connection that cannot be used any more (see `sqlstates`) it raises, as it should, but has made a future for
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


class Door:
    """Opens connections to the servers that a DSN names, the one that last answered first.

    asyncpg has one time limit for all of them: a first server that is silent would use it up for ever.
    """

    def __init__(self, dsn: str, seconds: float, session: Mapping[str, str] = SESSION) -> None:
        """`seconds`: for each connection, shared by the servers. `session`: settings asked for as a session begins."""
        self._dsns = hosts_of(dsn)
        self._seconds = seconds / len(self._dsns)
        self._session = session

    async def open(self, *_: object, **options: Any) -> asyncpg.Connection:
        """A connection; `options` as of `asyncpg.connect`. Raises what that does: of several servers, the last's."""
        for place, dsn in enumerate(self._dsns):
            try:
                connection = await self._open(dsn, options)
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.exceptions.TargetServerAttributeNotMatched):
                if place == len(self._dsns) - 1:
                    raise
            else:
                self._dsns = [dsn, *(other for other in self._dsns if other != dsn)]
                return connection
        raise AssertionError("a DSN names a server")

    async def _open(self, dsn: str, options: Mapping[str, Any]) -> asyncpg.Connection:
        given = {**options, "dsn": dsn, "timeout": self._seconds}
        try:
            connection = await asyncpg.connect(**given, server_settings=dict(self._session))
        except _REFUSES_SETTINGS:
            if self._session == _NAME_ONLY:
                raise
            connection = await asyncpg.connect(**given, server_settings=dict(_NAME_ONLY))
            _log.warning("what stands before Postgres refuses settings of a session: they are left out")
            self._session = _NAME_ONLY
        keep_alive(connection)
        return connection


def hosts_of(dsn: str) -> list[str]:
    """A DSN for each server that the DSN names before its path."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return [dsn]  # asyncpg says what is wrong with it
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [dsn]
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


def keep_alive(connection: asyncpg.Connection) -> None:
    """Has the kernel look whether the server is still there; a Unix socket needs none of it."""
    found = connection._transport.get_extra_info("socket")  # asyncpg gives no other way to it
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, name, value in _KEEPALIVE:
        if hasattr(socket, name):
            found.setsockopt(level, getattr(socket, name), value)


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection of a pool that knows whether it is in use."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.in_use = False

    def taken(self) -> None:
        self.in_use = True

    def given_back(self) -> None:
        self.in_use = False


class Connections:
    """A pool that connects when it is used; timestamptz are ints, microseconds since 1970. Open it before use.

    Its users limit what they wait for with `limited`. Once a connection was found silent, those that lie idle are cut
    with it: they are most likely as silent, and each would cost its first user as long.
    """

    def __init__(self, dsn: str, *, max_connections: int, connect_timeout: float) -> None:
        """`dsn` may name several hosts (`target_session_attrs=read-write` picks the primary). `connect_timeout`:
        seconds."""
        self.given_up = 0
        """Connections that were cut because they were silent."""
        self.keeps_statements: bool | None = None
        """Whether prepared statements last; False behind a pooler that does not know them, where a statement needs a
        transaction around it. None: no connection was opened yet."""
        self._all: WeakSet[_Connection] = WeakSet()
        self._connect_timeout = connect_timeout
        self._door = Door(dsn, connect_timeout)
        self._pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=max_connections,
            command_timeout=None,
            statement_cache_size=STATEMENTS_CACHED,
            connection_class=_Connection,
            connect=self._connect,
            init=self._prepare,
            reset=_keep,
        )

    async def _connect(self, *_: object, **options: Any) -> asyncpg.Connection:
        if self.keeps_statements is None:
            trial = await self._door.open(**{**options, "statement_cache_size": 0})
            try:
                with limited(trial, self._connect_timeout):
                    self.keeps_statements = await keeps_prepared_statements(trial)
            finally:
                cut(trial)
            if not self.keeps_statements:
                _log.warning("a pooler without prepared statements stands before Postgres: reads take longer")
        if not self.keeps_statements:
            options["statement_cache_size"] = 0
        return await self._door.open(**options)

    async def open(self) -> None:
        """Connects to nothing yet."""
        await self._pool

    async def close(self, seconds: float) -> None:
        """Waits for what is in use and says farewell to the server; what takes longer is cut."""
        try:
            async with asyncio.timeout(seconds):
                await self._pool.close()
        except TimeoutError:
            self.cut_all()
            self._pool.terminate()

    async def renew(self) -> None:
        """Has every connection replaced by a new one before it is used again."""
        await self._pool.expire_connections()

    def cut_all(self) -> None:
        """Cuts every connection, those in use too."""
        for connection in list(self._all):
            cut(connection)

    async def acquire(self) -> asyncpg.Connection:
        connection: Any = await self._pool.acquire()
        connection.taken()
        return connection

    async def release(self, connection: asyncpg.Connection) -> None:
        """Takes a connection back, one that was cut too."""
        with suppress(AttributeError):  # asyncpg has taken it back already, as it was cut
            connection.given_back()
        await self._pool.release(connection)

    def limited(self, connection: asyncpg.Connection, seconds: float) -> AbstractContextManager[None]:
        """See the function of this name."""
        return limited(connection, seconds, self._silent)

    def _silent(self) -> None:
        self.given_up += 1
        for connection in list(self._all):
            if not connection.in_use:
                cut(connection)

    async def _prepare(self, connection: _Connection) -> None:
        with limited(connection, self._connect_timeout, self._silent):
            # The name may lead to another cluster than it did for the connection before.
            await feed_order.settle(connection, thorough=False)
            # It asks the server for the type, for which behind a pooler it needs a transaction.
            async with connection.transaction():
                await connection.set_type_codec(
                    "timestamptz",
                    schema="pg_catalog",
                    encoder=lambda microseconds: (microseconds - POSTGRES_EPOCH_US,),
                    decoder=lambda value: value[0] + POSTGRES_EPOCH_US,
                    format="tuple",
                )
        self._all.add(connection)


async def _keep(connection: asyncpg.Connection) -> None:
    """Resets nothing."""
