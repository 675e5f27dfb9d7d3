"""Redis hurt in every way, again and again, under appends and reads through two servers (G1, G5, G6)."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sessiond
from sessiond_server.domain.commands import Scope
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.redis.entries import Names
from tests.faults import server_kills
from tests.faults.ledger import Verdict
from tests.faults.load import Load
from tests.support.proxy import Proxy
from tests.support.replica import Replica
from tests.support.valkey import Valkey

KINDS = ("kill", "flush", "freeze", "promote")
SETTLE = 60.0
"""Seconds from the last fault until the cache must be as the database is."""
HEALED = 3.0
"""Seconds after which the cache is looked at for the first time."""
FREEZE = 5.0
CALM = 2.0
"""Seconds of load before each fault: what writes take normally."""
READERS = 8
SLOWEST = 2.0
"""Below how many times its normal the p99 of writes must stay in an outage."""
FEWEST = 500
"""Writes without which a p99 says nothing."""


@dataclass
class Seen:
    """What readers and writers met."""

    reads: int = 0
    below_min_version: int = 0
    calm: list[float] = field(default_factory=list)
    hurt: list[float] = field(default_factory=list)
    """Seconds that writes took while nothing was wrong with Redis, and while something was."""


@dataclass(frozen=True, slots=True)
class Report:
    faults: int
    acked: int
    verdict: Verdict
    seen: Seen
    audited: int
    stale: int
    seconds: float
    timed: bool = True
    """Whether writes that took too long fail it."""

    @property
    def ratio(self) -> float:
        """Of the p99 of writes in an outage to the normal one; NaN: too few writes to tell."""
        return p99(self.seen.hurt) / p99(self.seen.calm)

    @property
    def sound(self) -> bool:
        clean = self.verdict.sound and not self.stale and not self.seen.below_min_version
        looked = self.acked > 0 and self.seen.reads > 0 and self.audited > 0
        return clean and looked and (not self.timed or self.ratio < SLOWEST)

    def line(self) -> str:
        v, normal, outage = self.verdict, p99(self.seen.calm), p99(self.seen.hurt)
        return (
            f"faults={self.faults} acked={self.acked} lost={v.lost} doubled={v.doubled} gaps={v.gaps} "
            f"invented={v.invented} reads={self.seen.reads} write_p99_ms={normal * 1000:.1f} "
            f"write_p99_ms_in_outage={outage * 1000:.1f} ratio={self.ratio:.2f} "
            f"audited={self.audited} seconds={self.seconds:.1f} "
            f"stale={self.stale} below_min_version={self.seen.below_min_version}"
        )


def p99(values: Sequence[float]) -> float:
    """NaN, which is not below anything, if there are fewer than FEWEST."""
    return sorted(values)[len(values) * 99 // 100] if len(values) >= FEWEST else math.nan


class RedisPair:
    """A master with a replica behind an address that does not change."""

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self._folder = folder
        self._proxy = proxy
        self._count = 0
        self.master = self._server()
        self._replica: Valkey | None = None

    async def start(self) -> None:
        await self.master.start()
        self._proxy.point_to(self.master.port)

    async def hurt(self, kind: str, chance: random.Random, freeze: float) -> None:
        """Returns when Redis is there again."""
        if kind == "kill":
            self.master.kill()
            await asyncio.sleep(chance.uniform(0, 2))
            await self.master.start()
        elif kind == "flush":
            async with self.master.client() as client:
                await client.flushall()
        elif kind == "freeze":
            self.master.freeze()
            await asyncio.sleep(freeze)
            self.master.thaw()
        else:
            await self._promote(chance)

    async def _promote(self, chance: random.Random) -> None:
        """A replica that lags by the last moments takes over."""
        replica = self._replica = self._server()
        await replica.start()
        async with replica.client() as client:
            await client.replicaof("127.0.0.1", self.master.port)
            while (await client.info("replication"))["master_link_status"] != "up":  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
            replica.freeze()
            await asyncio.sleep(chance.uniform(0.2, 1))
            self.master.kill()
            replica.thaw()
            await client.replicaof("NO", "ONE")
        self._proxy.point_to(replica.port)
        self._proxy.cut()
        self.master, self._replica = replica, None

    def stop(self) -> None:
        for server in (self.master, self._replica):
            if server is not None:
                server.stop()

    def _server(self) -> Valkey:
        self._count += 1
        return Valkey(self._folder / f"valkey-{self._count}", "--repl-diskless-sync-delay", "0")


async def campaign(
    postgres_dsn: str,
    log: Path,
    *,
    faults: int,
    seed: int,
    rate: float,
    progress: Callable[[str], None],
    settle: float = SETTLE,
    freeze: float = FREEZE,
    calm: float = CALM,
    timed: bool = True,
) -> Report:
    """Hurts Redis `faults` times, each kind in turn, at moments that `seed` chooses, while `rate` appends a second go
    on. The durations are in seconds; see SETTLE, FREEZE, CALM. `timed`: see Report."""
    chance, began = random.Random(seed), time.monotonic()
    async with Proxy("127.0.0.1", 0) as proxy:
        redis = RedisPair(log.parent / "redis", proxy)
        (log.parent / "redis").mkdir(exist_ok=True)
        await redis.start()
        environment = {"SESSIOND_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
        replicas = [Replica(postgres_dsn, log, environment) for _ in range(2)]
        try:
            for replica in replicas:
                await replica.start()
            async with (
                sessiond.Client(replicas[0].address, timeout=5.0, wait_for_ready=True) as writing,
                sessiond.Client(replicas[1].address, timeout=5.0, wait_for_ready=True) as reading,
            ):
                sessions = await server_kills.new_sessions(writing)
                await reading.get_session(sessions[0], timeout=60.0)
                load = Load(writing, sessions, rate=rate, workers=server_kills.WORKERS)
                seen = Seen()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(load.run())
                    readers = [
                        tasks.create_task(_read((writing, reading), load, sessions, seen, random.Random(seed + number)))
                        for number in range(READERS)
                    ]
                    await asyncio.sleep(calm)
                    load.taken()  # The first ones, on servers that have just started, are not normal.
                    for fault in range(1, faults + 1):
                        kind = KINDS[fault % len(KINDS)]
                        await asyncio.sleep(calm * (0.5 + chance.random()))
                        seen.calm += load.taken()
                        await redis.hurt(kind, chance, freeze)
                        seen.hurt += load.taken()
                        progress(f"{fault} of {faults}: {kind}, {load.ledger.count} appends acknowledged")
                    await asyncio.sleep(calm)
                    load.stop()
                    settling = time.monotonic() + settle
                    for reader in readers:
                        reader.cancel()
                # While there still are copies: after `settle` many have vanished.
                await asyncio.sleep(min(HEALED, settle))
                stale, audited = await _audit_copies(postgres_dsn, redis, sessions)
                progress(f"{audited} copies compared with the database; waiting until {settle:g} s are over")
                await asyncio.sleep(max(0.0, settling - time.monotonic()))
                progress("comparing what the servers answer with the database, and every log with the acknowledgements")
                for found in (
                    await _audit_copies(postgres_dsn, redis, sessions),
                    await _audit_answers((writing, reading), postgres_dsn, sessions),
                ):
                    stale, audited = stale + found[0], audited + found[1]
                verdict = await server_kills.judged(writing, postgres_dsn, load, sessions)
        finally:
            for replica in replicas:
                await replica.stop()
            redis.stop()
    return Report(faults, load.ledger.count, verdict, seen, audited, stale, time.monotonic() - began, timed)


async def _read(
    clients: Sequence[sessiond.Client], load: Load, sessions: Sequence[str], seen: Seen, chance: random.Random
) -> None:
    """Reads what was acknowledged a moment ago, through either server, until cancelled."""
    while True:
        client, session_id = chance.choice(clients), chance.choice(sessions)
        acknowledged = max(load.ledger.acknowledged.get(session_id, {"": 0}).values())
        try:
            if chance.random() < 0.5:
                version = (await client.get_session(session_id, min_version=acknowledged)).version
            else:
                version = await _newest(client, session_id, acknowledged)
        except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
            continue
        except sessiond.VersionNotReached:
            version = 0
        seen.reads += 1
        seen.below_min_version += version < acknowledged
        await asyncio.sleep(0.01)


async def _newest(client: sessiond.Client, session_id: str, min_version: int = 0) -> int:
    """Place of the newest message."""
    messages = client.list_messages(session_id, page_size=20, order_by="newest_first", min_version=min_version)
    async for message in messages:
        return message.seq
    return 0


async def _truth(postgres_dsn: str, sessions: Sequence[str]) -> dict[str, int]:
    """Versions by session id."""
    async with PostgresStore(postgres_dsn) as store:
        found = await store.get_sessions(Scope(server_kills.TENANT), sessions, content=False)
    return {one: session.version for one, session in zip(sessions, found, strict=True) if session is not None}


async def _audit_copies(postgres_dsn: str, redis: RedisPair, sessions: Sequence[str]) -> tuple[int, int]:
    """(copies in the current epoch that are not of the database's version, how many there are)."""
    stale = audited = 0
    truth = await _truth(postgres_dsn, sessions)
    async with redis.master.client() as client:
        (epoch_key,) = [key async for key in client.scan_iter("sessiond:*:epoch")]
        held = await client.get(epoch_key)
        assert isinstance(held, bytes)
        prefix = Names(epoch_key.removesuffix(b"epoch"), held[40:]).start
        async for key in client.scan_iter(prefix + b"*}"):
            tail = await client.lindex(key, -1)
            if tail is not None and tail[:1] == b"S":
                audited += 1
                stale += int(tail[1:17]) != truth[key.removeprefix(prefix).partition(b"/")[0].decode()]
    return stale, audited


async def _audit_answers(
    clients: Sequence[sessiond.Client], postgres_dsn: str, sessions: Sequence[str]
) -> tuple[int, int]:
    """(answers that are not of the database's version, how many were asked for)."""
    stale = 0
    truth = await _truth(postgres_dsn, sessions)
    for client in clients:
        for session_id in sessions:
            stale += (await client.get_session(session_id)).version != truth[session_id]
            stale += await _newest(client, session_id) != truth[session_id]
    return stale, 2 * len(clients) * len(sessions)
