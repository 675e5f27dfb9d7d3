"""What a second worker brings: throughput with `--workers 2` as a ratio to one process, on the same machine."""

import statistics
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load import Load, Pressure
from benchmarks.measure import checked
from benchmarks.processes import Descendants
from benchmarks.rows import Row
from benchmarks.site import serving
from benchmarks.watching import Watched

NAME: Final = "workers_2"
CONNECTIONS: Final = 16
"""The kernel spreads connections by chance: with as many, seldom more than three quarters go to one worker."""
TARGET: Final = 1.0
"""Of two cores, which the load and Postgres share, a second worker gets what these leave."""


def measure(
    dsn: str,
    folder: Path,
    postgres: Descendants,
    redis: str,
    load: Load,
    pressure: Pressure,
    rounds: int,
    rows: tuple[Row, Row],
) -> Watched:
    """`rows`: of reads and of writes. The value is the ratio of the reads."""
    pressure = replace(pressure, connections=CONNECTIONS)
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(serving(dsn, folder, postgres, redis, {"SESSIOND_WORKERS": workers}))
            for workers in ("1", "2")
        )
        for row in rows:
            scripts = row.scripts(one)
            pairs = [
                [
                    checked(f"{row.name} {NAME}", load.measure(site.port, scripts, pressure, site.server))
                    for site in (one, two)
                ]
                for _ in range(rounds)
            ]
            ratios[row.name] = statistics.median(b.calls_per_second / a.calls_per_second for a, b in pairs)
            figures[f"{row.name}_ratio"] = round(ratios[row.name], 2)
            for workers, samples in enumerate(zip(*pairs, strict=True), 1):
                median = statistics.median(sample.calls_per_second for sample in samples)
                figures[f"{row.name}_with_{workers}_per_s"] = round(median)
    return Watched(
        NAME, "GetSession with 2 workers", ratios[rows[0].name], "of one process", TARGET, True, rounds, figures
    )
