"""Connections cut and servers killed under those who read along by HTTP, with published front-end packages
(docs/reliability.md, KIND=door).

readers --- balancer, which cuts --- two servers' HTTP ports --- one Postgres
"""

import asyncio
import random
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sessiond
from sessiond.v1.event_pb2 import Event
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.postgres.store import PostgresStore
from tests.faults.balancer import Balancer
from tests.faults.door_judgement import Logged, Verdict, judge_runs, judge_session
from tests.faults.door_readers import OF_RUNS, OF_SESSIONS, Reader
from tests.faults.door_writers import Writers
from tests.support import node
from tests.support.ports import free_port
from tests.support.replica import Replica

TENANT: Final = "default"
SERVERS: Final = 2
AGE: Final = 20.0
"""Seconds after which a stream is sent away, as a reader that resumes must bear too."""
STARTING: Final = 120.0
"""Seconds that a server may take to be up: the machine may be busy."""
STANDSTILL: Final = 60.0
"""Seconds without an acknowledged write after which the campaign gives up."""
PATIENCE: Final = 60.0
"""Seconds that readers have in the end to come to their end."""


@dataclass(frozen=True, slots=True)
class Report:
    cuts: int
    """Moments at which connections were cut."""
    kills: int
    broken: Mapping[str, int]
    """Kind of reader -> how many of its streams broke."""
    sessions: int
    runs: int
    acked: int
    retries: int
    delivered: int
    """Events, to the readers of sessions."""
    pieces: int
    """Of drafts, to them."""
    verdict: Verdict
    seconds: float

    @property
    def sound(self) -> bool:
        worked = self.runs > 0 and self.delivered > 0 and self.pieces > 0 and all(self.broken.values())
        return self.verdict.sound and worked

    def details(self) -> Sequence[str]:
        broken = ", ".join(f"{kind} {count}" for kind, count in self.broken.items())
        return [f"streams that broke: {broken}", *self.verdict.complaints[:50]]

    def line(self) -> str:
        v = self.verdict
        return (
            f"cuts={self.cuts} kills={self.kills} broken={sum(self.broken.values())} sessions={self.sessions} "
            f"runs={self.runs} acked={self.acked} retries={self.retries} delivered={self.delivered} "
            f"pieces={self.pieces} lost={v.lost} doubled={v.doubled} reordered={v.reordered} "
            f"text_wrong={v.text_wrong} draft_wrong={v.draft_wrong} runs_lost={v.runs_lost} "
            f"runs_wrong={v.runs_wrong} gave_up={v.gave_up} seconds={self.seconds:.1f}"
        )


async def campaign(
    data: Path, log: Path, *, faults: int, seed: int, progress: Callable[[str], None], sessions: int = 6
) -> Report:
    """Cuts connections `faults` times, at moments that `seed` chooses, and at each tenth of them, once at least, kills
    a server, with a bundled Postgres of its own in the folder `data`. Needs Node (`node.missing`). Main thread only."""
    chance, began = random.Random(seed), time.monotonic()
    killed_at = range(min(5, faults), faults + 1, 10)
    await asyncio.to_thread(node.install)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(EmbeddedServers(data, cache=False))
        site = await _Site.opened(stack, servers.postgres_dsn, log)
        client = await stack.enter_async_context(
            sessiond.Client(f"ipv4:{','.join(site.addresses)}", timeout=5.0, wait_for_ready=True)
        )
        ids = [(await client.create_session(active=True, timeout=STARTING)).session_id for _ in range(sessions)]
        await site.ready()
        readers = await _readers(stack, f"http://127.0.0.1:{site.balancer.port}", ids)
        progress(f"{len(ids)} sessions, read by {', '.join(readers)}")

        def begun(session_id: str, run_id: str) -> None:
            for kind in OF_RUNS:
                readers[kind].show(session_id, run_id)

        writers = Writers(client, ids, seed + 1, begun)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(writers.run())
            for fault in range(1, faults + 1):
                async with asyncio.timeout(STANDSTILL):
                    await writers.acknowledged(chance.randrange(4, 40))
                    if fault in killed_at:
                        await site.kill(chance.randrange(SERVERS))
                    # The first one is when all kinds read something, so that each of them is cut.
                    hit = await site.cut(chance, 3 * len(ids) + 1 if fault == 1 else 1, everything=fault == 1)
                progress(f"{fault} of {faults} cuts, of {hit} connections; {len(writers.told)} runs have ended")
            async with asyncio.timeout(STANDSTILL):
                await writers.acknowledged(20)
            writers.stop()
        progress("the writers have stopped; waiting for the readers to come to the end")
        verdict = Verdict()
        await _finish(readers, verdict)
        async with PostgresStore(servers.postgres_dsn) as store:
            for session_id in ids:
                logged = await _log(store, session_id)
                for kind in OF_SESSIONS:
                    lines = [line for line in readers[kind].lines if line["session"] == session_id]
                    judge_session(verdict, f"{kind} of {session_id}", logged, lines)
        for kind in OF_RUNS:
            judge_runs(verdict, kind, writers.told, readers[kind].lines)
    return Report(
        faults,
        len(killed_at),
        {kind: reader.broken for kind, reader in readers.items()},
        len(ids),
        len(writers.told),
        writers.acked,
        writers.retries,
        sum("event_id" in line for kind in OF_SESSIONS for line in readers[kind].lines),
        sum("piece" in line for kind in OF_SESSIONS for line in readers[kind].lines),
        verdict,
        time.monotonic() - began,
    )


