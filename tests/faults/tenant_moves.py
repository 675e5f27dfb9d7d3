"""Tenants move between three databases under appends and watchers, while servers, databases and the mover are killed.

Each fault is a move of one tenant, most of them with a kill during it. Moves without one say how long writes stood
still.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Final

import sessiond
from sessiond.v1.event_pb2 import Event
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.postgres import read_postmaster
from sessiond_server.embedded.process import tied
from sessiond_server.failpoints import MOVES
from sessiond_server.postgres.moving import copying
from sessiond_server.postgres.schema.migrate import migrate
from sessiond_server.postgres.store import PostgresStore
from tests.faults.ledger import Verdict, judge
from tests.faults.load import Load
from tests.support.replica import Replica
from tests.support.serve_process import environment
from tests.support.several_databases import group, variables, write_keys
from tests.support.transactions import connected
from tests.support.valkey import Valkey

DATABASES: Final = ("main", "eu", "us")
TENANTS: Final = 30
REPLICAS: Final = 2
WATCHERS: Final = 20
SESSIONS: Final = 2
"""Of each tenant."""
MOST_STOPPED_MS: Final = 1000
AWAY_SECONDS: Final = 10.0
AWAY_PAUSE: Final = 0.5
"""How long one database is away, and the pause between two stops of it."""
MOVE_SECONDS: Final = 300.0
"""Longest time that one run of the mover may take."""
KILLS: Final = ("nothing", "mover", "replica", "source", "target", "main")
"""What is killed during a move, by turns."""
PLACES: Final = sorted(MOVES - {"move_aborting"})


@dataclass(slots=True)
class Report:
    moves: int
    acked: int
    retries: int
    verdict: Verdict
    ev_lost: int
    """Events that a watcher did not get, got twice or out of order."""
    left: int
    """Rows that a move left where the tenant had lived, and what is left of its replication."""
    stopped_ms: int
    """The longest time that an append of a moving tenant took, in moves without a kill."""
    p99_ratio: float
    """The 99th percentile of the times of appends of tenants that live elsewhere while one database is away, to that
    of before. For an idle machine: it fails nothing."""
    unforeseen: list[str]
    seconds: float
    timed: bool
    """Whether `stopped_ms` must be below its bound."""

    @property
    def sound(self) -> bool:
        slow = self.timed and self.stopped_ms >= MOST_STOPPED_MS
        broken = self.ev_lost or self.left or self.unforeseen or slow
        return self.verdict.sound and self.acked > 0 and not broken

    def line(self) -> str:
        v = self.verdict
        return (
            f"moves={self.moves} acked={self.acked} lost={v.lost} doubled={v.doubled} gaps={v.gaps} "
            f"invented={v.invented} ev_lost={self.ev_lost} left={self.left} unforeseen={len(self.unforeseen)} "
            f"stopped_ms={self.stopped_ms} p99_ratio={self.p99_ratio:.2f} retries={self.retries} "
            f"seconds={self.seconds:.1f}"
        )


@dataclass(slots=True)
class Watcher:
    """Sees the feed of a tenant from its beginning."""

    tenant: str
    seen: list[tuple[str, int]] = field(default_factory=list)

    async def run(self, client: sessiond.Client) -> None:
        """Runs until cancelled."""
        async with client.watch_events(from_beginning=True) as feed:
            async for event in feed:
                self.seen.append((event.session_id, event.seq))

    def missed(self, versions: Mapping[str, int]) -> int:
        """Events that did not come once and in order; `versions`: of the tenant's sessions."""
        counts = Counter(self.seen)
        wanted = {(session_id, seq) for session_id, version in versions.items() for seq in range(1, version + 1)}
        wrong = len(wanted - counts.keys()) + sum(count - 1 for count in counts.values())
        for session_id in versions:
            seqs = [seq for each, seq in self.seen if each == session_id]
            wrong += sum(later < earlier for earlier, later in pairwise(seqs))
        return wrong


