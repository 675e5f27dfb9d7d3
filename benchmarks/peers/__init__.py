"""What a team would otherwise use, on the same Postgres, with the same durability and the same load."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit, urlunsplit

from benchmarks.load import Load, Pressure, Step
from benchmarks.measure import Measured, checked
from benchmarks.processes import Descendants, running, wait_until
from benchmarks.report import aligned
from benchmarks.site import free_port

_HERE = Path(__file__).parent

OPERATIONS = {
    "create": ("create_session", "create a session"),
    "get": ("get_session", "get a session"),
    "append_1": ("append_1", "append a message"),
    "list_50": ("list_messages_50", "read the newest 50"),
}
"""What is compared: the row of sessiond's own that does it, and what it is."""
ROWS = tuple(row for row, _ in OPERATIONS.values())

DIFFERENCES = (
    "sessiond: a gRPC call over loopback; the write is an event of a gapless log, idempotent, committed.",
    "Agno AgentOS: HTTP with JSON over loopback; no idempotency keys; messages come from runs of its agents, so there "
    "is no call to append one or to read the newest.",
    "Google ADK DatabaseSessionService: a library in the caller's process, so no network hop; no idempotency keys.",
    "OpenAI Agents SDK SQLAlchemySession: a library in the caller's process, so no network hop; items only: a session "
    "has no state of its own to get, and is created by its first item, each by an object of its own that compiles its "
    "statements anew; no idempotency keys.",
)


@dataclass(frozen=True, slots=True)
class Result:
    peer: str
    operation: str
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of the process that serves the calls; for libraries, of the one that makes them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    ours: dict[str, Measured]
    """By operation."""
    results: Sequence[Result]

    def table(self) -> str:
        peers = list(dict.fromkeys(result.peer for result in self.results))
        lines = [["calls/s, and how many times fewer", "sessiond", *peers]]
        for operation, (_, title) in OPERATIONS.items():
            own = self.ours[operation].median("calls_per_second")
            found = {one.peer: one for one in self.results if one.operation == operation}
            cells = [
                f"{found[peer].calls_per_s:,.0f} ({own / found[peer].calls_per_s:.0f} x)" if peer in found else "-"
                for peer in peers
            ]
            lines.append([title, f"{own:,.0f}", *cells])
        return "\n".join([aligned(lines), "", *DIFFERENCES])

    def records(self) -> list[dict[str, Any]]:
        """For the JSON."""
        return [
            {
                "name": one.peer,
                "operation": one.operation,
                "value": round(one.calls_per_s, 1),
                "unit": "calls/s",
                "sessiond_times": round(self.ours[one.operation].median("calls_per_second") / one.calls_per_s, 2),
                "p50_ms": round(one.p50_ms, 3),
                "p99_ms": round(one.p99_ms, 3),
                "cpu_us": round(one.cpu_us, 1),
            }
            for one in self.results
        ]


def compare(
    measured: Sequence[Measured], load: Load, pressure: Pressure, dsn: str, environments: Path, folder: Path
) -> Comparison:
    """Measures all peers on the database `dsn`, beside what was measured of sessiond in the same run."""
    by_row = {one.name: one for one in measured}
    ours = {operation: by_row[row] for operation, (row, _) in OPERATIONS.items()}
    url = _sqlalchemy(dsn)
    results = _agentos(_environment("agentos", environments), load, pressure, url, folder)
    for peer, title in (("adk", "Google ADK"), ("openai", "OpenAI Agents SDK")):
        python = _environment(peer, environments)
        results += _library(title, python, _HERE / f"{peer}_sessions.py", pressure, url, folder)
    return Comparison(ours, results)


def _environment(name: str, folder: Path) -> Path:
    """The interpreter of an environment that holds the peer, made when its requirements are newer."""
    place, requirements = folder / name, _HERE / f"{name}.txt"
    stamp, python = place / ".installed", place / "bin/python"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"installing {name} into {place} ...", file=sys.stderr, flush=True)  # noqa: T201 - progress
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
            "-r",
            requirements,
        ]
        subprocess.run(pip, check=True)
        stamp.write_text(requirements.read_text())
    return python


def _sqlalchemy(dsn: str) -> str:
    """The DSN as SQLAlchemy reads it for asyncpg: the port of a unix socket is the default one."""
    return urlunsplit(urlsplit(dsn)._replace(scheme="postgresql+asyncpg")).removesuffix("&port=5432")


def _library(title: str, python: Path, program: Path, pressure: Pressure, url: str, folder: Path) -> list[Result]:
    command: list[str | Path] = [python, program, url, str(pressure.callers), str(pressure.seconds)]
    with running(command, log=folder / f"{program.stem}.log") as process:
        assert process.stdout is not None
        found = [json.loads(line) for line in process.stdout]
    if process.wait() != 0:
        raise RuntimeError(f"{title} failed; see {folder / program.stem}.log")
    return [Result(title, **one) for one in found]


def _agentos(python: Path, load: Load, pressure: Pressure, url: str, folder: Path) -> list[Result]:
    title, port = "Agno AgentOS", free_port()
    body = {
        "agent_id": "bench",
        "session_name": "Change of reservation",
        "user_id": "user",
        "session_state": {"step": "choose", "reservation": "Q7XK2M", "passengers": 2},
        "metadata": {"locale": "en-GB", "customer": "c-1", "tags": ["travel", "change"]},
    }
    http = Pressure(pressure.seconds, callers=pressure.callers, connections=1, protocol="http", deadline=60)
    create = [[Step("POST /sessions?type=agent", json.dumps(body).encode())]]
    with running([python, _HERE / "agentos_server.py", url, str(port)], log=folder / "agentos.log") as process:
        base = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(f"{base}/health"), process)
        ids = [_post(f"{base}/sessions?type=agent", body)["session_id"] for _ in range(256)]
        gets = [[Step(f"GET /sessions/{one}?type=agent", b"")] for one in ids]
        results = []
        for operation, scripts in (("create", create), ("get", gets)):
            sample = checked(title, load.measure(port, scripts, http, Descendants(process.pid)))
            results.append(
                Result(title, operation, sample.calls_per_second, sample.p50_ms, sample.p99_ms, sample.server_cpu_us)
            )
    return results


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (URLError, TimeoutError, ConnectionError):
        return False


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)
