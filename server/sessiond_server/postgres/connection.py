"""Connections to Postgres and their pool: how a connection is opened, limited in time, and cut.

No statement changes a session setting. So a connection needs no reset when it is released, which saves a round trip
per use, and a pooler in transaction mode may stand between. Session settings are requested when a connection opens.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from time import perf_counter
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from sessiond_server.encryption.keyring import Keyring
from sessiond_server.measures import Durations
from sessiond_server.postgres import feed_order
from sessiond_server.postgres.poolers import keeps_prepared_statements
from sessiond_server.store.condition import Pool

_log = logging.getLogger("sessiond.postgres")

POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC, from which Postgres counts times, in microseconds since 1970."""

STATEMENTS_CACHED = 256
"""Prepared statements cached per connection. Enough for all named ones and the composed lists in use."""

READ_SECONDS: Final = 8.0
"""Longest time for a statement outside a transaction, before its connection is cut."""

LOCK_SECONDS: Final = 2.0
"""Longest wait for each lock that another transaction holds. Our own transactions hold locks for milliseconds."""

SESSION: Final[Mapping[str, str]] = {
    "application_name": "sessiond",
    # Shorter than READ_SECONDS, so that the server ends a slow statement first and the connection stays usable.
    "statement_timeout": f"{round(READ_SECONDS * 900)}ms",
    # Of statements outside of transactions, which wait for locks of tables only. Transactions set their own.
    "lock_timeout": f"{round(LOCK_SECONDS * 1000)}ms",
    # Whatever the role has: writes in one statement depend on it (write_if_unchanged in write.sql).
    "default_transaction_isolation": "read committed",
    # The server must notice a lost client soon, because that client's transaction holds locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""Settings requested when a session begins. If a pooler refuses them, only the name is sent: see `Connector`."""
_NAME_ONLY: Final[Mapping[str, str]] = {"application_name": SESSION["application_name"]}

_REFUSES_SETTINGS: Final = (
    asyncpg.ProtocolViolationError,  # PgBouncer
    asyncpg.UndefinedObjectError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)

CLOSE_SECONDS: Final = 1.0
"""Longest time that closing a pool waits for its connections to close in order."""

_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 2),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 8_000),  # milliseconds
)
"""With these options the kernel closes a connection, idle or not, within 11 seconds of the last acknowledgement."""


_SEVERAL_HOSTS: Final = re.compile(r"([^:/?]+://(?:[^/?]*@)?)([^/?@,]*,[^/?@]*)(.*)", re.DOTALL)


def cut(connection: asyncpg.Connection) -> None:
    """Closes the socket of a connection at once, without a message to the server. Does nothing if it is closed."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


@contextmanager
def limited(
    connection: asyncpg.Connection, seconds: float, silent: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Cuts the connection if the block takes longer than `seconds`; the awaited call then raises a connection error.

    It sends no cancel request, unlike asyncpg's own timeouts: one that reaches a commit makes Postgres show rows that
    are not safe yet, and a silent server would not answer it. `silent` is called after the cut.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, connection, seconds, silent)
    try:
        yield
    finally:
        timer.cancel()


def _give_up(connection: asyncpg.Connection, seconds: float, silent: Callable[[], None]) -> None:
    _log.warning("a connection to Postgres gave no answer for %g s and was closed", seconds)
    cut(connection)
    silent()


@contextmanager
def abandoned_copies() -> Iterator[None]:
    """Suppresses the loop's report of a future that asyncpg leaves behind when a COPY cannot begin.

    On a connection that is no longer usable (see `sqlstates`), `copy_in` of asyncpg 0.32 raises correctly, but it has
    created a future that it never awaits. The future fails when the connection is cut, without anyone to retrieve it.
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


class Connector:
    """Opens connections to the servers of a DSN, and tries the server that last answered first.

    Each server gets its own share of the time limit. asyncpg has one limit for all of them, which a silent first server
    would use up every time.
    """

    def __init__(self, dsn: str, seconds: float, session: Mapping[str, str] = SESSION) -> None:
        """`seconds`: time limit of opening a connection, divided among the servers. `session`: settings to request."""
        self._dsns = hosts_of(dsn)
        self._seconds = seconds / len(self._dsns)
        self._session = session

    @property
    def has_settings(self) -> bool:
        """Whether the servers have taken the settings so far."""
        return self._session != _NAME_ONLY

    async def open(self, *_: object, **options: Any) -> asyncpg.Connection:
        """Opens a connection with the `options` of `asyncpg.connect`. Raises what that raises for the last server."""
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
            _log.warning("the pooler before Postgres refuses session settings: connecting without them")
            self._session = _NAME_ONLY
        keep_alive(connection)
        return connection


def hosts_of(dsn: str) -> list[str]:
    """One DSN per server that `dsn` names before its path."""
    # By a pattern of our own: Python 3.11.2 takes no list of hosts with an IPv6 address among them for a URL.
    found = _SEVERAL_HOSTS.fullmatch(dsn)
    if found is None:
        return [dsn]
    before, hosts, after = found.groups()
    return [f"{before}{host}{after}" for host in hosts.split(",")]


