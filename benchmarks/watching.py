"""The rows of the event stream: the throughput and the latency of one process, and the cost of idle watchers.

Watchers and writers are one program in Go on the machine of the server and the database, so that all times are of one
clock. An event's time is its `create_time`: read by the database after the session was locked and before the commit, so
that a latency holds the whole commit, but not the wait of the write for its turn.
"""

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from benchmarks.load import CALL_MARK, TIME_MARK, Load, Pressure, Script, Step, plan_of, steps_of
from benchmarks.processes import Descendants, resident_bytes
from benchmarks.site import Site, message, serving
from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.message_service_pb2 import AppendMessagesRequest

WATCHERS_OF_ONE: Final = 100
WRITERS_OF_ONE: Final = 4
EVENTS_OF_A_WRITE: Final = 10
"""watch_deliveries: subscribers of one session, and the closed loop that appends to it."""
SESSIONS: Final = 20
WATCHERS: Final = 60
RATE: Final = 500.0
"""watch_latency_p99 and watch_stalled: appends of one message per second, over all sessions."""
HISTORY: Final = 8192
"""Messages that a stalled watcher begins with: more than the network holds for it, so that it stalls at once."""
ON_ONE_CONNECTION: Final = 100
"""Streams; a server takes 2 048 calls on each, proxies often no more than 100."""
IDLE_SECONDS: Final = 12.0
"""Longer than the interval of bookmarks: each watcher has got one."""
PATIENCE: Final = 120.0

NAMES: Final = ("watch_deliveries", "watch_latency_p99", "watch_stalled", "idle_watcher")


@dataclass(slots=True)
class Watched:
    """One row of the report."""

    name: str
    title: str
    value: float
    """The median of the rounds."""
    unit: str
    target: float
    """By the design; of `value`."""
    at_least: bool
    """Whether the target is a lower bound."""
    rounds: int = 1
    figures: dict[str, Any] = field(default_factory=dict)
    """What else was found, by names that tell their unit."""

    @property
    def met(self) -> bool:
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of watchers."""

    report: dict[str, Any]
    """The load generator's: WatchReport in load/watch.go."""
    server_cpu: float
    postgres_cpu: float
    """Seconds."""

    def per_second(self, name: str) -> float:
        return float(self.report[name] / self.report["seconds"])


def watch(session_id: str, *, from_beginning: bool = False) -> Step:
    request = WatchSessionRequest(session_id=session_id, from_beginning=from_beginning)
    return Step("/sessiond.v1.EventService/WatchSession", request.SerializeToString())


def append(session_id: str, count: int = 1) -> Step:
    """A write whose events tell when it was sent."""
    request = AppendMessagesRequest(
        session_id=session_id,
        messages=[message(number) for number in range(count)],
        request_id=f"{TIME_MARK}-{CALL_MARK}",
    )
    return Step("/sessiond.v1.MessageService/AppendMessages", request.SerializeToString())


