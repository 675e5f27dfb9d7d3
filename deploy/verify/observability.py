"""Checks of alert rules and the dashboard: valid, tested, and about metrics that exist."""

import json
import re
import tempfile
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Final

from deploy.verify.tools import PROMTOOL, run

_METRIC: Final = re.compile(r"\b(?:sessiond|process|python)_[a-z_]+\b")
_ALERT: Final = re.compile(r"(?m)^ *- alert: (\w+)$")
_TESTED: Final = re.compile(r"(?m)^ *(?:- )?alertname: (\w+)\n +eval_time: \S+\n +exp_alerts:")
OF_THE_CLIENT: Final = frozenset(
    {
        "process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes",
        "process_start_time_seconds",
    }
)  # fmt: skip
"""Metrics of Prometheus' own client that may be named; a test compares them with a running server."""


def documented(page: str) -> Set[str]:
    """Metrics that docs/metrics.md lists, with those that a histogram consists of."""
    names = set()
    for name, kind in re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", page):
        names |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    return names


def named(text: str) -> Set[str]:
    """Metrics that rules or expressions name, comments not counted."""
    return set(_METRIC.findall(re.sub(r"(?m)^\s*#.*$", "", text)))


def expressions(dashboard: str) -> list[str]:
    """The queries of a dashboard, its variables replaced."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("expr"), str):
                found.append(node["expr"])
            for inner in node.values():
                walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)

    walk(json.loads(dashboard))
    return [
        text.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$job", "sessiond") for text in found
    ]


def metrics(folder: Path, known: Set[str]) -> Iterator[str]:
    """Metrics that are named and do not exist."""
    for file in (folder / "alerts.yaml", folder / "dashboard.json"):
        text = file.read_text()
        wanted = named("\n".join(expressions(text)) if file.suffix == ".json" else text)
        for name in sorted(wanted - known - OF_THE_CLIENT):
            yield f"{file.name} names {name}, which is no metric of the service"


def untested(folder: Path) -> Iterator[str]:
    """Alerts of which no test says when they fire."""
    tested = set(_TESTED.findall((folder / "alerts.test.yaml").read_text()))
    for alert in _ALERT.findall((folder / "alerts.yaml").read_text()):
        if alert not in tested:
            yield f"no test of alerts.test.yaml makes {alert} fire"


def rules(folder: Path) -> Iterator[str]:
    """What promtool says against the rules, their tests, and the queries of the dashboard."""
    for command in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")):
        ran = run(PROMTOOL, *command, cwd=folder)
        if ran.code:
            yield f"promtool {' '.join(command)}:\n{ran.said.strip()}"
    with tempfile.TemporaryDirectory() as scratch:
        queries = Path(scratch) / "queries.yaml"
        recorded = [
            {"record": f"query:{number}", "expr": text}
            for number, text in enumerate(expressions((folder / "dashboard.json").read_text()))
        ]
        # JSON is YAML.
        queries.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
        ran = run(PROMTOOL, "check", "rules", "--lint=none", queries)
        if ran.code:
            yield f"queries of dashboard.json:\n{ran.said.strip()}"
