"""The bus on Postgres: LISTEN and NOTIFY on the primary, over one connection outside the pool.

Hints are sent after the commit, in separate statements. A NOTIFY inside the writing transaction would lose no hint, but
Postgres commits all transactions with NOTIFY one after the other (docs/decisions/0013-hints-after-the-commit.md).
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Final

import asyncpg

from sessiond_server.events.bus import Deltas, Hint, Listener
from sessiond_server.events.listeners import Listeners
from sessiond_server.events.outage import Outage
from sessiond_server.events.outbox import Hints
from sessiond_server.events.payloads import hints_in
from sessiond_server.postgres.connection import Connector, cut, limited
from sessiond_server.tasks import run_in_background

MOST_PAYLOAD_BYTES: Final = 7900
"""Longest payload of a notification. Postgres requires less than 8 000 bytes."""
MOST_PAYLOADS: Final = 8
"""Most notifications of one statement."""
MOST_HINTS: Final = 1024
"""Most sessions with a waiting hint. With one more, a single payload that means "everything" replaces them."""
_PROOF: Final = "."
"""Starts the payload with which a process checks that it receives its own notifications."""

_NOTIFY: Final = "select pg_notify($1, payload) from unnest($2::text[]) as payload"
_IS_STANDBY: Final = "select pg_is_in_recovery()"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTimeouts:
    """Timeouts of the bus in seconds. A stalled server is detected within `heartbeat` + `answer`."""

    connect: float = 5.0
    answer: float = 2.0
    heartbeat: float = 1.0
    """Interval of the check that the server answers and is still the primary."""


class NotifyBus:
    """Implements `events.bus.Bus` for hints. Use as `async with NotifyBus(dsn) as bus`, then call `begin`.

    Deltas reach only the listeners of this process, because each notification costs Postgres a transaction.

    `__aenter__` and `begin` do not wait for the server. The bus is ready once it has received its own notification,
    which never happens behind a pooler that shares the connection. While it is not ready, hints are dropped.
    """

    def __init__(self, dsn: str, *, timeouts: NotifyTimeouts | None = None, random: Random | None = None) -> None:
        """`dsn` may name several hosts. The bus always uses the primary, whatever `target_session_attrs` says."""
        self.reason = "not begun yet"
        """Why the bus is not ready; empty while it is."""
        self.dropped_hints = 0
        self._timeouts = timeouts or NotifyTimeouts()
        self._connector = Connector(dsn, self._timeouts.connect, {"application_name": "sessiond hints"})
        self._random = random or Random()
        self._listeners = Listeners()
        self._hints = Hints(MOST_HINTS)
        self._channel = ""
        self._connection: asyncpg.Connection | None = None
        """Connection to send hints on; None while the bus is not ready."""
        self._proof = ""
        self._wake = asyncio.Event()
        """Set when there are hints to send, when the own notification arrived, and when the connection was lost."""
        self._task: asyncio.Task[None] | None = None

    def begin(self, prefix: str) -> None:
        """Starts connecting in the background, and reconnecting whenever the connection is lost.

        `prefix` starts the channel's name, which has at most 63 bytes. All processes that serve one database must use
        the same prefix.
        """
        self._channel = f"{prefix}hints"
        self._task = run_in_background(self._run(), "notify")

    async def __aenter__(self) -> "NotifyBus":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ready(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.add(listener)

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        if not self.ready:
            self.dropped_hints += len(hints)
            return
        self._hints.add(hints)
        self._wake.set()

    def publish_deltas(self, deltas: Deltas) -> None:
        asyncio.get_running_loop().call_soon(self._listeners.on_deltas, deltas)

    async def _run(self) -> None:
        """Connects, and reconnects with backoff, until cancelled."""
        outage = Outage("Postgres", self._random)
        while True:
            outage.attempt()
            try:
                await self._use(outage)
            except Exception as error:
                self.reason = str(error) if isinstance(error, _Unusable) else type(error).__name__
            await outage.failed(self.reason)

    async def _use(self, outage: Outage) -> None:
        """Connects, listens and sends hints. Raises once the connection is unusable."""
        connection = await self._connector.open(target_session_attrs="read-write")
        try:
            self._wake.clear()
            connection.add_termination_listener(self._lost)
            with limited(connection, self._timeouts.answer):
                await connection.add_listener(self._channel, self._received)
            await self._receive_own_hint(connection)
            self._connection = connection
            self.reason = ""
            self._listeners.on_gap()
            while True:
                await self._send_or_check(connection, outage)
        finally:
            self._connection = None
            self.dropped_hints += self._hints.clear()
            # An orderly close would wait for the answer of a server that may have stalled.
            cut(connection)

    async def _receive_own_hint(self, connection: asyncpg.Connection) -> None:
        self._proof = _PROOF + secrets.token_hex(8)
        try:
            async with asyncio.timeout(self._timeouts.answer):
                await connection.execute(_NOTIFY, self._channel, [self._proof])
                while self._proof:
                    if connection.is_closed():
                        raise _Unusable("the connection was lost")
                    await self._wake.wait()
                    self._wake.clear()
        except TimeoutError:
            raise _Unusable("the server does not deliver notifications on this connection") from None

    async def _send_or_check(self, connection: asyncpg.Connection, outage: Outage) -> None:
        """Waits for hints and sends them. After a heartbeat without hints, checks that the server is the primary."""
        try:
            async with asyncio.timeout(self._timeouts.heartbeat):
                await self._wake.wait()
        except TimeoutError:
            with limited(connection, self._timeouts.answer):
                if await connection.fetchval(_IS_STANDBY):
                    raise _Unusable("the server has become a standby") from None
            outage.note_alive()
        self._wake.clear()
        if connection.is_closed():
            raise _Unusable("the connection was lost")
        while self._hints:
            payloads: list[str] = []
            while self._hints and len(payloads) < MOST_PAYLOADS:
                payloads.append(self._hints.take(MOST_PAYLOAD_BYTES).decode())
            with limited(connection, self._timeouts.answer):
                await connection.execute(_NOTIFY, self._channel, payloads)

    def _received(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if payload.startswith(_PROOF):
            if payload == self._proof:
                self._proof = ""
                self._wake.set()
        elif (hints := hints_in(payload.encode())) is None:
            self._listeners.on_gap()
        else:
            self._listeners.on_hints(hints)

    def _lost(self, _connection: object) -> None:
        self._wake.set()


class _Unusable(Exception):
    """The connection is unusable; the text says why. Never leaves this module."""
