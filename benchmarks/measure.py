"""Measurements in alternation: the empty handler and sessiond under the same load, round by round."""

import base64
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.load import Load, Pressure, Sample, Script
from benchmarks.processes import Descendants, first_line, running
from benchmarks.rows import Row
from benchmarks.site import Site


@dataclass(slots=True)
class Measured:
    """One row of the report, from several rounds."""

    name: str
    title: str
    samples: list[Sample]
    ceilings: list[Sample]
    """Of the empty handler with the same requests and answers of the same size, each in the round of the sample."""
    lone: Sample | None = None
    """One caller alone: what a call takes when nothing else happens."""
    messages_per_call: int = 0
    target: float | None = None
    uncached: list[Sample] = field(default_factory=list)
    """Of the same calls to a server without a cache, in the same rounds."""
    extra: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        value: float = statistics.median(getattr(sample, name) for sample in self.samples)
        return value

    def uncached_median(self, name: str) -> float:
        value: float = statistics.median(getattr(sample, name) for sample in self.uncached)
        return value

    @property
    def ratio(self) -> float:
        """Of throughput to the ceiling's in the same round; the median of the rounds."""
        return statistics.median(
            sample.calls_per_second / ceiling.calls_per_second
            for sample, ceiling in zip(self.samples, self.ceilings, strict=True)
        )

    @property
    def spread(self) -> float:
        """Largest less smallest throughput, as a part of the median."""
        rates = [sample.calls_per_second for sample in self.samples]
        return (max(rates) - min(rates)) / statistics.median(rates)


@contextmanager
def empty_handler(answers: dict[str, bytes], folder: Path) -> Iterator[tuple[int, Descendants]]:
    """A ceiling process: its port, and itself."""
    feed = json.dumps({method: base64.b64encode(answer).decode() for method, answer in answers.items()}).encode()
    command = [sys.executable, "-m", "benchmarks.ceiling"]
    with running(command, log=folder / "ceiling.log", feed=feed) as process:
        yield int(first_line(process)), Descendants(process.pid)


def measure(
    row: Row, site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path, uncached: Site | None = None
) -> Measured:
    """`uncached`: a server without a cache on the same database, for rows that the cache answers."""
    scripts, ours = row.scripts(site), under(pressure, row)
    result = Measured(row.name, row.title, [], [], messages_per_call=row.messages_per_call, target=row.target)
    with empty_handler(site.answers(scripts), folder) as (port, process):
        for _ in range(rounds):
            result.ceilings.append(load.measure(port, scripts, pressure, process))
            result.samples.append(checked(row.name, load.measure(site.port, scripts, ours, site.server, site.postgres)))
            if row.cached and uncached is not None:
                again = load.measure(uncached.port, scripts, ours, uncached.server, uncached.postgres)
                result.uncached.append(checked(f"{row.name} without a cache", again))
    result.lone = load.measure(site.port, scripts, lone(ours), site.server, site.postgres)
    return result


def measure_ceiling(
    scripts: Sequence[Script], site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path
) -> Measured:
    """The empty handler of GetSession's size; and a server in Go in its place, which shows what the load could do."""
    answers = site.answers(scripts)
    size = max(len(answer) for answer in answers.values())
    result = Measured("ceiling", "empty handler", [], [])
    compiled = []
    with (
        empty_handler(answers, folder) as (port, process),
        running([load.program, "echo", "-bytes", str(size)], log=folder / "echo.log") as echo,
    ):
        echo_port = int(first_line(echo))
        for _ in range(rounds):
            sample = checked("ceiling", load.measure(port, scripts, pressure, process))
            result.samples.append(sample)
            result.ceilings.append(sample)
            compiled.append(load.measure(echo_port, scripts, pressure, Descendants(echo.pid)))
        result.lone = load.measure(port, scripts, lone(pressure), process)
    result.extra["load_against_compiled_server_per_s"] = statistics.median(one.calls_per_second for one in compiled)
    return result


def under(pressure: Pressure, row: Row) -> Pressure:
    """The pressure on a row's server: all callers of a pipe share one, since frames are what it saves by."""
    if row.protocol == "pipe":
        return replace(pressure, protocol="pipe", connections=1)
    return replace(pressure, protocol=row.protocol)


def lone(pressure: Pressure) -> Pressure:
    return replace(pressure, seconds=min(pressure.seconds, 1.0), warmup=0.3, callers=1, connections=1)


def checked(name: str, sample: Sample) -> Sample:
    """Raises RuntimeError when calls failed: a rate of failures is no result."""
    failed = {code: count for code, count in sample.codes.items() if code != "OK"}
    if failed:
        raise RuntimeError(f"{name}: calls failed: {failed}; first: {sample.first_error}")
    return sample
