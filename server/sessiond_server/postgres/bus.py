"""The bell in Postgres: LISTEN and NOTIFY on the primary, over one connection beside the pool.

Hints are sent after the commit, in statements of their own. A NOTIFY inside the transaction that writes would be exact
without anybody's help, but all such transactions of a server commit one after the other
(docs/decisions/0013-hints-after-the-commit.md).
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
from sessiond_server.postgres.connection import Door, cut, limited
from sessiond_server.tasks import run_in_background

MOST_PAYLOAD_BYTES: Final = 7900
"""Postgres takes less than 8 000."""
MOST_PAYLOADS: Final = 8
"""Of one statement."""
MOST_HINTS: Final = 1024
"""Sessions that wait; with one more, one word for "everything" is sent in their stead."""
_PROOF: Final = "."
"""Starts a payload by which a process makes sure that it hears itself."""

_NOTIFY: Final = "select pg_notify($1, payload) from unnest($2::text[]) as payload"
_IS_STANDBY: Final = "select pg_is_in_recovery()"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyTimeouts:
    """In seconds. A server that stalls is noticed within `heartbeat` + `answer`."""

    connect: float = 5.0
    answer: float = 2.0
    heartbeat: float = 1.0
    """Between two looks at whether the server answers, and is still the primary."""


class NotifyBus:
    """A Bus (see events/bus.py) for hints. Use as `async with NotifyBus(dsn) as bus`, and `begin` it.

    Deltas reach the listeners of this process only: what Postgres passes on costs a transaction.

    Opening and beginning it do not wait for the server. It is ready once it has heard itself: behind a pooler that
    hands its connection to others, it never is. Until then, and whenever the server is away, hints are dropped.
    """

    def __init__(self, dsn: str, *, timeouts: NotifyTimeouts | None = None, random: Random | None = None) -> None:
        """`dsn` may name several hosts: the one that is the primary is used, whatever its `target_session_attrs`."""
        self.reason = "not begun yet"
        """Why it is not ready."""
        self.dropped_hints = 0
        self._timeouts = timeouts or NotifyTimeouts()
        self._door = Door(dsn, self._timeouts.connect, {"application_name": "sessiond hints"})
        self._random = random or Random()
        self._listeners = Listeners()
        self._hints = Hints(MOST_HINTS)
        self._channel = ""
        self._connection: asyncpg.Connection | None = None
        """To ring through; None while it is not ready."""
        self._proof = ""
        self._wake = asyncio.Event()
        """There is something to send, the proof was heard, or the connection was lost."""
        self._task: asyncio.Task[None] | None = None

    def begin(self, prefix: str) -> None:
        """Connects, and from then on keeps trying to.

        `prefix` starts the channel's name, which has 63 bytes at most. All processes that serve one database must use
        one prefix.
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
        """Keeps a connection in use until cancelled."""
        outage = Outage("Postgres", self._random)
        while True:
            outage.attempt()
            try:
                await self._use(outage)
            except Exception as error:
                self.reason = str(error) if isinstance(error, _Useless) else type(error).__name__
            await outage.failed(self.reason)

    async def _use(self, outage: Outage) -> None:
        """Connects, listens, and sends what there is. Raises when the connection is of no more use."""
        connection = await self._door.open(target_session_attrs="read-write")
        try:
            self._wake.clear()
            connection.add_termination_listener(self._lost)
            with limited(connection, self._timeouts.answer):
                await connection.add_listener(self._channel, self._heard)
            await self._hear_itself(connection)
            self._connection = connection
            self.reason = ""
            self._listeners.on_gap()
            while True:
                await self._look(connection, outage)
        finally:
            self._connection = None
            self.dropped_hints += self._hints.clear()
            # No farewell: a server that stalls would not answer it.
            cut(connection)

    async def _hear_itself(self, connection: asyncpg.Connection) -> None:
        self._proof = _PROOF + secrets.token_hex(8)
        try:
            async with asyncio.timeout(self._timeouts.answer):
                await connection.execute(_NOTIFY, self._channel, [self._proof])
                while self._proof:
                    if connection.is_closed():
                        raise _Useless("the connection was lost")
                    await self._wake.wait()
                    self._wake.clear()
        except TimeoutError:
            raise _Useless("the server does not pass notifications on") from None

    async def _look(self, connection: asyncpg.Connection, outage: Outage) -> None:
        """Sends what waits, or sees that the server answers once nothing has for a heartbeat."""
        try:
            async with asyncio.timeout(self._timeouts.heartbeat):
                await self._wake.wait()
        except TimeoutError:
            with limited(connection, self._timeouts.answer):
                if await connection.fetchval(_IS_STANDBY):
                    raise _Useless("the server has become a standby") from None
            outage.note_alive()
        self._wake.clear()
        if connection.is_closed():
            raise _Useless("the connection was lost")
        while self._hints:
            payloads: list[str] = []
            while self._hints and len(payloads) < MOST_PAYLOADS:
                payloads.append(self._hints.take(MOST_PAYLOAD_BYTES).decode())
            with limited(connection, self._timeouts.answer):
                await connection.execute(_NOTIFY, self._channel, payloads)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
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


class _Useless(Exception):
    """Why a connection is of no more use. Never leaves this module."""