class _Site:
    """Two servers with HTTP, and the balancer before them."""

    def __init__(self, replicas: Sequence[Replica], ports: Sequence[int], balancer: Balancer) -> None:
        self.balancer = balancer
        self.addresses = [replica.address for replica in replicas]
        self._replicas = replicas
        self._ports = ports

    @classmethod
    async def opened(cls, stack: AsyncExitStack, dsn: str, log: Path) -> "_Site":
        """Ends with the stack."""
        ports = [free_port() for _ in range(SERVERS)]
        replicas = []
        for port in ports:
            settings = {"SESSIOND_HTTP_LISTEN": f"127.0.0.1:{port}", "SESSIOND_WATCH_AGE": f"{AGE:g}s"}
            replicas.append(Replica(dsn, log, settings))
            await replicas[-1].start()
            stack.push_async_callback(replicas[-1].stop)
        return cls(replicas, ports, await stack.enter_async_context(Balancer(ports)))

    async def ready(self) -> None:
        """Returns once all of them serve HTTP."""
        async with asyncio.timeout(STARTING):
            for port in self._ports:
                while not await asyncio.to_thread(_serves, port):  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.1)

    async def cut(self, chance: random.Random, least: int, *, everything: bool) -> int:
        """As soon as there are so many connections; how many were cut."""
        while self.balancer.connections < least:  # noqa: ASYNC110  the clients' processes
            await asyncio.sleep(0.01)
        return self.balancer.cut(chance, everything=everything)

    async def kill(self, number: int) -> None:
        """The server dies and starts again. Not before all are up: the other one must be there meanwhile."""
        await self.ready()
        await self._replicas[number].kill()
        await self._replicas[number].start()


def _serves(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def _readers(stack: AsyncExitStack, base: str, sessions: Sequence[str]) -> dict[str, Reader]:
    readers = {}
    for kind, program in (OF_SESSIONS | OF_RUNS).items():
        reader = Reader(program, base, *(sessions if kind in OF_SESSIONS else ()))
        readers[kind] = await stack.enter_async_context(reader)
    async with asyncio.timeout(STARTING):
        for reader in readers.values():
            await reader.ready.wait()
    return readers


async def _finish(readers: Mapping[str, Reader], verdict: Verdict) -> None:
    """Those that are not done in time are judged by what they have."""
    finishing = {kind: asyncio.create_task(reader.finish()) for kind, reader in readers.items()}
    await asyncio.wait(finishing.values(), timeout=PATIENCE)
    for kind, task in finishing.items():
        if not task.done():
            task.cancel()
            verdict.complaints.append(f"{kind}: did not come to an end")
        elif wrong := task.result():
            verdict.complaints.append(f"{kind}: {wrong}")
    await asyncio.gather(*finishing.values(), return_exceptions=True)


async def _log(store: PostgresStore, session_id: str) -> Sequence[Logged]:
    events: list[Event] = []
    while page := (await store.read_log((TENANT, session_id), after_seq=len(events), limit=1000)).entries:
        events += [Event.FromString(entry.data) for entry in page]
    return [Logged(event.event_id, event.message.message_id, sessiond.text_of(event.message)) for event in events]
