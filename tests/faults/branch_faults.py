"""Replicas killed with SIGKILL and Postgres stopped at once, while sessions are forked, their messages redacted, their
parents deleted, and all of it read as of earlier places (docs/reliability.md, KIND=branches)."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import sessiond
from sessiond_server.embedded import EmbeddedServers
from tests.faults.branch_judgement import Branch, Judge, Past, Wrong, marked
from tests.faults.work_faults import stop_postgres
from tests.support.replica import Replica

REPLICAS = 2
ROOTS = 4
WRITERS = 6
MOST_ALIVE = 60
"""Sessions beyond which a writer deletes more than it forks."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    faults: int
    acked: int
    forks: int
    redactions: int
    deletions: int
    reads: int
    """As of a place, while servers were killed."""
    retries: int
    wrong: Wrong
    complaints: Sequence[str]
    seconds: float

    @property
    def sound(self) -> bool:
        worked = min(self.acked, self.forks, self.redactions, self.deletions, self.reads) > 0
        return worked and self.wrong == Wrong() and not self.complaints

    def line(self) -> str:
        w = self.wrong
        return (
            f"faults={self.faults} acked={self.acked} forks={self.forks} redactions={self.redactions} "
            f"deletions={self.deletions} reads={self.reads} lost={w.lost} doubled={w.doubled} gaps={w.gaps} "
            f"leaked={w.leaked} diverged={w.diverged} retries={self.retries} seconds={self.seconds:.1f}"
        )


@dataclass(slots=True)
class Ledger:
    """What was acknowledged."""

    branches: dict[str, Branch] = field(default_factory=dict)
    redacted: set[str] = field(default_factory=set)
    """Markers whose redaction was acknowledged."""
    touched: set[str] = field(default_factory=set)
    """Markers whose redaction has begun."""
    past: list[Past] = field(default_factory=list)
    acked: int = 0
    forks: int = 0
    deletions: int = 0
    retries: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self) -> None:
        self.acked += 1
        self.changed.set()

    async def grown(self, by: int) -> None:
        wanted = self.acked + by
        while self.acked < wanted:
            self.changed.clear()
            await self.changed.wait()

    def alive(self) -> list[Branch]:
        return [branch for branch in self.branches.values() if not branch.deleting]


async def campaign(
    data: Path,
    log: Path,
    *,
    faults: int,
    seed: int,
    progress: Callable[[str], None],
    writers: int = WRITERS,
    postgres: bool = True,
) -> Report:
    """Kills a replica `faults` times, at moments that `seed` chooses, and at each fifth of them, once at least, stops
    Postgres (`postgres`), a bundled one of its own in the folder `data`. Main thread only."""
    chance, began, ledger = random.Random(seed), time.monotonic(), Ledger()
    stops = range(min(3, faults), faults + 1, 5) if postgres else range(0)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(EmbeddedServers(data, cache=True))
        running = asyncio.create_task(servers.keep_running())
        stack.push_async_callback(_ended, running)
        environment = {"SESSIOND_REDIS_URL": servers.redis_url or "", "SESSIOND_SEARCH": "true"}
        environment["SESSIOND_SWEEP_INTERVAL"] = "0.5s"
        replicas = [Replica(servers.postgres_dsn, log, environment) for _ in range(REPLICAS)]
        clients = []
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.stop)
            client = sessiond.Client(replica.address, timeout=10.0, wait_for_ready=True)
            clients.append(await stack.enter_async_context(client))
        for _ in range(ROOTS):
            made = await clients[0].create_session(active=True, timeout=60.0)
            ledger.branches[made.session_id] = Branch(made.session_id, version=made.version)
        ends = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(writers):
                writer = Writer(clients, ledger, random.Random(f"{seed} {number}"), f"w{number}")
                tasks.create_task(writer.run(ends))
            for fault in range(1, faults + 1):
                await ledger.grown(chance.randrange(10, 80))
                if fault in stops:
                    stop_postgres(data)
                replica = chance.choice(replicas)
                await replica.kill()
                await replica.start()
                progress(f"{fault} of {faults} faults, {ledger.acked} writes, {ledger.forks} forks")
            await ledger.grown(20)
            ends.set()
        progress("comparing every branch with the acknowledgements")
        judge = Judge(clients[0], servers.postgres_dsn, servers.redis_url or "", ledger.branches)
        wrong = await judge.judge(ledger.redacted, ledger.touched, ledger.past)
        return Report(
            faults + len(stops),
            ledger.acked,
            ledger.forks,
            len(ledger.redacted),
            ledger.deletions,
            len(ledger.past),
            ledger.retries,
            wrong,
            judge.complaints,
            time.monotonic() - began,
        )