def sample(
    load: Load,
    site: Site,
    streams: Sequence[Step],
    scripts: Sequence[Script],
    pressure: Pressure,
    *,
    stalled: Sequence[Step] = (),
    told: Callable[[str], None] = lambda event: None,
) -> Sample:
    """Raises RuntimeError when a stream ended or had a gap, or a write failed: such figures are no result."""
    plan = {
        **plan_of(site.port, scripts, pressure),
        "streams": steps_of(streams),
        "stream_connections": min(len(streams), max(pressure.connections, -(-len(streams) // ON_ONE_CONNECTION))),
        "patience": PATIENCE,
        "stalled": steps_of(stalled),
    }
    report, used = load.run("watch", plan, [site.server, *([site.postgres] if site.postgres else [])], told)
    checked(report)
    return Sample(report, used[0], used[1] if site.postgres else 0.0)


def checked(report: dict[str, Any]) -> None:
    """Raises RuntimeError unless all went well."""
    if not report:
        raise RuntimeError("the load generator failed; see what it said")
    if report["ended"] or report["gaps"]:
        raise RuntimeError(
            f"streams ended: {report['ended']}; events out of order: {report['gaps']}; first: {report['first_error']}"
        )
    writes = report["writes"]
    if writes is not None and set(writes["codes"]) - {"OK"}:
        raise RuntimeError(f"writes failed: {writes['codes']}; first: {writes['first_error']}")


def deliveries(site: Site, load: Load, pressure: Pressure, rounds: int, watchers: int) -> Watched:
    """Appends to one session as fast as a closed loop makes them, delivered to all who watch it."""
    (hot,) = site.fresh("hot", 1)
    streams = [watch(hot)] * watchers
    writers = Pressure(pressure.seconds, pressure.warmup, WRITERS_OF_ONE, WRITERS_OF_ONE, deadline=pressure.deadline)
    samples = [sample(load, site, streams, [[append(hot, EVENTS_OF_A_WRITE)]], writers) for _ in range(rounds)]
    return delivered(samples, watchers)


def delivered(samples: Sequence[Sample], watchers: int) -> Watched:
    median = _medians(samples)
    return Watched(
        "watch_deliveries",
        f"{watchers} watchers of one session",
        median(lambda one: one.per_second("deliveries")),
        "deliveries/s",
        target=100_000,
        at_least=True,
        rounds=len(samples),
        figures={
            "written_events_per_s": median(lambda one: _written(one) / one.report["seconds"]),
            "delivered_share": median(lambda one: one.report["deliveries"] / (_written(one) * watchers)),
            "events_per_frame": median(lambda one: one.report["deliveries"] / max(1, one.report["frames"])),
            "bytes_per_s": median(lambda one: one.per_second("bytes")),
            "p50_ms": median(lambda one: one.report["commit_p50_ms"]),
            "p99_ms": median(lambda one: one.report["commit_p99_ms"]),
            "server_cpu_us": median(lambda one: one.server_cpu / one.report["deliveries"] * 1e6),
        },
    )


def latency(site: Site, load: Load, pressure: Pressure, rounds: int, watchers: int) -> Watched:
    """Appends at a fixed rate to a few sessions, each watched by a few."""
    sessions = site.fresh("latency", min(SESSIONS, watchers))
    streams = [watch(sessions[number % len(sessions)]) for number in range(watchers)]
    scripts = [[append(one)] for one in sessions]
    return late([sample(load, site, streams, scripts, _paced(pressure)) for _ in range(rounds)], watchers)


def late(samples: Sequence[Sample], watchers: int) -> Watched:
    median = _medians(samples)
    return Watched(
        "watch_latency_p99",
        f"event to {watchers} watchers",
        median(lambda one: one.report["commit_p99_ms"]),
        "ms",
        target=20,
        at_least=False,
        rounds=len(samples),
        figures={
            "p50_ms": median(lambda one: one.report["commit_p50_ms"]),
            "worst_ms": max(one.report["commit_worst_ms"] for one in samples),
            "sent_p50_ms": median(lambda one: one.report["sent_p50_ms"]),
            "sent_p99_ms": median(lambda one: one.report["sent_p99_ms"]),
            "write_p50_ms": median(lambda one: one.report["writes"]["p50_ms"]),
            "write_p99_ms": median(lambda one: one.report["writes"]["p99_ms"]),
            "writes_per_s": median(lambda one: one.report["writes"]["calls"] / one.report["seconds"]),
            "deliveries_per_s": median(lambda one: one.per_second("deliveries")),
        },
    )


def stalled(site: Site, load: Load, pressure: Pressure, rounds: int, watchers: int, history: int = HISTORY) -> Watched:
    """The same without and with one more watcher, of a session that others watch, who reads nothing."""
    (hot,) = site.fresh("stalled", 1, messages=history)
    sessions = [hot, *site.fresh("beside", min(SESSIONS, watchers) - 1)]
    streams = [watch(sessions[number % len(sessions)]) for number in range(watchers)]
    scripts = [[append(one)] for one in sessions]
    stuck = [watch(hot, from_beginning=True)]
    pairs = []
    # A p99 is a rare thing's time: more rounds than the other rows have.
    for number in range(2 * rounds + 1):
        # Every other round in the opposite order.
        pair = [
            sample(load, site, streams, scripts, _paced(pressure), stalled=one)
            for one in (((), stuck) if number % 2 == 0 else (stuck, ()))
        ]
        pairs.append((pair[number % 2], pair[1 - number % 2]))
    return disturbed(pairs)


def disturbed(pairs: Sequence[tuple[Sample, Sample]]) -> Watched:
    """Of samples without and with a stalled watcher, round by round."""
    ratios = [after.report["commit_p99_ms"] / before.report["commit_p99_ms"] for before, after in pairs]
    return Watched(
        "watch_stalled",
        "p99 beside a stalled watcher",
        statistics.median(ratios),
        "times that without",
        target=1.2,
        at_least=False,
        rounds=len(pairs),
        figures={
            "p99_ms_without": statistics.median(before.report["commit_p99_ms"] for before, _ in pairs),
            "p99_ms_with": statistics.median(after.report["commit_p99_ms"] for _, after in pairs),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "stalled_streams_ended": sum(sum(after.report["stalled_ended"].values()) for _, after in pairs),
        },
    )


def idle(
    dsn: str, folder: Path, postgres: Descendants, redis: str, load: Load, watchers: int, seconds: float = IDLE_SECONDS
) -> Watched:
    """Watchers of a session each, on a server and a database of their own, while nothing happens."""
    subprocess.run([sys.executable, "-m", "benchmarks.seeding", dsn, str(watchers)], check=True)
    streams = [watch(f"seeded-{number}") for number in range(watchers)]
    resident: dict[str, int] = {}
    connections: dict[str, int] = {}
    with serving(dsn, folder, postgres, redis) as site:
        # The first watcher pays for what all share.
        sample(load, site, streams[:1], [], Pressure(0.5, warmup=0.1, connections=1))
        resident["before"] = resident_bytes(site.server.pid)

        def told(event: str) -> None:
            resident[event] = resident_bytes(site.server.pid)
            connections[event] = asyncio.run(_connections(dsn))

        found = sample(load, site, streams, [], Pressure(seconds, warmup=0.5, connections=1), told=told)
    return waited(found, watchers, resident, connections)


def waited(found: Sample, watchers: int, resident: dict[str, int], connections: dict[str, int]) -> Watched:
    """`resident`: bytes before, and at the events of the load generator; `connections` likewise, to the database."""
    return Watched(
        "idle_watcher",
        f"one of {watchers:,} idle watchers",
        (resident["end"] - resident["before"]) / watchers / 1024,
        "KiB of the server",
        target=40,
        at_least=False,
        figures={
            "resident_mib_before": round(resident["before"] / 2**20, 1),
            "resident_mib": round(resident["end"] / 2**20, 1),
            "database_connections": max(connections["start"], connections["end"]),
            "bookmarks_per_watcher": found.report["bookmarks"] / watchers,
            "server_cpu_share": found.server_cpu / found.report["seconds"],
            "postgres_cpu_share": found.postgres_cpu / found.report["seconds"],
        },
    )


async def _connections(dsn: str) -> int:
    """To the database, this one not counted."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        return count
    finally:
        await connection.close()


def _paced(pressure: Pressure) -> Pressure:
    return Pressure(pressure.seconds, pressure.warmup, 0, pressure.connections, RATE, deadline=pressure.deadline)


def _written(one: Sample) -> float:
    calls: int = one.report["writes"]["calls"]
    return max(1, calls) * EVENTS_OF_A_WRITE


def _medians(samples: Sequence[Sample]) -> Callable[[Callable[[Sample], float]], float]:
    return lambda figure: statistics.median(map(figure, samples))
