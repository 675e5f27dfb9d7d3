"""The server killed with SIGKILL, or Postgres stopped at once, again and again, under appends whose callers retry
(G1, G2, G4)."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sessiond
from sessiond.pipes import PipeUse
from sessiond.v1.event_pb2 import Event
from sessiond_server.postgres.store import PostgresStore
from tests.faults.ledger import Verdict, judge
from tests.faults.load import Load
from tests.support.piped import calls_through_pipes
from tests.support.replica import Replica

TENANT = "default"
SESSIONS = 20
WORKERS = 64


@dataclass(frozen=True, slots=True)
class Report:
    faults: int
    acked: int
    retries: int
    verdict: Verdict
    seconds: float

    @property
    def sound(self) -> bool:
        return self.verdict.sound and self.acked > 0

    def line(self) -> str:
        v = self.verdict
        return (
            f"faults={self.faults} acked={self.acked} lost={v.lost} doubled={v.doubled} gaps={v.gaps} "
            f"invented={v.invented} retries={self.retries} seconds={self.seconds:.1f}"
        )


async def kill_server(replica: Replica) -> None:
    await replica.kill()
    await replica.start()


async def kill_worker_or_all(replica: Replica, chance: random.Random) -> None:
    """Every third time all, else one of the workers, for which another one is started."""
    if not chance.randrange(3) or not replica.kill_a_worker(chance):
        await kill_server(replica)


async def campaign(
    postgres_dsn: str,
    log: Path,
    *,
    faults: int,
    seed: int,
    rate: float,
    progress: Callable[[str], None],
    hurt: Callable[[Replica], Awaitable[None]] = kill_server,
    pipe: PipeUse = "off",
    workers: int = 1,
) -> Report:
    """Does `hurt` `faults` times, at moments that `seed` chooses, while `rate` appends a second go on."""
    chance, began = random.Random(seed), time.monotonic()
    replica = Replica(postgres_dsn, log, workers=workers)
    if workers > 1:
        hurt = partial(kill_worker_or_all, chance=random.Random(seed + 1))
    await replica.start()
    try:
        async with sessiond.Client(replica.address, timeout=5.0, wait_for_ready=True, pipe=pipe) as client:
            sessions = await new_sessions(client)
            load = Load(client, sessions, rate=rate, workers=WORKERS)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run())
                for fault in range(1, faults + 1):
                    await load.acknowledged(chance.randrange(1, int(rate)))
                    await asyncio.sleep(chance.random() * 0.01)
                    await hurt(replica)
                    progress(f"{fault} of {faults} faults, {load.ledger.count} appends acknowledged")
                await load.acknowledged(1)
                load.stop()
            if pipe == "on":
                progress(f"{calls_through_pipes(client)} calls were answered through pipes")
                assert calls_through_pipes(client)
            progress("comparing every log with the acknowledgements")
            verdict = await judged(client, postgres_dsn, load, sessions)
    finally:
        await replica.stop()
    return Report(faults, load.ledger.count, load.retries, verdict, time.monotonic() - began)


async def new_sessions(client: sessiond.Client) -> list[str]:
    """Their ids."""
    made = [await client.create_session(active=True, timeout=60.0) for _ in range(SESSIONS)]
    return [session.session_id for session in made]


async def judged(client: sessiond.Client, postgres_dsn: str, load: Load, sessions: list[str]) -> Verdict:
    """All logs, against the acknowledgements."""
    total = Verdict()
    async with PostgresStore(postgres_dsn) as store:
        for session_id in sessions:
            session = await client.get_session(session_id)
            messages = [message async for message in client.list_messages(session_id, page_size=1000)]
            events: list[Event] = []
            while page := (await store.read_log((TENANT, session_id), after_seq=len(events), limit=1000)).entries:
                events += [Event.FromString(entry.data) for entry in page]
            total += judge(load.ledger, session_id, session.version, messages, events)
    return total