class Site:
    """Three databases, each on a server of its own, and two replicas of the service. Use as `async with`."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._stack = AsyncExitStack()
        self.tenants = [f"tenant-{number}" for number in range(TENANTS)]
        self.homes = {tenant: DATABASES[number % len(DATABASES)] for number, tenant in enumerate(self.tenants)}
        self.dsns: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.replicas: list[Replica] = []

    async def __aenter__(self) -> "Site":
        async with self._stack:
            running = await self._stack.enter_async_context(asyncio.TaskGroup())
            for each in DATABASES:
                servers = EmbeddedServers(self._data(each), durable=False, cache=False)
                await self._stack.enter_async_context(servers)
                self.dsns[each] = servers.postgres_dsn
                await migrate(servers.postgres_dsn)
                task = running.create_task(servers.keep_running())
                self._stack.callback(task.cancel)
            await asyncio.to_thread(group, self.dsns, self.homes)
            self.keys = write_keys(self._folder, *self.tenants)
            valkey = Valkey(self._folder / "valkey")
            await valkey.start()
            self._stack.callback(valkey.stop)
            settings = {
                **variables(self.dsns),
                "SESSIOND_KEYS_FILE": str(self._folder / "keys.toml"),
                "SESSIOND_REDIS_URL": valkey.url,
                "SESSIOND_GRACE": "2s",
            }
            for _ in range(REPLICAS):
                replica = Replica("", self._log, settings)
                del replica._environment["SESSIOND_POSTGRES_DSN"]
                await replica.start()
                self.replicas.append(replica)
                self._stack.push_async_callback(replica.stop)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def client(self, tenant: str) -> sessiond.Client:
        return sessiond.Client(
            "ipv4:" + ",".join(replica.address for replica in self.replicas),
            api_key=self.keys[tenant],
            timeout=5.0,
            wait_for_ready=True,
        )

    def kill_database(self, database_id: str) -> None:
        """An immediate stop, after which it starts again. Nothing while it starts."""
        left = read_postmaster(self._data(database_id) / "postgres")
        if left is not None and left.ready:
            os.kill(left.pid, signal.SIGQUIT)

    async def kill_replica(self, number: int) -> None:
        await self.replicas[number].kill()
        await self.replicas[number].start()

    async def move(self, tenant: str, target: str, failpoint: str = "") -> int:
        """Runs the command to its end; the exit code, which is negative for a signal."""
        arguments = [sys.executable, "-m", "sessiond_server", "databases", "move", tenant, "--to", target]
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *tied(arguments, signal.SIGKILL),
                env=environment(**variables(self.dsns), SESSIOND_FAILPOINTS=failpoint),
                stdout=log,
                stderr=log,
            )
            try:
                async with asyncio.timeout(MOVE_SECONDS):
                    code: int = await process.wait()
                    return code
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def left(self, tenant: str, database_id: str) -> int:
        """Rows of a tenant where it does not live, and what is left of its replication."""
        async with connected(self.dsns[database_id]) as connection:
            names = await connection.fetchval(
                "select (select count(*) from pg_publication) + (select count(*) from pg_subscription)"
                " + (select count(*) from pg_replication_slots)"
            )
            counts: list[int] = [
                await connection.fetchval(f"select count(*) from {table} where tenant_id = $1", tenant)
                for table in await copying.tables(connection)
            ]
        return int(names) + sum(counts)

    def _data(self, database_id: str) -> Path:
        return self._folder / database_id


async def campaign(
    folder: Path,
    log: Path,
    *,
    faults: int,
    seed: int,
    rate: float,
    progress: Callable[[str], None],
    timed: bool = True,
) -> Report:
    """Moves `faults` tenants, one after the other, at moments that `seed` chooses, while `rate` appends a second go on,
    a third of them to the tenant that moves. Not `timed`: how long writes stood still fails nothing."""
    chance, began = random.Random(seed), time.monotonic()
    async with Site(folder, log) as site, AsyncExitStack() as stack:
        moving = chance.sample(site.tenants, min(faults, TENANTS))
        clients = {tenant: await stack.enter_async_context(site.client(tenant)) for tenant in site.tenants}
        sessions = {tenant: await _sessions(client) for tenant, client in clients.items()}
        loads = {
            tenant: Load(
                clients[tenant], sessions[tenant], rate=rate / TENANTS if tenant not in moving else rate / 3, workers=2
            )
            for tenant in site.tenants
        }
        watchers = [Watcher(moving[number % len(moving)]) for number in range(WATCHERS)]
        stopped, left = 0.0, 0
        async with _running(watchers, clients), asyncio.TaskGroup() as tasks:
            # A tenant that moves has the larger load only while it does: there are many of them.
            for tenant in set(site.tenants) - set(moving):
                tasks.create_task(loads[tenant].run())
            others = [loads[tenant] for tenant in site.tenants if tenant not in moving and site.homes[tenant] != "eu"]
            p99_ratio = await _away(site, others)
            progress(f"one database away: the others' p99 is {p99_ratio:.2f} of before")
            for number, tenant in enumerate(moving):
                running = tasks.create_task(loads[tenant].run())
                await loads[tenant].acknowledged(chance.randrange(10, 50))
                source = site.homes[tenant]
                target = chance.choice([each for each in DATABASES if each != source])
                killed = KILLS[number % len(KILLS)]
                loads[tenant].taken()
                await _move(site, chance, tenant, source, target, killed)
                await loads[tenant].acknowledged(10)
                longest = max(loads[tenant].taken(), default=0.0)
                if killed == "nothing":
                    stopped = max(stopped, longest)
                loads[tenant].stop()
                await running
                site.homes[tenant] = target
                left += await site.left(tenant, source)
                progress(
                    f"{number + 1} of {len(moving)} moves: {tenant} from {source} to {target}, killed: {killed}; the "
                    f"longest append took {longest * 1000:.0f} ms"
                )
            for load in loads.values():
                load.stop()
        progress("comparing every log with the acknowledgements")
        verdict, ev_lost = Verdict(), 0
        for tenant in site.tenants:
            verdict += await _judged(site, tenant, clients[tenant], loads[tenant], sessions[tenant])
        for watcher in watchers:
            versions = {
                each: (await clients[watcher.tenant].get_session(each)).version for each in sessions[watcher.tenant]
            }
            ev_lost += watcher.missed(versions)
    return Report(
        moves=len(moving),
        acked=sum(load.ledger.count for load in loads.values()),
        retries=sum(load.retries for load in loads.values()),
        verdict=verdict,
        ev_lost=ev_lost,
        left=left,
        stopped_ms=round(stopped * 1000),
        p99_ratio=p99_ratio,
        timed=timed,
        unforeseen=[each for load in loads.values() for each in load.unforeseen],
        seconds=time.monotonic() - began,
    )


async def _sessions(client: sessiond.Client) -> list[str]:
    return [(await client.create_session(active=True, timeout=60.0)).session_id for _ in range(SESSIONS)]


async def _away(site: Site, others: Sequence[Load]) -> float:
    """Stops the database `eu` whenever it is there. The p99 of the others' appends meanwhile, to that of before."""

    def p99() -> float:
        return quantiles([taken for load in others for taken in load.taken()], n=100)[-1]

    await asyncio.sleep(AWAY_SECONDS / 4)
    p99()
    await asyncio.sleep(AWAY_SECONDS)
    before = p99()
    for _ in range(round(AWAY_SECONDS / AWAY_PAUSE)):
        site.kill_database("eu")
        await asyncio.sleep(AWAY_PAUSE)
    return p99() / before