class Writer:
    """Does one thing after the other, each until it is answered, by any replica."""

    def __init__(self, clients: Sequence[sessiond.Client], ledger: Ledger, chance: random.Random, name: str) -> None:
        self._clients = clients
        self._ledger = ledger
        self._chance = chance
        self._name = name
        self._calls = 0

    async def run(self, ends: asyncio.Event) -> None:
        while not ends.is_set():
            branch = self._chance.choice(self._ledger.alive())
            crowded = len(self._ledger.alive()) > MOST_ALIVE
            act = self._chance.choices(
                (self._append, self._fork, self._redact, self._delete, self._read),
                (40, 3 if crowded else 12, 10, 12 if crowded else 3, 20),
            )[0]
            try:
                await act(branch)
            except sessiond.SessionNotFound:
                if not branch.deleting:
                    raise

    async def _done(self, call: Callable[[sessiond.Client, str], Awaitable[T]]) -> T:
        """The answer of a call, which is repeated with one request id."""
        self._calls += 1
        request_id = f"{self._name}-{self._calls}"
        while True:
            try:
                return await call(self._chance.choice(self._clients), request_id)
            except (sessiond.Unavailable, sessiond.DeadlinePassed):
                self._ledger.retries += 1
                await asyncio.sleep(0.05)

    async def _append(self, branch: Branch) -> None:
        markers = [f"mk{self._chance.getrandbits(64):016x}z" for _ in range(self._chance.randrange(1, 5))]
        messages = [sessiond.user(f"says {marker}") for marker in markers]
        done = await self._done(
            lambda client, request_id: client.append_messages(branch.session_id, messages, request_id=request_id)
        )
        branch.note(done.first_seq, list(zip(done.message_ids, markers, strict=True)), done.version)
        self._ledger.count()

    async def _fork(self, branch: Branch) -> None:
        place = self._chance.choice([None, *branch.places()])
        fork_id = f"fork-{self._name}-{self._calls}"
        made = await self._done(
            lambda client, request_id: client.fork_session(
                branch.session_id, at=place, fork_session_id=fork_id, request_id=request_id
            )
        )
        self._ledger.branches[fork_id] = branch.forked(fork_id, made.forked_from.seq, made.version)
        self._ledger.forks += 1
        self._ledger.count()

    async def _redact(self, branch: Branch) -> None:
        shown = branch.messages()
        if not shown:
            return
        _, message_id, marker = self._chance.choice(shown)
        self._ledger.touched.add(marker)
        await self._done(
            lambda client, request_id: client.redact_message(branch.session_id, message_id, request_id=request_id)
        )
        self._ledger.redacted.add(marker)
        self._ledger.count()

    async def _delete(self, branch: Branch) -> None:
        if len(self._ledger.alive()) <= ROOTS:
            return
        branch.deleting = True
        await self._done(lambda client, request_id: client.delete_session(branch.session_id, request_id=request_id))
        self._ledger.deletions += 1
        self._ledger.count()

    async def _read(self, branch: Branch) -> None:
        """As of a place that was acknowledged; judged in the end."""
        place = self._chance.choice(branch.places() or [branch.version])
        session = await self._done(lambda client, _: client.get_session(branch.session_id, as_of_seq=place))
        page = await self._done(
            lambda client, _: client.list_messages(branch.session_id, as_of_seq=place, page_size=1000).page()
        )
        texts = [(message.seq, message.message_id, marked(message)) for message in page.messages]
        self._ledger.past.append(Past(branch.session_id, place, session, page.version, texts))


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
