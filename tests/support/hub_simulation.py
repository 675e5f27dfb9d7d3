"""Replicas with a hub each on one database, in which everything takes its time and everything breaks: by a seed.

Hints are lost, doubled, late and out of order; commits are announced out of order; reads come back late with what was
true when they were made; connections break; standbys take over and have lost the newest commits, after which the same
seqs are written anew. Ids of deleted sessions are taken again. Watchers are slow, are cancelled while they wait, leave
and come back with their position.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message
from sessiond_server.domain import commands as c
from sessiond_server.errors import PositionGone, SessionAlreadyExists, SessiondError, SessionNotFound, StoreUnavailable
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Deltas, Hint, Listener
from sessiond_server.events.hub import EventHub
from sessiond_server.events.limits import HubLimits
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.commits import Applied
from tests.support.caller import PADDED, Caller, struct
from tests.support.documents import APP, SESSION, put
from tests.support.hub_database import Database
from tests.support.hub_watchers import REDACTED, FeedWatch, SessionWatch, Watch

SCOPE = c.Scope("acme")
CALLER = Caller(SCOPE)
SESSIONS = ("s0", "s1", "s2")
SETTLED = 30.0
"""Seconds after the last fault within which everybody must have everything."""


@dataclass
class Verdict:
    """What was found wrong, by kind, and how much was tried."""

    wrong: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    first: str = ""
    """The first thing that was wrong."""

    @property
    def sound(self) -> bool:
        return not self.wrong

    def find(self, kind: str, what: object = "") -> None:
        self.wrong[kind] += 1
        self.first = self.first or f"{kind}: {what}"

    def add(self, other: "Verdict") -> None:
        self.wrong += other.wrong
        self.seen += other.seen
        self.first = self.first or other.first


@dataclass
class Chance:
    """Decides by the seed."""

    random: Random
    hurried: bool = False
    """Nothing goes wrong any more."""

    async def delay(self, late: float = 0.03) -> None:
        """Mostly a moment, with the probability `late` up to two seconds."""
        throw = self.random.random()
        if throw < late and not self.hurried:
            await asyncio.sleep(self.random.uniform(0.1, 2))
        elif throw < 0.2:
            await asyncio.sleep(self.random.uniform(0, 0.05))
        elif throw < 0.7:
            await asyncio.sleep(self.random.uniform(0, 0.003))

    def happens(self, probability: float) -> bool:
        return not self.hurried and self.random.random() < probability


class Connection:
    """The database as one replica reaches it."""

    def __init__(self, database: Database, chance: Chance, breaks: float) -> None:
        self._database = database
        self._chance = chance
        self._breaks = breaks
        self.cut = False

    async def apply(self, commands: Sequence[c.Command]) -> Applied:
        database = self._database
        await self._arrive()
        incarnation, xid = database.incarnation, database.begin()
        try:
            await self._chance.delay()
            if incarnation != database.incarnation or self._chance.happens(self._breaks):
                raise StoreUnavailable
            applied = database.commit(xid, commands)
        finally:
            if incarnation == database.incarnation:
                database.roll_back(xid)
        # The answer is on its way, whatever becomes of the database.
        await self._chance.delay(late=0.06)
        if self._chance.happens(self._breaks):
            raise StoreUnavailable
        return applied

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._database, name)

        async def slowly(*args: Any, **more: Any) -> Any:
            await self._arrive()
            answer = await read(*args, **more)
            await self._chance.delay(late=0.06)
            return answer

        return slowly

    async def _arrive(self) -> None:
        await self._chance.delay(late=0.01)
        if self.cut or self._chance.happens(self._breaks):
            raise StoreUnavailable


class LossyBus:
    """The bus between the simulated replicas, which loses hints and delays them."""

    def __init__(self, chance: Chance, lost: float) -> None:
        self._chance = chance
        self._lost = lost
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.ready = True

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        for listener in self._listeners:
            for _ in range(2 if self._chance.happens(0.1) else 1):
                if not self._chance.happens(self._lost):
                    self._start(self._carry(listener, hints))

    def publish_deltas(self, deltas: Deltas) -> None:
        for listener in self._listeners:
            if not self._chance.happens(self._lost):
                self._start(self._pass(listener, deltas))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, listener: Listener, hints: Sequence[Hint]) -> None:
        await self._chance.delay(late=0.1)
        listener.on_hints(hints)

    async def _pass(self, listener: Listener, deltas: Deltas) -> None:
        await self._chance.delay(late=0.1)
        listener.on_deltas(deltas)


@dataclass
class Replica:
    hub: EventHub
    store: AnnouncedCommits
    connection: Connection
    redactions: set[str] = field(default_factory=set)
    """Ids of the events that its watchers or its writers received."""


class Schedule:
    """One run."""

    FAULTS: Sequence[Sequence[str]] = (
        (), ("cut",), ("restart",), ("standby", "failover"), ("cut", "restart", "standby", "failover"),
    )  # fmt: skip
    """What happens in one run. Few kinds at a time."""

    def __init__(self, seed: int, *, faults: Sequence[str] | None = None) -> None:
        random = Random(seed)
        self.chance = Chance(random)
        self.verdict = Verdict()
        self.faults = random.choice(self.FAULTS) if faults is None else faults
        self._numbers = iter(range(10**9))
        self._over = False
        lossy = random.choice([0.0, 0.3, 1.0])
        self.limits = HubLimits(
            ring_events=random.choice([1, 4, 1000]),
            ring_bytes=random.choice([300, 2000, 10**6]),
            total_ring_bytes=random.choice([1000, 10**6]),
            bookmark=random.choice([0.5, 5.0]),
            outage=10.0,
        )
        self._lost = lossy
        self._breaks = random.choice([0.0, 0.05])
        self._session_watches: list[SessionWatch] = []

    async def run(self) -> Verdict:
        random = self.chance.random
        self.database = Database(asyncio.get_running_loop().time)
        self._standby = self.database.snapshot()
        self.bus = LossyBus(self.chance, self._lost)
        self.replicas = [self._replica() for _ in range(2)]
        for replica in self.replicas:
            await replica.hub.__aenter__()
        for session_id in SESSIONS:
            await self._write(CALLER.create(session_id, f"create {session_id}", ttl={"seconds": 3600}, summary=PADDED))
        self._session_watches = [SessionWatch(self, random.choice(SESSIONS)) for _ in range(4)]
        watches: list[Watch[Any]] = [*self._session_watches, *(FeedWatch(self) for _ in range(2))]
        async with asyncio.TaskGroup() as tasks:
            chaos = tasks.create_task(self._chaos())
            watching = [tasks.create_task(watch.run()) for watch in watches]
            await asyncio.wait([tasks.create_task(self._writer()) for _ in range(3)])
            self._over = True
            await chaos
            self._calm()
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLED):
                    await asyncio.gather(*(watch.settled() for watch in watches))
            for watch in watches:
                watch.judge()
            for replica in self.replicas:
                self._judge_memory(replica)
            for task in watching:
                task.cancel()
        for replica in self.replicas:
            await replica.hub.__aexit__(None, None, None)
            if replica.hub.state().streams or replica.hub.state().ring_bytes:
                self.verdict.find("memory", replica.hub.state())
        return self.verdict

    def _replica(self) -> Replica:
        connection: Any = Connection(self.database, self.chance, self._breaks)
        hub = EventHub(connection, self.bus, self.limits)
        return Replica(hub, AnnouncedCommits(connection, Announcer(hub, self.bus)), connection)

    def _calm(self) -> None:
        self.chance.hurried = True
        for replica in self.replicas:
            replica.connection.cut = False

    async def _chaos(self) -> None:
        random = self.chance.random
        while self.faults and not self._over:
            await asyncio.sleep(random.uniform(0, 2))
            fault = random.choice(self.faults)
            self.verdict.seen[fault] += 1
            if fault == "restart":
                self.database.restart()
            elif fault == "standby":
                self._standby = self.database.snapshot()
            elif fault == "failover":
                self.verdict.seen["lost"] += len(self.database.fail_over(self._standby))
            elif fault == "cut":
                connection = random.choice(self.replicas).connection
                connection.cut = True
                await asyncio.sleep(random.choice([0.5, 3, 15]))
                connection.cut = False

    async def _writer(self) -> None:
        random = self.chance.random
        for _ in range(random.randrange(10, 25)):
            await asyncio.sleep(random.choice([0, 0, 0.01, 0.3]))
            session_id, request_id = random.choice(SESSIONS), f"r{next(self._numbers)}"
            kinds = ["append", "update", "redact", "pop", "delete", "clear", "both", "deltas", "documents", "state"]
            kind = random.choices(kinds, [10, 2, 2, 1, 0.2, 0.2, 1, 2, 1, 1])[0]
            if self.database.session(("acme", session_id)) is None and random.random() < 0.3:
                kind = "reuse"
            self.verdict.seen[kind] += 1
            message_id = f"m{request_id}"
            if kind == "append":
                count = random.choice([1, 1, 3])
                command = [CALLER.append_ids(session_id, *(f"{message_id}-{n}" for n in range(count)))]
            elif kind == "update":
                command = [CALLER.set_keys(session_id, request_id, last=request_id)]
            elif kind == "both":
                command = [CALLER.append_ids(session_id, message_id), CALLER.redact(session_id, message_id)]
            elif kind == "redact":
                log = self.database.history.logs.get(("acme", session_id))
                if log is None or not log.message_seqs:
                    continue
                body = log.events[random.choice(log.message_seqs)].body
                command = [CALLER.redact(session_id, Message.FromString(body).message_id, request_id=request_id)]
            elif kind == "pop":
                command = [CALLER.pop(session_id, random.choice([1, 3]), request_id)]
            elif kind == "deltas":
                data = Delta(message_id=message_id, text="piece").SerializeToString()
                self.bus.publish_deltas(Deltas(("acme", session_id), [data]))
                command = [CALLER.append_ids(session_id, message_id)]
            elif kind == "documents":
                writes = [put((SESSION, session_id), "last", f'"{request_id}"'), put(APP, "last", f'"{request_id}"')]
                command = [CALLER.append_with(session_id, *writes)]
            elif kind == "state":
                command = [CALLER.update_and_append(session_id, remove_keys=["state.last"], state=struct(k=request_id))]
            else:
                command = [CALLER.delete(session_id, f"{request_id}-gone")] if kind in ("delete", "clear") else []
                if kind in ("reuse", "clear"):  # the latter in one batch
                    ttl = {"seconds": 3600}
                    command.append(CALLER.create(session_id, request_id, reuse=True, ttl=ttl, summary=PADDED))
            await self._write(*command)

    async def _write(self, *commands: c.Command) -> None:
        """Until it is acknowledged or refused, on whatever replica."""
        for _ in range(6):
            replica = self.chance.random.choice(self.replicas)
            try:
                applied = await replica.store.apply(commands)
            except StoreUnavailable:
                await self.chance.delay()
                continue
            replica.redactions.update(row.event_id for row in applied.writes.events if row.type in REDACTED)
            self._judge_memory(replica)
            for result in applied.results:
                if isinstance(result, SessiondError) and not isinstance(
                    result, SessionNotFound | SessionAlreadyExists | PositionGone
                ):
                    self.verdict.seen["refused"] += 1
            return

    def _judge_memory(self, replica: Replica) -> None:
        """What the rings hold is what they say, and no more than they may."""
        hub = replica.hub
        rings: set[Any] = {*hub._sessions.channels, *hub._feeds._feeds.values()}
        # Streams of a deleted session, whose id another one has, keep its channel to their end.
        streams = (watch.stream for watch in self._session_watches if watch.stream is not None)
        rings |= {stream.channel for stream in streams if stream._sessions is hub._sessions}
        held = 0
        for ring in rings:
            sizes = [len(getattr(entry, "entry", entry).data) for entry in ring.entries]
            held += sum(sizes)
            if ring.size != sum(sizes) or (len(sizes) > 1 and sum(sizes) > self.limits.ring_bytes):
                self.verdict.find("memory", ring.size)
            if len(sizes) > max(1, self.limits.ring_events):
                self.verdict.find("memory", len(sizes))
        full = sum(len(tenant.sizes) for tenant in hub._rings._tenants.values())
        if hub._rings.held > held or (full > 1 and held > 2 * self.limits.total_ring_bytes):
            self.verdict.find("memory", (hub._rings.held, held))
