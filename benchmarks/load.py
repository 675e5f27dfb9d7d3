"""The load generator: a program in Go that sends prepared bytes, so that it is not the bottleneck."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import Descendants

CALL_MARK = "%call-unique-identifier%"
"""In a request: replaced by an identifier of the same length, new in each call."""
RUN_MARK = "%run--unique-identifier%"
"""The same, new each time that a script begins."""
TIME_MARK = "%nanoseconds-since-1970%"
"""The same, by when the call is sent. A request_id that begins so tells watchers when its events were asked for."""

_SOURCE = Path(__file__).parent / "load"


@dataclass(frozen=True, slots=True)
class Step:
    method: str
    """"/package.Service/Method", or for http "GET /path"."""
    body: bytes


Script = Sequence[Step]
"""Calls that one caller makes one after the other."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How the load is applied. Closed loop unless `rate` is set."""

    seconds: float
    warmup: float = 1.0
    callers: int = 64
    connections: int = 4
    rate: float = 0.0
    """Arrivals per second, independent of earlier calls."""
    most_waiting: int = 20_000
    deadline: float = 20.0
    protocol: str = "grpc"
    """"grpc", "pipe" (the same calls through a pipe on each connection) or "http"."""
    key: str = ""
    """API key of every call; empty: none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. CPU in microseconds per call answered OK; times in milliseconds."""

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float
    postgres_cpu_us: float
    load_cpu_us: float
    codes: dict[str, int]
    first_error: str
    response_bytes: int


def build(into: Path) -> Path:
    """The program, built when its sources are newer. Raises SystemExit when there is no Go."""
    program = into / "load"
    sources = [*_SOURCE.glob("*.go"), _SOURCE / "go.mod", _SOURCE / "go.sum"]
    if program.exists() and all(program.stat().st_mtime > source.stat().st_mtime for source in sources):
        return program
    if shutil.which("go") is None:
        raise SystemExit("make bench needs Go 1.26 or newer on the PATH: its load generator must not be the bottleneck")
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-trimpath", "-o", program, "."], cwd=_SOURCE, check=True)
    return program


class Load:
    def __init__(self, program: Path) -> None:
        self.program = program

    def measure(
        self,
        port: int,
        scripts: Sequence[Script],
        pressure: Pressure,
        server: Descendants,
        postgres: Descendants | None = None,
    ) -> Sample:
        """Runs the scripts against 127.0.0.1:port. Raises RuntimeError when nothing was answered."""
        report, used = self.run("run", plan_of(port, scripts, pressure), [server, *([postgres] if postgres else [])])
        if not report or report["calls"] == 0:
            raise RuntimeError(f"nothing was answered: {report}")
        cpu = [seconds / report["calls"] * 1e6 for seconds in used]
        return Sample(
            calls_per_second=report["calls"] / report["seconds"],
            p50_ms=report["p50_ms"],
            p99_ms=report["p99_ms"],
            server_cpu_us=cpu[0],
            postgres_cpu_us=cpu[1] if postgres else 0.0,
            load_cpu_us=cpu[-1],
            codes=report["codes"],
            first_error=report["first_error"],
            response_bytes=report["response_bytes"],
        )

    def run(
        self,
        command: str,
        plan: Mapping[str, Any],
        watched: Sequence[Descendants],
        told: Callable[[str], None] = lambda event: None,
    ) -> tuple[dict[str, Any], Sequence[float]]:
        """The program's report on a plan, empty when it failed; and the CPU seconds of those watched between "start"
        and "end", the program's own last. `told` is called with every event as it happens."""
        report: dict[str, Any] = {}
        used: dict[str, list[float]] = {}
        with subprocess.Popen(
            [self.program, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as load:
            assert load.stdin is not None
            assert load.stdout is not None
            json.dump(plan, load.stdin)
            load.stdin.close()
            everyone = [*watched, Descendants(load.pid)]
            for line in load.stdout:
                said = json.loads(line)
                if "event" in said:
                    used[said["event"]] = [one.cpu_seconds() for one in everyone]
                    told(said["event"])
                else:
                    report = said
        if not report:
            return report, []
        return report, [end - start for start, end in zip(used["start"], used["end"], strict=True)]


def plan_of(port: int, scripts: Sequence[Script], pressure: Pressure) -> dict[str, Any]:
    """What the program is to do, in its own words."""
    return {
        "target": f"127.0.0.1:{port}",
        "protocol": pressure.protocol,
        "key": pressure.key,
        "connections": pressure.connections,
        "callers": pressure.callers,
        "rate": pressure.rate,
        "most_waiting": pressure.most_waiting,
        "deadline": pressure.deadline,
        "warmup": pressure.warmup,
        "seconds": pressure.seconds,
        "scripts": [steps_of(script) for script in scripts],
    }


def steps_of(steps: Iterable[Step]) -> list[dict[str, str]]:
    return [{"method": step.method, "body": base64.b64encode(step.body).decode()} for step in steps]
