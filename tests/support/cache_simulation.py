"""Processes on one truth and one cache, in which everything takes its time and everything breaks: by a seed.

The races of the design's section 7 all come about: late puts after newer ones, slow fillers after a write or a
deletion, a crash between the commit and the cache, a writer cut off from it, a failover to a replica that lagged, lost
memory. Ids of deleted sessions are taken again, while copies of the session before, and fills and invalidations of it,
are on their way.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from sessiond.v1.message_pb2 import Message
from sessiond_server.domain import commands as c
from sessiond_server.domain.rows import Key
from sessiond_server.errors import SessiondError, SessionNotFound, StoreUnavailable
from sessiond_server.memory.cache import MemoryCache, MemoryServer
from sessiond_server.store.cached.contract import MAX_AGE, CacheLimits, Change, Copy, Put
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.commits import Applied
from sessiond_server.store.session_reads import Freshness, MessagesPage
from tests.support.cache_truth import Truth
from tests.support.caller import PADDED, Caller, struct
from tests.support.documents import APP, SESSION, put

SCOPE = c.Scope("acme")
CALLER = Caller(SCOPE)
LIMITS = CacheLimits(ttl=2 * MAX_AGE, window=6, window_bytes=10**6, content_bytes=10**6)

LATEST = 4 * MAX_AGE
"""Seconds after which everything has arrived."""

T = TypeVar("T")


@dataclass
class Chance:
    """Decides by the seed."""

    random: Random
    latest: float = LATEST

    async def delay(self, late: float = 0.02) -> None:
        """Mostly a moment, at times a long one, with the probability `late` one of up to `latest` seconds."""
        throw = self.random.random()
        if throw < late:
            await asyncio.sleep(self.random.uniform(0.05, 1) * self.latest)
        elif throw < 0.15:
            await asyncio.sleep(self.random.uniform(0.01, 0.5))
        elif throw < 0.7:
            await asyncio.sleep(self.random.uniform(0, 0.003))

    def happens(self, probability: float) -> bool:
        return self.random.random() < probability


class SlowStore:
    """The truth, reached over a network. Commits whose connection breaks are unknown to the caller."""

    def __init__(self, truth: Truth, chance: Chance, breaks: float) -> None:
        self._truth = truth
        self._chance = chance
        self._breaks = breaks

    async def apply(self, commands: Sequence[c.Command]) -> Applied:
        await self._chance.delay()
        if self._chance.happens(self._breaks):
            raise StoreUnavailable
        applied = await self._truth.apply(commands)
        await self._chance.delay()
        if self._chance.happens(self._breaks):
            raise StoreUnavailable
        return applied

    async def get_session(self, *args: Any, **more: Any) -> Any:
        return await self._slowly(self._truth.store.get_session, *args, **more)

    async def get_sessions(self, *args: Any, **more: Any) -> Any:
        return await self._slowly(self._truth.store.get_sessions, *args, **more)

    async def list_messages(self, *args: Any, **more: Any) -> Any:
        return await self._slowly(self._truth.store.list_messages, *args, **more)

    async def _slowly(self, read: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
        await self._chance.delay()
        answer = await read(*args, **more)
        await self._chance.delay(late=0.05)
        return answer


class SlowCache(MemoryCache):
    """A connection on which commands and replies are delayed, get lost, and arrive after their caller has stopped
    waiting."""

    def __init__(self, server: MemoryServer, chance: Chance) -> None:
        super().__init__(server)
        self.cut = False
        """Nothing gets through; what is on its way may still arrive."""
        self._chance = chance
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def ready(self) -> bool:
        return not self.cut

    def get(self, key: Key, *, content: bool = False, newest: int = 0) -> "asyncio.Future[Copy | None]":
        answer: asyncio.Future[Copy | None] = self._start(self._get(self._epoch, key, content, newest))
        return answer

    def put(self, changes: Sequence[Change]) -> "asyncio.Future[Sequence[bool]]":
        answer: asyncio.Future[Sequence[bool]] = self._start(self._put(self._epoch, changes))
        return answer

    def offer(self, put: Put) -> None:
        if not self.cut:
            self.put([put])

    async def became_ready(self) -> None:
        while self.cut:  # noqa: ASYNC110 - of virtual seconds
            await asyncio.sleep(0.1)

    def _start(self, work: Any) -> Any:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _get(self, epoch: int, key: Key, content: bool, newest: int) -> Copy | None:
        await self._chance.delay(late=0)
        if self.cut:
            return None
        found = self._server.get(epoch, key, content, newest)
        believed = not self._changed() and epoch == self._epoch
        await self._chance.delay(late=0)
        return found if believed else None

    async def _put(self, epoch: int, changes: Sequence[Change]) -> Sequence[bool]:
        if self.cut and self._chance.happens(0.8):
            return [False] * len(changes)
        await self._chance.delay(late=0.05)
        results = []
        for change in changes:
            if isinstance(change, Put):
                results.append(change.as_of.epoch == epoch and self._server.put(epoch, change))
            else:
                self._server.forget(epoch, change)
                results.append(True)
        believed = not self._changed() and epoch == self._epoch
        await self._chance.delay()
        if not believed or self.cut or self._chance.happens(0.05):
            return [False] * len(changes)
        return results


@dataclass
class Process:
    """One server: its cached store, and all that it is doing."""

    store: CachedSessions
    cache: Any
    calls: set[asyncio.Task[Any]] = field(default_factory=set)

    async def run(self, work: Any) -> Any:
        task = asyncio.get_running_loop().create_task(work)
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        try:
            return await task
        except asyncio.CancelledError:
            raise Crashed from None

    async def crash(self) -> None:
        """Commands that it has sent arrive; its pending invalidations are lost."""
        for task in [*self.calls, self.store._healer]:
            if task is not None:
                task.cancel()
        for reads_in_flight in (self.store._sessions, self.store._windows, self.store._pages):
            await reads_in_flight.close()


class Crashed(Exception):
    """The process that a call was made to has ended."""


@dataclass
class Verdict:
    """What must all be 0, and how much was tried."""

    stale: int = 0
    below_min_version: int = 0
    resurrected: int = 0
    wrong: int = 0
    """Answers that the session never was."""
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        return not (self.stale or self.below_min_version or self.resurrected or self.wrong)

    def add(self, other: "Verdict") -> None:
        self.stale += other.stale
        self.below_min_version += other.below_min_version
        self.resurrected += other.resurrected
        self.wrong += other.wrong
        self.seen += other.seen


class Schedule:
    """One run. `crashes`: processes also end at any moment, which only the copies' time to live can make good."""

    EVENTS: Sequence[Sequence[str]] = (
        (), (), ("cut",), ("flush",), ("failover", "snapshot"), ("cut", "flush", "failover"),
    )  # fmt: skip
    """What happens in one run. Few kinds at a time: a new epoch hides what another safeguard would have missed."""
    WRITES: Mapping[str, float] = {
        "append": 8, "update": 2, "content": 2, "both": 2, "documents": 1, "redact": 2, "pop": 1, "delete": 1,
        "clear": 0.5,
    }  # fmt: skip
    """Kinds of writes, and how often each comes. The id of a deleted session is taken again besides."""

    def __init__(self, seed: int, *, crashes: bool = False, latest: float = LATEST) -> None:
        self.chance = Chance(Random(seed), latest)
        self.verdict = Verdict()
        self._crashes = crashes
        self._truth = Truth()
        self._sessions = [f"s{number}" for number in range(3)]
        self._acknowledged: dict[Key, int] = {}
        self._over = False
        self._numbers = iter(range(10**9))

    async def run(self) -> Verdict:
        random = self.chance.random
        self._server = MemoryServer(asyncio.get_running_loop().time, LIMITS, random)
        self._snapshot = self._server.snapshot()
        self._processes = [await self._process() for _ in range(2)]
        events = random.choice(self.EVENTS)
        events = [*events, "crash"] if self._crashes else events
        for session_id in self._sessions:
            await self._write(CALLER.create(session_id, f"create {session_id}", summary=PADDED))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._chaos(events))
            actors = [tasks.create_task(self._writer()) for _ in range(2)]
            actors += [tasks.create_task(self._reader()) for _ in range(3)]
            await asyncio.wait(actors)
            self._over = True
        if events:
            await self._happen(random.choice(events))
        await self._judge()
        return self.verdict

    async def _process(self) -> Process:
        cache = SlowCache(self._server, self.chance)
        slow: Any = SlowStore(self._truth, self.chance, breaks=0.06)
        store = CachedSessions(
            slow, slow, cache, most_dirty=self.chance.random.choice([1, 2, 10]), random=self.chance.random
        )
        return Process(await store.__aenter__(), cache)

    async def _chaos(self, events: Sequence[str]) -> None:
        while events:
            await asyncio.sleep(self.chance.random.uniform(0, 0.4))
            if self._over:
                return
            await self._happen(self.chance.random.choice(events))

    async def _happen(self, event: str) -> None:
        random, server = self.chance.random, self._server
        self.verdict.seen[event] += 1
        if event == "flush":
            server.flush()
        elif event == "snapshot":
            self._snapshot = server.snapshot()
        elif event == "failover":
            server.restart_from(self._snapshot)
        elif event == "cut":
            cache = random.choice(self._processes).cache
            cache.cut = True
            await asyncio.sleep(random.uniform(0, 1))
            cache.cut = False
        elif event == "crash" and self._crashes:
            number = random.randrange(len(self._processes))
            # Replaced first: the schedule may end while it crashes, and must not wait for a dead process to recover.
            crashed, self._processes[number] = self._processes[number], await self._process()
            await crashed.crash()

    async def _writer(self) -> None:
        random = self.chance.random
        for _ in range(random.randrange(5, 15)):
            await self.chance.delay()
            session_id, request_id = random.choice(self._sessions), f"r{next(self._numbers)}"
            key = ("acme", session_id)
            before: list[c.Command] = []
            if key in self._truth.deleted and random.random() < 0.5:
                kind = "reuse"
            else:
                kind = random.choices([*self.WRITES], [*self.WRITES.values()])[0]
            if kind == "append":
                command = CALLER.append(
                    session_id, *[f"text {request_id}"] * random.randrange(1, 4), request_id=request_id
                )
            elif kind == "update":
                command = CALLER.update(session_id, request_id, name=f"name {request_id}")
            elif kind == "content":
                full = random.random() < 0.5
                command = CALLER.set_keys(session_id, request_id, full=full, last=request_id)
            elif kind == "redact":
                messages = self._truth.messages.get((key, self._truth.versions.get(key, 0)))
                if not messages:
                    continue
                command = CALLER.redact(session_id, _message_id(random.choice(messages)), request_id=request_id)
            elif kind == "pop":
                command = CALLER.pop(session_id, random.choice([1, 2]), request_id)
            elif kind == "documents":
                writes = [put((SESSION, session_id), "last", f'"{request_id}"'), put(APP, "last", f'"{request_id}"')]
                command = CALLER.append_with(session_id, *writes, request_id=request_id)
            elif kind == "both":
                keys = ["state.last"] if random.random() < 0.3 else []
                state = struct(**{f"k{random.randrange(3)}": request_id})
                command = CALLER.update_and_append(session_id, request_id=request_id, remove_keys=keys, state=state)
            elif kind in ("reuse", "clear"):
                if kind == "clear":  # in one batch
                    before.append(CALLER.delete(session_id, f"{request_id}-gone"))
                command = CALLER.create(session_id, request_id, reuse=True, summary=PADDED + request_id)
            else:
                command = CALLER.delete(session_id, request_id)
            self.verdict.seen[kind] += 1
            await self._write(*before, command)

    async def _write(self, *commands: c.Command) -> None:
        """Until it is acknowledged or refused, on whatever process."""
        for _ in range(6):
            process = self.chance.random.choice(self._processes)
            try:
                applied = await process.run(process.store.apply(commands))
            except (StoreUnavailable, Crashed):
                await self.chance.delay()
                continue
            for command, result in zip(commands, applied.results, strict=True):
                if not isinstance(result, SessiondError):
                    self._acknowledged[command.key] = max(_version(result), self._acknowledged.get(command.key, 0))
            return

    async def _reader(self) -> None:
        random = self.chance.random
        for _ in range(random.randrange(10, 25)):
            await self.chance.delay()
            session_id = random.choice(self._sessions)
            acknowledged = self._acknowledged.get(("acme", session_id), 0)
            kind = random.choice(["cached", "min_version", "min_version", "strong"])
            if kind == "strong":
                acknowledged, freshness = self._truth.versions.get(("acme", session_id), 0), Freshness(strong=True)
            else:
                freshness = Freshness(min_version=0 if kind == "cached" else acknowledged)
            self.verdict.seen[kind] += 1
            at_least = 0 if kind == "cached" else acknowledged
            with suppress(Crashed):
                await self._read(random.choice(self._processes), session_id, freshness, at_least)

    async def _read(self, process: Process, session_id: str, freshness: Freshness, at_least: int) -> None:
        """Reads in one of the ways there are, and judges the answer."""
        random, key = self.chance.random, ("acme", session_id)
        how = random.choice(["core", "full", "batch", "newest", "older", "upwards"])
        try:
            if how in ("core", "full", "batch"):
                content = how == "full"
                if how == "batch":
                    (session,) = await process.run(
                        process.store.get_sessions(SCOPE, [session_id], content=content, freshness=freshness)
                    )
                    if session is None:
                        raise SessionNotFound(session_id)
                else:
                    session = await process.run(
                        process.store.get_session(SCOPE, session_id, content=content, freshness=freshness)
                    )
                version = session.version
                right = self._truth.is_session(key, version, session.core, session.content if content else None)
            else:
                after = random.randrange(8) if how == "upwards" or random.random() < 0.3 else 0
                before = random.randrange(1, 20) if how == "older" else 0
                wish: dict[str, Any] = {
                    "after_seq": after, "before_seq": before, "descending": how != "upwards",
                    "limit": random.randrange(1, 9),
                }  # fmt: skip
                page: MessagesPage = await process.run(
                    process.store.list_messages(SCOPE, session_id, **wish, freshness=freshness)
                )
                version = page.version
                right = self._truth.is_page(key, page, after, before, wish["descending"], wish["limit"])
        except SessionNotFound:
            self.verdict.wrong += not self._truth.may_be_gone(key, at_least)
            return
        except StoreUnavailable:
            return
        self.verdict.wrong += not right
        if version < at_least:
            self.verdict.below_min_version += 1

    async def _judge(self) -> None:
        """Once everything has arrived and healed: what does the cache hold?"""
        if not self._crashes:
            # Nothing is made good by vanishing: what is stale stays so.
            self._server.limits = replace(LIMITS, ttl=10**6)
            for place, (until, held) in self._server.entries.items():
                if isinstance(held, Copy) and until > self._server.time():
                    self._server.entries[place] = (10**6, held)
        for process in self._processes:
            process.cache.cut = False
        while any(process.store.state().dirty for process in self._processes):  # noqa: ASYNC110 - of virtual seconds
            await asyncio.sleep(1)
        await asyncio.sleep(LATEST + LIMITS.ttl)
        server = self._server
        for (epoch, key), (until, held) in server.entries.items():
            if server.epoch == (server.run_id, epoch) and until > server.time() and isinstance(held, Copy):
                self._judge_copy(key, held.version)

    def _judge_copy(self, key: Key, version: int) -> None:
        """A copy that the cache would serve."""
        deleted = key in self._truth.deleted
        self.verdict.resurrected += deleted
        self.verdict.stale += not deleted and version != self._truth.versions.get(key, 0)
        self.verdict.seen["reused"] += self._truth.bases.get((key, version), 0) > 0


def _message_id(message: bytes) -> str:
    return Message.FromString(message).message_id


def _version(outcome: c.Outcome) -> int:
    if isinstance(outcome, c.SessionWritten):
        return outcome.session.version
    return 0 if isinstance(outcome, c.NothingToDo | c.LeaseExtended) else outcome.version
