"""`make bench OVERLOAD=1`: the throughput under overload.

Appends in an open loop (arrivals do not wait for answers) at twice and five times the rate that saturates, with
deadlines of 5 s; then the closed loop again, for whether all is as before. Exits with 1 when the goodput at five times,
or the throughput afterwards, is below 0.8 of the saturated rate.

`make bench OVERLOAD=1 ARGS="--connections 64 --deadline 1"`: over so many connections instead of 4, with deadlines of a
second.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import ROOT, servers
from benchmarks.load import Load, Pressure, build
from benchmarks.processes import resident_bytes
from benchmarks.rows import rows
from benchmarks.site import Site, serving

SECONDS = 6.0
DEADLINE = 5.0
LEAST = 0.8


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench OVERLOAD=1", description=__doc__)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds that each call has")
    arguments = parser.parse_args()
    connections = arguments.connections
    load = Load(build(ROOT / "build"))
    append = next(row for row in rows(ROOT / "examples/demo/conversations.jsonl") if row.name == "append_1")
    with (
        tempfile.TemporaryDirectory(prefix="sessiond-bench-") as scratch,
        servers(Path(scratch)) as (dsn, redis, postgres),
        serving(dsn, Path(scratch), postgres, redis) as site,
    ):
        scripts = append.scripts(site)
        pressure = Pressure(SECONDS, connections=connections)
        saturated = load.measure(site.port, scripts, pressure, site.server).calls_per_second
        _say(f"saturated   {saturated:7.0f} calls/s, server {_megabytes(site)} MB")
        shares = {}
        for times in (2, 5):
            pressure = Pressure(
                SECONDS,
                callers=0,
                connections=connections,
                rate=times * saturated,
                deadline=arguments.deadline,
                most_waiting=30_000,
            )
            sample = load.measure(site.port, scripts, pressure, site.server)
            shares[times] = sample.calls_per_second / saturated
            codes = ", ".join(f"{code} {count}" for code, count in sorted(sample.codes.items()))
            _say(
                f"{times} x         {sample.calls_per_second:7.0f} calls/s = {shares[times]:.2f}, "
                f"server {_megabytes(site)} MB, p99 {sample.p99_ms:.0f} ms; {codes}"
            )
        pressure = Pressure(SECONDS / 2, warmup=0.5, connections=connections)
        after = load.measure(site.port, scripts, pressure, site.server).calls_per_second
        _say(f"afterwards  {after:7.0f} calls/s = {after / saturated:.2f}")
    return 0 if min(shares[5], after / saturated) >= LEAST else 1


def _megabytes(site: Site) -> int:
    return resident_bytes(site.server.pid) // 2**20


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the report


if __name__ == "__main__":
    sys.exit(main())
