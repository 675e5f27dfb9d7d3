"""Replicas killed with SIGKILL and Postgres stopped at once, under runs and tool calls (docs/reliability.md,
KIND=work)."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import sessiond
from sessiond.v1.event_pb2 import Event, EventType
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.embedded.postgres import read_postmaster
from sessiond_server.postgres.store import PostgresStore
from tests.faults.agents import MARGIN, TTL, Agents
from tests.faults.work_judgement import Answers, Verdict, judge
from tests.support.replica import Replica

TENANT = "default"
REPLICAS = 2
EXPIRED = EventType.EVENT_TYPE_TOOL_CALL_EXPIRED
LEASE = 5.0
"""Seconds: the shortest that the service takes."""
SWEEP = 0.5
"""Seconds between two searches of each replica for leases that are over."""
NOTICED = 8.0
"""Seconds after its end within which a lease has been noticed, whatever is hurt: two replicas and Postgres have started
again by then."""


@dataclass(frozen=True, slots=True)
class Report:
    faults: int
    runs: int
    acked: int
    refused: int
    retries: int
    expired: int
    """Tool calls whose approval did not come in time."""
    verdict: Verdict
    complaints: Sequence[str]
    seconds: float

    @property
    def sound(self) -> bool:
        worked = self.runs > 0 and self.acked > 0 and self.refused > 0 and self.expired > 0
        return self.verdict.sound and worked and not self.complaints

    def line(self) -> str:
        v = self.verdict
        return (
            f"faults={self.faults} runs={self.runs} acked={self.acked} lost={v.lost} gaps={v.gaps} "
            f"alive_past_lease={v.alive_past_lease} dangling={v.dangling} fence_breaches={v.fence_breaches} "
            f"out_of_turn={v.queue} approvals_wrong={v.approvals} refused={self.refused} retries={self.retries} "
            f"expired={self.expired} seconds={self.seconds:.1f}"
        )


async def campaign(
    data: Path,
    log: Path,
    *,
    faults: int,
    seed: int,
    progress: Callable[[str], None],
    sessions: int = 8,
    each: int = 3,
    postgres: bool = True,
) -> Report:
    """Kills a replica `faults` times, at moments that `seed` chooses, and at each tenth of them, once at least, stops
    Postgres (`postgres`), a bundled one of its own in the folder `data`. Main thread only."""
    chance, began = random.Random(seed), time.monotonic()
    stops = range(min(5, faults), faults + 1, 10)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(EmbeddedServers(data, cache=False))
        running = asyncio.create_task(servers.keep_running())
        stack.push_async_callback(_ended, running)
        replicas = [
            Replica(servers.postgres_dsn, log, {"SESSIOND_SWEEP_INTERVAL": f"{SWEEP}s"}) for _ in range(REPLICAS)
        ]
        clients = []
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.stop)
            client = sessiond.Client(replica.address, timeout=5.0, wait_for_ready=True)
            clients.append(await stack.enter_async_context(client))
        ids = [(await clients[0].create_session(active=True, timeout=60.0)).session_id for _ in range(sessions)]
        agents = Agents(clients, ids, each=each, lease=LEASE, seed=seed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(agents.run())
            for fault in range(1, faults + 1):
                await agents.acknowledged(chance.randrange(20, 200))
                if postgres and fault in stops:
                    stop_postgres(data)
                replica = chance.choice(replicas)
                await replica.kill()
                await replica.start()
                progress(f"{fault} of {faults} faults, {agents.account.runs} runs, {agents.account.count} writes")
            await agents.acknowledged(50)
            agents.stop()
            progress("the agents have stopped; waiting for the leases of those who fell silent")
        await _settled(clients[0], ids)
        progress("comparing every log with the acknowledgements")
        complaints = list(agents.account.breaches)
        verdict, expired = Verdict(fence_breaches=len(agents.account.breaches)), 0
        async with PostgresStore(servers.postgres_dsn) as store:
            for session_id in ids:
                answers = await _answers(clients[0], session_id)
                log_of_it = await _log(store, session_id)
                expired += sum(event.type == EXPIRED for event in log_of_it)
                verdict += judge(
                    agents.account, log_of_it, answers,
                    sweep_within_us=int((SWEEP + NOTICED) * 1_000_000), complain=complaints.append,
                )  # fmt: skip
        return Report(
            faults + (len(stops) if postgres else 0),
            agents.account.runs,
            agents.account.count,
            agents.account.refused,
            agents.account.retries,
            expired,
            verdict,
            complaints,
            time.monotonic() - began,
        )


def stop_postgres(data: Path) -> None:
    left = read_postmaster(data / "postgres")
    if left is not None:
        os.kill(left.pid, signal.SIGQUIT)  # what an immediate stop sends


async def _settled(client: sessiond.Client, sessions: Sequence[str]) -> None:
    """Returns once no session has a run that is live or waits, or an approval whose time is over, or they should have
    ended long ago."""
    for session_id in sessions:
        session = await client.get_session(session_id, consistency="strong")
        until = time.monotonic() + (1 + session.queued_run_count) * (LEASE + SWEEP + NOTICED)
        while session.live_run_id and time.monotonic() < until:
            await asyncio.sleep(0.1)
            session = await client.get_session(session_id, consistency="strong")
        until = time.monotonic() + TTL + SWEEP + NOTICED
        expiring = await _expiring(client, session_id)
        while expiring and time.monotonic() < until:
            await asyncio.sleep(0.1)
            expiring = await _expiring(client, session_id)


async def _expiring(client: sessiond.Client, session_id: str) -> bool:
    """Whether an approval will not come in time, since the agents and the person have stopped."""
    calls = client.list_tool_calls(session_id, statuses=["pending"], page_size=100)
    return any([call.HasField("expire_time") async for call in calls])


async def _answers(client: sessiond.Client, session_id: str) -> Answers:
    asked_us = int((time.time() - MARGIN) * 1_000_000)
    return Answers(
        await client.get_session(session_id, consistency="strong"),
        [run async for run in client.list_runs(session_id, page_size=100)],
        [call async for call in client.list_tool_calls(session_id, page_size=100)],
        await client.get_session_metrics(session_id),
        asked_us,
    )


async def _log(store: PostgresStore, session_id: str) -> Sequence[Event]:
    events: list[Event] = []
    while page := (await store.read_log((TENANT, session_id), after_seq=len(events), limit=1000)).entries:
        events += [Event.FromString(entry.data) for entry in page]
    return events


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