async def _move(site: Site, chance: random.Random, tenant: str, source: str, target: str, killed: str) -> None:
    """Moves the tenant, with a kill at some moment."""
    if killed == "mover":
        while await site.move(tenant, target, f"{chance.choice(PLACES)}=exit:1") != 0:
            if chance.random() < 0.5:
                break
    running = asyncio.create_task(site.move(tenant, target))
    if killed not in ("nothing", "mover"):
        await asyncio.sleep(chance.random() * 9)
        if killed == "replica":
            await site.kill_replica(chance.randrange(REPLICAS))
        else:
            site.kill_database({"source": source, "target": target}.get(killed, killed))
    while (code := await running) != 0:
        assert code == 1, f"the mover ended with {code}"
        running = asyncio.create_task(site.move(tenant, target))


@asynccontextmanager
async def _running(watchers: Sequence[Watcher], clients: Mapping[str, sessiond.Client]) -> AsyncIterator[None]:
    """Watchers run while the context is open; then they get what is missing, for a while."""
    tasks = [asyncio.create_task(watcher.run(clients[watcher.tenant])) for watcher in watchers]
    try:
        yield
        counts: list[int] = []
        while (now := [len(watcher.seen) for watcher in watchers]) != counts:
            counts = now
            await asyncio.sleep(3.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _judged(site: Site, tenant: str, client: sessiond.Client, load: Load, sessions: Sequence[str]) -> Verdict:
    total = Verdict()
    async with PostgresStore(site.dsns[site.homes[tenant]]) as store:
        for session_id in sessions:
            session = await client.get_session(session_id, consistency="strong")
            messages = [message async for message in client.list_messages(session_id, page_size=1000)]
            events: list[Event] = []
            while page := (await store.read_log((tenant, session_id), after_seq=len(events), limit=1000)).entries:
                events += [Event.FromString(entry.data) for entry in page]
            total += judge(load.ledger, session_id, session.version, messages, events)
    return total
