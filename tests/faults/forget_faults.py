"""Replicas killed with SIGKILL and Postgres stopped at once, while contents are redacted, deleted, erased and retired:
afterwards nothing of it is anywhere, and what a legal hold keeps is there (docs/reliability.md, KIND=forget)."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

import sessiond
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.postgres import read_postmaster
from tests.support import markers
from tests.support.replica import Replica
from tests.support.stored_files import reaped

REPLICAS = 2
SETTINGS = {"SESSIOND_SWEEP_INTERVAL": "100ms", "SESSIOND_ENDED_RETENTION": "1s", "SESSIOND_SEARCH": "true"}
FAILPOINTS = ("", "erasing=exit:0.3", "retiring=exit:0.2", "after_commit=exit:0.01")
"""With one of these a replica starts again: it dies by itself while it erases, retires or announces."""
FATES = ("redact", "delete-messages", "delete-session", "retire", "erase", "hold")
SESSIONS_OF_ERASED = 3
PATIENCE = 120.0
"""Seconds in which what is under way must end, once nothing is hurt any more."""

T = TypeVar("T")


@dataclass(slots=True)
class Report:
    faults: int
    done: Counter[str] = field(default_factory=Counter)
    """Acknowledged, by fate."""
    died: int = 0
    """Replicas that ended by themselves, at failpoints."""
    leaked: int = 0
    """Contents that are still somewhere."""
    lost: int = 0
    """Contents that must be there and are not: other messages of the same sessions, and what is held."""
    unrefused: int = 0
    """Removals of what is held that were accepted."""
    unfinished: int = 0
    """Erasures that have not ended, and ended sessions that are still there."""
    miscounted: int = 0
    """Reports that count other sessions than there were, or that the service does not take for its own."""
    places: Counter[str] = field(default_factory=Counter)
    """Where `leaked` were found."""
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        wrong = self.leaked + self.lost + self.unrefused + self.unfinished + self.miscounted
        return wrong == 0 and all(self.done[fate] for fate in FATES)

    def line(self) -> str:
        done = " ".join(f"{fate}={self.done[fate]}" for fate in FATES)
        return (
            f"faults={self.faults} died={self.died} {done} leaked={self.leaked} lost={self.lost} "
            f"unrefused={self.unrefused} unfinished={self.unfinished} miscounted={self.miscounted} "
            f"seconds={self.seconds:.1f}" + "".join(f" {place}={count}" for place, count in self.places.items())
        )


@dataclass(slots=True)
class _Ledger:
    gone: set[str] = field(default_factory=set)
    """Markers that must be nowhere."""
    kept: dict[str, str] = field(default_factory=dict)
    """Marker -> session of which a message has it."""
    erased: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)


class _Callers:
    """Makes each call until it is answered, with whichever replica answers."""

    def __init__(self, clients: list[sessiond.Client], seed: int, report: Report) -> None:
        self.clients = clients
        self.ledger = _Ledger()
        self.report = report
        self.stopping = False
        self._seed = seed
        self._number = 0
        """Of the client that answered last, or may answer."""
        self._changed = asyncio.Event()

    async def call(self, make: Callable[[sessiond.Client], Awaitable[T]]) -> T:
        while True:
            number = self._number
            try:
                return await make(self.clients[number % len(self.clients)])
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                self._number = number + 1
                await asyncio.sleep(0.02)

    async def acknowledged(self, more: int) -> None:
        wanted = self.report.done.total() + more
        while self.report.done.total() < wanted:
            self._changed.clear()
            await self._changed.wait()

    async def run(self, worker: int) -> None:
        chance, turn = random.Random(f"{self._seed} {worker}"), 0
        while not self.stopping:
            fate = FATES[(worker + turn) % len(FATES)]
            turn += 1
            await self._live(fate, f"{fate}-{worker}-{turn}", chance)
            self.report.done[fate] += 1
            self._changed.set()

    async def _live(self, fate: str, name: str, chance: random.Random) -> None:
        """Makes what is to be forgotten, and has it forgotten."""
        secret, other = markers.marker(chance), markers.marker(chance)
        if fate == "erase":
            await self._erase(name, secret)
            return
        within: Any = {} if fate in ("redact", "delete-messages") else _marked(secret)
        await self.call(lambda client: client.create_session(name, active=True, request_id="c", user_id=name, **within))
        messages = [sessiond.user(secret), sessiond.user(other)]
        appended = await self.call(lambda client: client.append_messages(name, messages, request_id="a"))
        ids = [appended.message_ids[0]]
        if fate == "redact":
            await self.call(lambda client: client.redact_message(name, ids[0], request_id="r"))
        elif fate == "delete-messages":
            await self.call(lambda client: client.delete_messages(name, message_ids=ids, request_id="d"))
        elif fate == "hold":
            await self._hold(name, ids[0])
            self.ledger.kept[secret] = name
        else:
            await self.call(lambda client: client.upload(name, secret.encode() * 20, attachment_id="f", name="f.txt"))
            await self.call(lambda client: client.put_document("d", secret, session_id=name, request_id="p"))
        if fate == "delete-session":
            await self.call(lambda client: client.delete_session(name, request_id="x"))
        elif fate == "retire":
            await self.call(lambda client: client.end_session(name, request_id="e"))
            self.ledger.retired.append(name)
        if fate != "hold":
            self.ledger.gone.add(secret)
        if fate in ("redact", "delete-messages", "hold"):
            self.ledger.kept[other] = name
        else:
            self.ledger.gone.add(other)

    async def _hold(self, name: str, message_id: str) -> None:
        by_user = name.endswith("1")
        of: Any = {"user_id": name} if by_user else {"session_id": name}
        await self.call(lambda client: client.place_hold(reason="campaign", request_id=f"h-{name}", **of))
        removals: list[Callable[[sessiond.Client], Awaitable[object]]] = [
            lambda client: client.delete_session(name),
            lambda client: client.redact_message(name, message_id),
            lambda client: client.delete_messages(name, last_n=1),
        ]
        if by_user:
            removals.append(lambda client: client.erase_user(name))
        else:
            # It removes all but the session that is held, and then waits.
            await self.call(lambda client: client.erase_user(name, request_id="w"))
        for removal in removals:
            try:
                await self.call(removal)
                self.report.unrefused += 1
            except sessiond.UnderLegalHold:
                pass
        await self.call(lambda client: client.end_session(name, request_id="e"))

    async def _erase(self, name: str, secret: str) -> None:
        for number in range(SESSIONS_OF_ERASED - 1):
            session = f"{name}-{number}"
            await self.call(
                lambda client, session=session: client.create_session(  # type: ignore[misc]
                    session, active=True, request_id="c", user_id=name, **_marked(secret)
                )
            )
            await self.call(
                lambda client, session=session: client.append_messages(  # type: ignore[misc]
                    session, [sessiond.user(secret)], request_id="a"
                )
            )
            await self.call(
                lambda client, session=session: client.upload(  # type: ignore[misc]
                    session, secret.encode() * 20, attachment_id="f", name="f.txt"
                )
            )
        await self.call(
            lambda client: client.fork_session(f"{name}-0", fork_session_id=f"{name}-fork", name=secret, request_id="f")
        )
        await self.call(lambda client: client.put_document(secret, secret, user_id=name, request_id=f"p-{name}"))
        await self.call(lambda client: client.put_document(secret, secret, session_id=f"{name}-1", request_id="q"))
        await self.call(lambda client: client.erase_user(name, request_id="x"))
        self.ledger.erased.append(name)
        self.ledger.gone.add(secret)


def _marked(secret: str) -> Any:
    return {"name": secret, "summary": secret, "metadata": {"k": secret}, "labels": {"k": secret}}


async def campaign(
    data: Path,
    log: Path,
    *,
    faults: int,
    seed: int,
    progress: Callable[[str], None],
    workers: int = 6,
) -> Report:
    """Kills a replica `faults` times, at moments that `seed` chooses, and at each tenth of them, once at least, stops
    Postgres, a bundled one of its own in the folder `data`. Main thread only."""
    chance, began, report = random.Random(seed), time.monotonic(), Report(faults)
    stops = range(min(5, faults), faults + 1, 10)
    blobs = data.parent / "blobs"
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(EmbeddedServers(data))
        keeping = asyncio.create_task(servers.keep_running())
        stack.push_async_callback(_ended, keeping)
        settings = {**SETTINGS, "SESSIOND_REDIS_URL": servers.redis_url, "SESSIOND_BLOB_STORE": blobs.as_uri()}
        replicas = [Replica(servers.postgres_dsn, log, settings) for _ in range(REPLICAS)]
        clients = []
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.stop)
            client = sessiond.Client(replica.address, timeout=5.0)
            clients.append(await stack.enter_async_context(client))
        callers = _Callers(clients, seed, report)
        async with asyncio.TaskGroup() as tasks:
            for worker in range(workers):
                tasks.create_task(callers.run(worker))
            await callers.acknowledged(workers)
            for fault in range(1, faults + 1):
                waiting = asyncio.create_task(callers.acknowledged(chance.randrange(1, 2 * workers)))
                while not waiting.done():
                    await asyncio.wait([waiting], timeout=1)
                    await _started(replicas, report)  # or both may be away, and nothing is acknowledged
                if fault in stops:
                    _stop_postgres(data)
                replica = chance.choice(replicas)
                await replica.kill()
                await replica.start({"SESSIOND_FAILPOINTS": chance.choice(FAILPOINTS)})
                progress(f"{fault} of {faults} faults, {report.done.total()} contents forgotten or held")
            for replica in replicas:
                await replica.kill()
                await replica.start()
            await callers.acknowledged(workers)
            callers.stopping = True
        progress("waiting for erasures and retention")
        await _judge(callers, servers.postgres_dsn)
        report.faults += len(stops)
        for replica in replicas:
            await replica.stop()
        progress("looking into every place")
        await reaped(servers.postgres_dsn, blobs)
        await _look(callers, servers, data, blobs, log)
    report.seconds = time.monotonic() - began
    return report


async def _started(replicas: Sequence[Replica], report: Report) -> None:
    """Starts those that have ended by themselves."""
    for replica in replicas:
        if replica.ended:
            report.died += 1
            await replica.start()


async def _judge(callers: _Callers, postgres_dsn: str) -> None:
    ledger, report = callers.ledger, callers.report
    connection = await asyncpg.connect(postgres_dsn)
    try:
        # The minute that claims of killed replicas last is over at once.
        await connection.execute("update erasures set lease_expire_time = now() where end_time is null")
    finally:
        await connection.close()
    until = time.monotonic() + PATIENCE

    for user in ledger.erased:
        erasure = await callers.call(lambda client, user=user: client.get_erasure(user))  # type: ignore[misc]
        while erasure.state != sessiond.ErasureState.ERASURE_STATE_DONE and time.monotonic() < until:
            await asyncio.sleep(0.1)
            erasure = await callers.call(lambda client, user=user: client.get_erasure(user))  # type: ignore[misc]
        report.unfinished += erasure.state != sessiond.ErasureState.ERASURE_STATE_DONE
        valid = await callers.call(lambda client, made=erasure.report: client.verify_erasure_report(made))  # type: ignore[misc]
        report.miscounted += erasure.session_count != SESSIONS_OF_ERASED or not valid
    for name in ledger.retired:
        there = await _is_there(callers, name)
        while there and time.monotonic() < until:
            await asyncio.sleep(0.1)
            there = await _is_there(callers, name)
        report.unfinished += there
    for secret, name in ledger.kept.items():
        try:
            page = await callers.call(lambda client, name=name: client.list_messages(name).page())  # type: ignore[misc]
            report.lost += not any(secret == sessiond.text_of(message) for message in page.messages)
        except sessiond.SessionNotFound:
            report.lost += 1


async def _is_there(callers: _Callers, name: str) -> bool:
    try:
        await callers.call(lambda client: client.get_session(name, consistency="strong"))
    except sessiond.SessionNotFound:
        return False
    return True


async def _look(callers: _Callers, servers: EmbeddedServers, data: Path, blobs: Path, log: Path) -> None:
    """Looks for what must be gone, and makes sure by what is kept that it would be seen."""
    ledger, report = callers.ledger, callers.report
    await markers.rewritten(servers.postgres_dsn)
    found = {
        "rows": await markers.in_rows(servers.postgres_dsn),
        # docs/forgetting.md says what the write-ahead log keeps, and until when.
        "files": await markers.in_files(data, ["pg_wal"]),
        "redis": await markers.in_redis(servers.redis_url),
        "blobs": await markers.in_files(blobs),
        "log": markers.found_in(await asyncio.to_thread(log.read_bytes)),
    }
    for place, there in found.items():
        if leaked := len(there & ledger.gone):
            report.places[place] = leaked
    report.leaked = len(set[str]().union(*found.values()) & ledger.gone)
    for place in ("rows", "files"):
        report.lost += len(ledger.kept.keys() - found[place])


def _stop_postgres(data: Path) -> None:
    left = read_postmaster(data / "postgres")
    if left is not None:
        os.kill(left.pid, signal.SIGQUIT)  # what an immediate stop sends


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
