"""`make bench FAIRNESS=1`: what a tenant with many calls in flight does to the calls of another tenant.

A few callers of one tenant, each with one call at a time, beside another tenant with no, SHARE and ten times SHARE
calls in flight, over one connection and over twenty. SHARE saturates the server: beside it the few callers see a
service that is full, but fairly used. Exits with 1 when their p99 beside ten shares is above 1.5 times that beside one.

Latency is given twice: in milliseconds, and in milliseconds of the server's CPU that passed during the call. The latter
does not depend on what else runs on the machine, and the ratio is made of it.

`make bench FAIRNESS=1 ARGS="--seconds 10 --rounds 3 --rows get_session --few 1"`
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.__main__ import ROOT, servers
from benchmarks.load import CALL_MARK, Load, Pressure, Sample, Script, Step, build
from benchmarks.rows import append, get_session
from benchmarks.site import Site, new_session, serving
from sessiond.v1.session_service_pb2 import CreateSessionRequest
from sessiond_server.auth import new_key

SHARE = 64
"""Calls in flight, as in the other rows of the benchmark."""
TIMES = 10
MOST_RATIO = 1.5
SESSIONS = 64
PAUSE = 0.01
"""Seconds between two calls of one of the few callers."""
ROWS: dict[str, Callable[[str], Script]] = {
    "get_session": lambda session_id: [get_session(session_id)],
    "append_1": lambda session_id: [append(session_id, 1)],
}


@dataclass(frozen=True, slots=True)
class Tenant:
    key: str
    sessions: Sequence[str]


@dataclass(slots=True)
class Calls:
    """Of the few callers."""

    milliseconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Milliseconds of the server's CPU during each call."""


@dataclass(frozen=True, slots=True)
class Cell:
    few: Calls
    many: Sample | None


@dataclass(frozen=True, slots=True)
class Bench:
    load: Load
    site: Site
    many: Tenant
    few: Tenant
    seconds: float
    warmup: float
    """Seconds after which a tenant that begins with all its calls at once has come to a steady state."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench FAIRNESS=1", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--few", type=int, nargs="*", default=(1, 4), help="callers of the tenant that is measured")
    parser.add_argument("--connections", type=int, nargs="*", default=(1, 20), help="of the other tenant")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds of the other tenant alone before that")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = Load(build(ROOT / "build"))
    worst = 0.0
    with (
        tempfile.TemporaryDirectory(prefix="sessiond-bench-") as scratch,
        servers(Path(scratch)) as (dsn, redis, postgres),
    ):
        keys = dict(new_key(name, name) for name in ("many", "few"))
        file = Path(scratch) / "keys.toml"
        file.write_text("".join(keys.values()))
        with serving(dsn, Path(scratch), postgres, redis, {"SESSIOND_KEYS_FILE": str(file)}) as site:
            many, few = (Tenant(key, _seeded(site, key, name)) for key, name in zip(keys, ("many", "few"), strict=True))
            bench = Bench(load, site, many, few, options.seconds, options.warmup)
            for row in options.rows.split(","):
                for callers in options.few:
                    for connections in options.connections:
                        ratio = _row(bench, row, callers, connections, options.rounds)
                        worst = max(worst, ratio)
    return 0 if worst <= MOST_RATIO else 1


def _row(bench: Bench, row: str, callers: int, connections: int, rounds: int) -> float:
    """The median ratio of the rounds."""
    ratios = []
    for _ in range(rounds):
        cells = {count: _cell(bench, ROWS[row], callers, count, connections) for count in (0, SHARE, TIMES * SHARE)}
        ratios.append(_p99(cells[TIMES * SHARE].few.cpu) / _p99(cells[SHARE].few.cpu))
        _say(f"{row}, {callers} callers beside {connections} connections, ratio {ratios[-1]:.2f}")
        for count, cell in cells.items():
            _say(f"  beside {count:3}: {_line(cell)}")
    _say(f"{row}, {callers} callers beside {connections} connections: median ratio {statistics.median(ratios):.2f}")
    return statistics.median(ratios)


def _seeded(site: Site, key: str, name: str) -> Sequence[str]:
    ids = [f"{name}-{number}" for number in range(SESSIONS)]
    for number, session_id in enumerate(ids):
        request = CreateSessionRequest(session=new_session(session_id, number))
        site.sessions.CreateSession(request, metadata=_metadata(key), timeout=60)
    return ids


def _cell(bench: Bench, script: Callable[[str], Script], callers: int, count: int, connections: int) -> Cell:
    calls, ended = Calls(), threading.Event()
    threads = [
        threading.Thread(target=_call, args=(bench, script(bench.few.sessions[number])[0], calls, ended))
        for number in range(callers)
    ]
    others = [script(session_id) for session_id in bench.many.sessions]
    pressure = Pressure(
        bench.seconds, warmup=bench.warmup, callers=count, connections=connections, deadline=60, key=bench.many.key
    )
    try:
        if not count:
            _start(threads)
            time.sleep(bench.seconds)
            return Cell(calls, None)
        threading.Timer(bench.warmup, _start, (threads,)).start()
        return Cell(calls, bench.load.measure(bench.site.port, others, pressure, bench.site.server))
    finally:
        ended.set()
        for thread in threads:
            with suppress(RuntimeError):  # one that was not started
                thread.join()


def _start(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()


def _call(bench: Bench, step: Step, calls: Calls, ended: threading.Event) -> None:
    """One caller, on a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(f"127.0.0.1:{bench.site.port}", options=options) as channel:
        call: Callable[..., bytes] = channel.unary_unary(step.method)
        number = 0
        while not ended.wait(PAUSE):
            number += 1
            body = step.body.replace(CALL_MARK.encode(), f"{threading.get_ident() % 10**12:012}{number:012}".encode())
            cpu, began = _cpu_ms(bench.site.server.pid), time.perf_counter()
            call(body, metadata=_metadata(bench.few.key), timeout=60)
            calls.milliseconds.append((time.perf_counter() - began) * 1000)
            calls.cpu.append(_cpu_ms(bench.site.server.pid) - cpu)


def _cpu_ms(pid: int) -> float:
    """Of the process's threads so far, to the nanosecond."""
    folder = f"/proc/{pid}/task"
    return sum(int(Path(folder, task, "schedstat").read_text().split()[0]) for task in os.listdir(folder)) / 1e6


def _metadata(key: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", f"Bearer {key}"),)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _line(cell: Cell) -> str:
    few = cell.few
    text = (
        f"{len(few.cpu)} calls, p50 {statistics.median(few.milliseconds):.1f} p99 {_p99(few.milliseconds):.1f} ms, "
        f"of the server's CPU p50 {statistics.median(few.cpu):.1f} p99 {_p99(few.cpu):.1f} ms"
    )
    many = cell.many
    if many is not None:
        text += (
            f"; the others {many.calls_per_second:.0f}/s, p99 {many.p99_ms:.0f} ms, "
            f"server CPU {many.server_cpu_us:.0f} us a call"
        )
        if set(many.codes) != {"OK"}:
            text += f", {many.codes}"
    return text


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the report


if __name__ == "__main__":
    sys.exit(main())