def keep_alive(connection: asyncpg.Connection) -> None:
    """Enables TCP keepalive on the connection's socket. Does nothing for a Unix socket."""
    found = connection._transport.get_extra_info("socket")  # asyncpg offers no public way to the socket
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, name, value in _KEEPALIVE:
        if hasattr(socket, name):
            found.setsockopt(level, getattr(socket, name), value)


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A pooled connection that records whether it is in use."""

    keyring: Keyring | None = None
    """The data keys, where contents are encrypted (postgres/sealing.py)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.in_use = False

    def taken(self) -> None:
        self.in_use = True

    def given_back(self) -> None:
        self.in_use = False

    async def prepared(self) -> None:
        """Called once, within a transaction, when the connection was opened."""


class Connections:
    """A connection pool that connects on demand. Values of timestamptz are ints: microseconds since 1970.

    Call `open` before use. Users limit their waits with `limited`. When a connection is found silent, all idle ones are
    cut too: they are most likely silent as well, and each would cost its next user the same wait.
    """

    def __init__(
        self,
        dsn: str,
        *,
        max_connections: int,
        connect_timeout: float,
        connection_class: type[PooledConnection] = PooledConnection,
    ) -> None:
        """`dsn` may name several hosts (`target_session_attrs=read-write` selects the primary). `connect_timeout` is in
        seconds, for each new connection."""
        self.given_up = 0
        """Number of connections that were cut because they were silent."""
        self.keeps_statements: bool | None = None
        """Whether prepared statements persist. False behind a pooler without support for them, where each statement
        needs a transaction. None until the first connection is opened."""
        self._all: WeakSet[PooledConnection] = WeakSet()
        self._waiting = 0
        self._waits = Durations()
        self._connect_timeout = connect_timeout
        self._connector = Connector(dsn, connect_timeout)
        self._pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=max_connections,
            command_timeout=None,
            statement_cache_size=STATEMENTS_CACHED,
            connection_class=connection_class,
            connect=self._connect,
            init=self._prepare,
            reset=_reset_nothing,
        )

    @property
    def has_settings(self) -> bool:
        """Whether the connections have the settings of SESSION, and no pooler has refused them."""
        return self._connector.has_settings

    async def _connect(self, *_: object, **options: Any) -> asyncpg.Connection:
        if self.keeps_statements is None:
            trial = await self._connector.open(**{**options, "statement_cache_size": 0})
            try:
                with limited(trial, self._connect_timeout):
                    self.keeps_statements = await keeps_prepared_statements(trial)
            finally:
                cut(trial)
            if not self.keeps_statements:
                _log.warning("a pooler without prepared statements stands before Postgres: reads take longer")
        if not self.keeps_statements:
            options["statement_cache_size"] = 0
        return await self._connector.open(**options)

    async def open(self) -> None:
        """Initialises the pool, without a connection."""
        await self._pool

    async def close(self) -> None:
        """Waits for connections in use and closes all in order; after CLOSE_SECONDS, cuts those that are left."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self.cut_all()
            self._pool.terminate()

    async def renew(self) -> None:
        """Replaces every connection by a new one before its next use."""
        await self._pool.expire_connections()

    def cut_all(self) -> None:
        """Cuts every connection, including those in use."""
        for connection in list(self._all):
            cut(connection)

    async def acquire(self) -> asyncpg.Connection:
        self._waiting += 1
        began = perf_counter()
        try:
            connection: Any = await self._pool.acquire()
        finally:
            self._waiting -= 1
        self._waits.note(perf_counter() - began)
        connection.taken()
        return connection

    def pool(self) -> Pool:
        """For metrics; any thread may call it."""
        idle = self._pool.get_idle_size()
        in_use = max(0, self._pool.get_size() - idle)
        # While there are fewer, a connection is being opened for those that wait.
        waiting = self._waiting if in_use >= self._pool.get_max_size() else 0
        return Pool(in_use, idle, waiting, self._waits)

    async def release(self, connection: asyncpg.Connection) -> None:
        """Returns a connection to the pool, also one that was cut."""
        with suppress(AttributeError):  # asyncpg's pool has already taken back a cut connection
            connection.given_back()
        await self._pool.release(connection)

    def limited(self, connection: asyncpg.Connection, seconds: float) -> AbstractContextManager[None]:
        """See the function `limited`; a cut also calls `_silent`."""
        return limited(connection, seconds, self._silent)

    def _silent(self) -> None:
        self.given_up += 1
        for connection in list(self._all):
            if not connection.in_use:
                cut(connection)

    async def _prepare(self, connection: PooledConnection) -> None:
        try:
            with limited(connection, self._connect_timeout, self._silent):
                # The host name may now lead to another cluster than for the previous connection.
                await feed_order.settle(connection, thorough=False)
                # set_type_codec queries the server for the type, which needs a transaction behind a pooler.
                async with connection.transaction():
                    await connection.set_type_codec(
                        "timestamptz",
                        schema="pg_catalog",
                        encoder=lambda microseconds: (microseconds - POSTGRES_EPOCH_US,),
                        decoder=lambda value: value[0] + POSTGRES_EPOCH_US,
                        format="tuple",
                    )
                    await connection.prepared()
        except BaseException:
            # asyncpg's pool now closes the connection, for which it would wait forever if the server is silent.
            cut(connection)
            raise
        self._all.add(connection)


async def _reset_nothing(connection: asyncpg.Connection) -> None:
    """Resets nothing."""
