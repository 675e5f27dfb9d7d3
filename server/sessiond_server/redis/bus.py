"""The bus on Redis 6.2 or later, or on Valkey: pub/sub on a single server or a cluster.

docs/cache.md lists the permissions that the ACL user needs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Final

import hiredis

from sessiond_server.events.bus import Deltas, Hint, Listener
from sessiond_server.events.listeners import Listeners
from sessiond_server.events.outage import Outage
from sessiond_server.events.outbox import DeltaQueue, Hints
from sessiond_server.events.payloads import deltas_in, hints_in
from sessiond_server.redis.cluster import Address, masters_of, toward
from sessiond_server.redis.link import Link, LinkLost, Replies, open_link, pack, parse
from sessiond_server.redis.node import about_server, code
from sessiond_server.tasks import run_in_background

MOST_HINT_BYTES: Final = 64 * 1024
MOST_DELTA_BYTES: Final = 64 * 1024
"""Most bytes of one publication of deltas; a single delta may be larger."""
DELTA_PAUSE: Final = 0.005
"""Seconds that deltas wait so that several share one publication. Every process receives all publications, and the
pause limits each process to 200 of deltas per second. Measured with 100 sessions of 50 deltas per second: 13 to 20
deltas in a publication without a pause, 34 to 55 with this pause, 99 with 20 ms. The sender's CPU time is 12 to 20 µs
per delta in all three cases."""
ENOUGH_DELTA_BYTES: Final = 16 * 1024
"""Deltas of this size or more are published without the pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusTimeouts:
    """Timeouts of the bus in seconds. A stalled server is detected within `heartbeat` + `answer`."""

    connect: float = 1.0
    answer: float = 0.5
    heartbeat: float = 0.4
    """Interval of the check that the server answers and is still a master, or part of a working cluster."""


class RedisBus:
    """Implements `events.bus.Bus`. Use as `async with RedisBus(url) as bus`, then call `begin`.

    One connection subscribes and publishes, with at most one pipeline in flight. Hints and deltas that are published
    meanwhile are merged into the next pipeline. `__aenter__` and `begin` do not wait for the server. While the server
    does not answer, hints and deltas are dropped.
    """

    def __init__(self, url: str, *, timeouts: BusTimeouts | None = None, random: Random | None = None) -> None:
        """Raises ValueError for a URL that redis-py does not know."""
        self.reason = "not begun yet"
        """Why the bus is not ready; empty while it is."""
        self.dropped_hints = 0
        self._arguments: Mapping[str, Any] = parse(url)
        self._timeouts = timeouts or BusTimeouts()
        self._random = random or Random()
        self._listeners = Listeners()
        self._hints = Hints()
        self._deltas = DeltaQueue()
        self._hint_channel = b""
        self._delta_channel = b""
        self._others: list[Address] = []
        """Masters of the cluster, to which the bus connects if the server in use fails."""
        self._link: Link | None = None
        """Connection to publish on; None while there is none in use."""
        self._hints_in_flight = 0
        """Hints of the pipeline that has no answer yet."""
        self._busy = False
        """Whether a pipeline is in flight."""
        self._deltas_due = False
        self._delta_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self, prefix: str) -> None:
        """Starts connecting in the background, and reconnecting whenever the connection is lost.

        `prefix` starts the names of the channels. All processes that serve one database must use the same prefix, and
        no other process may use it.
        """
        self._hint_channel = f"{prefix}hints".encode()
        self._delta_channel = f"{prefix}deltas".encode()
        self._task = run_in_background(self._run(), "bus")

    async def __aenter__(self) -> "RedisBus":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def ready(self) -> bool:
        return self._usable() is not None

    @property
    def dropped_deltas(self) -> int:
        return self._deltas.dropped

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.add(listener)

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        link = self._usable()
        if link is None:
            self.dropped_hints += len(hints)
            return
        self._hints.add(hints)
        if not self._busy:
            self._publish(link)

    def publish_deltas(self, deltas: Deltas) -> None:
        self._deltas.add(deltas)
        if self._usable() is None:
            self._deltas.clear()
        elif self._deltas.size >= ENOUGH_DELTA_BYTES:
            self._deltas_are_due()
        elif self._delta_timer is None:
            self._delta_timer = asyncio.get_running_loop().call_later(DELTA_PAUSE, self._deltas_are_due)

    def _deltas_are_due(self) -> None:
        if self._delta_timer is not None:
            self._delta_timer.cancel()
            self._delta_timer = None
        self._deltas_due = True
        link = self._usable()
        if link is not None and not self._busy:
            self._publish(link)

    def _usable(self) -> Link | None:
        return self._link if self._link is not None and self._link.lost is None else None

    def _publish(self, link: Link) -> None:
        """Sends the waiting hints and the deltas that are due in one pipeline, if there are any."""
        commands, self._hints_in_flight = [], 0
        if self._hints:
            before = len(self._hints)
            payload = self._hints.take(MOST_HINT_BYTES)
            self._hints_in_flight = before - len(self._hints)
            commands.append(pack(b"PUBLISH", self._hint_channel, payload))
        if self._deltas_due and self._deltas:
            commands.append(pack(b"PUBLISH", self._delta_channel, self._deltas.take(MOST_DELTA_BYTES)))
            self._deltas_due = bool(self._deltas)
        self._busy = bool(commands)
        if commands:
            link.send(b"".join(commands), len(commands), self._published)

    def _published(self, replies: Replies) -> None:
        refusal = next((reply for reply in replies or () if isinstance(reply, Exception)), None)
        if replies is None or refusal is not None:
            self.dropped_hints += self._hints_in_flight
        self._busy = False
        link = self._usable()
        if link is None:
            return
        if refusal is not None:
            link.close(code(refusal))
        else:
            self._publish(link)

    async def _run(self) -> None:
        """Connects, and reconnects with backoff, until cancelled."""
        outage = Outage("Redis", self._random)
        while True:
            outage.attempt()
            try:
                await self._use(self._arguments if outage.failures % 2 == 0 else self._another(), outage)
            except LinkLost as lost:
                self.reason = str(lost)
            except hiredis.ReplyError as refusal:
                self.reason = code(refusal)
            except Exception as error:
                # The server's answer has an unexpected form.
                self.reason = type(error).__name__
            await outage.failed(self.reason)

    def _another(self) -> Mapping[str, Any]:
        """Arguments for a random master of the cluster; for the configured server if none is known."""
        return toward(self._arguments, self._random.choice(self._others)) if self._others else self._arguments

    async def _use(self, arguments: Mapping[str, Any], outage: Outage) -> None:
        """Connects, subscribes and checks the server at intervals. Raises once the server is unusable."""
        link = await open_link(arguments, self._timeouts.connect, self._timeouts.answer)
        self._wake.clear()
        link.on_lost, link.on_push = self._wake.set, self._pushed
        try:
            about = await about_server(link)
            in_cluster = b"cluster" in (about.get(b"redis_mode"), about.get(b"server_mode"))
            if in_cluster:
                slots = await link.ask(b"CLUSTER", b"SLOTS")
                self._others = list(masters_of(slots, str(arguments.get("host", "localhost"))))
            await self._check_role(link, in_cluster)
            await link.ask(b"PING", after=pack(b"SUBSCRIBE", self._hint_channel, self._delta_channel))
            self._begin_use(link)
            await self._check_until_lost(link, in_cluster, outage)
        finally:
            self._end_use()
            link.close()

    async def _check_until_lost(self, link: Link, in_cluster: bool, outage: Outage) -> None:
        while True:
            try:
                async with asyncio.timeout(self._timeouts.heartbeat):
                    await self._wake.wait()
            except TimeoutError:
                await self._check_role(link, in_cluster)
                outage.note_alive()
            if link.lost is not None:
                raise LinkLost(link.lost)

    async def _check_role(self, link: Link, in_cluster: bool) -> None:
        """Raises unless publications on this server reach the subscribers of all processes.

        Publications on a replica reach only the replica's own subscribers, and a server that is cut off from its
        cluster cannot forward them.
        """
        if in_cluster:
            if (await about_server(link, b"CLUSTER", b"INFO")).get(b"cluster_state", b"ok") != b"ok":
                raise LinkLost("the server has lost its cluster")
        elif (await about_server(link, b"INFO", b"replication")).get(b"role", b"master") != b"master":
            raise LinkLost("the server is a replica")

    def _begin_use(self, link: Link) -> None:
        self._link = link
        self.reason = ""
        self._listeners.on_gap()

    def _end_use(self) -> None:
        self._link = None
        self.dropped_hints += self._hints.clear()
        self._deltas.clear()
        self._deltas_due = False
        if self._delta_timer is not None:
            self._delta_timer.cancel()
            self._delta_timer = None

    def _pushed(self, push: Sequence[Any]) -> None:
        kind, channel, payload = push[:3]
        if kind != b"message":
            return
        if channel == self._delta_channel:
            for deltas in deltas_in(payload):
                self._listeners.on_deltas(deltas)
        elif (hints := hints_in(payload)) is None:
            self._listeners.on_gap()
        else:
            self._listeners.on_hints(hints)
