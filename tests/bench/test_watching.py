"""The rows about watchers: what is asked of the load generator, and what is made of its reports."""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks import report, watching
from benchmarks.load import CALL_MARK, RUN_MARK, TIME_MARK, Load, Pressure, build
from benchmarks.processes import Descendants
from benchmarks.site import Site, serving
from benchmarks.watching import Sample

from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.message_service_pb2 import AppendMessagesRequest

GENERATOR = Path(__file__).parents[2] / "benchmarks/load"


def found(server_cpu: float = 1.5, postgres_cpu: float = 0.5, **changes: Any) -> Sample:
    whole = {
        "seconds": 2.0, "deliveries": 3_000, "frames": 300, "bytes": 900_000, "bookmarks": 0, "gaps": 0, "ended": {},
        "commit_p50_ms": 2.0, "commit_p99_ms": 8.0, "commit_worst_ms": 11.0, "sent_p50_ms": 4.0, "sent_p99_ms": 13.0,
        "first_error": "", "stalled_ended": {},
        "writes": {"calls": 10, "codes": {"OK": 10}, "p50_ms": 3.0, "p99_ms": 9.0, "first_error": ""},
    }  # fmt: skip
    return Sample({**whole, **changes}, server_cpu, postgres_cpu)


class Generator(Load):
    """Keeps the plan instead of carrying it out."""

    plan: dict[str, Any]

    def run(
        self, command: str, plan: Any, watched: Sequence[Descendants], told: Callable[[str], None] = lambda event: None
    ) -> tuple[dict[str, Any], Sequence[float]]:
        assert command == "watch"
        self.plan = plan
        return found().report, [1.5, 0.5, 0.1][: len(watched) + 1]


def test_the_plan_has_a_stream_for_each_watcher_and_connections_enough() -> None:
    load = Generator(Path("load"))
    site = Site(1, Descendants(os.getpid()), None)
    try:
        streams = [watching.watch(f"s{number}") for number in range(1001)]
        taken = watching.sample(
            load, site, streams, [[watching.append("s1", 2)]], Pressure(2.0), stalled=[watching.watch("s1")]
        )
    finally:
        site.close()
    assert taken.postgres_cpu == 0.0
    assert taken.per_second("deliveries") == 1500.0
    plan = load.plan
    assert plan["stream_connections"] == 11
    assert len(plan["streams"]) == 1001
    assert len(plan["stalled"]) == 1
    request = WatchSessionRequest.FromString(base64.b64decode(plan["streams"][1000]["body"]))
    assert (request.session_id, request.from_beginning) == ("s1000", False)
    assert plan["streams"][0]["method"] == "/sessiond.v1.EventService/WatchSession"
    write = AppendMessagesRequest.FromString(base64.b64decode(plan["scripts"][0][0]["body"]))
    assert write.request_id.startswith(TIME_MARK), "where the generator reads when it was sent"
    assert len(write.messages) == 2


def test_all_marks_have_one_length() -> None:
    assert len({len(mark) for mark in (CALL_MARK, RUN_MARK, TIME_MARK)}) == 1


def test_few_watchers_need_few_connections() -> None:
    load = Generator(Path("load"))
    site = Site(1, Descendants(os.getpid()), None)
    try:
        watching.sample(load, site, [watching.watch("s")] * 3, [], Pressure(2.0, connections=4))
    finally:
        site.close()
    assert load.plan["stream_connections"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ended": {"Unavailable": 1}, "first_error": "gone"}, r"streams ended: \{'Unavailable': 1\}.*gone"),
        ({"gaps": 2}, "out of order: 2"),
        ({"writes": {"codes": {"OK": 1, "ABORTED": 2}, "first_error": "no"}}, "writes failed: .*ABORTED.*first: no"),
    ],
)
def test_streams_that_end_gaps_and_failed_writes_are_no_result(changes: dict[str, Any], words: str) -> None:
    watching.checked(found().report)
    watching.checked(found(writes=None).report)
    with pytest.raises(RuntimeError, match=words):
        watching.checked(found(**changes).report)
    with pytest.raises(RuntimeError, match="generator failed"):
        watching.checked({})


def test_deliveries_are_events_counted_for_every_watcher() -> None:
    one = watching.delivered([found(), found(deliveries=600_000), found(deliveries=200_000)], watchers=30)
    assert (one.name, one.value, one.unit) == ("watch_deliveries", 100_000.0, "deliveries/s")
    assert one.met
    assert one.figures["written_events_per_s"] == 50.0
    assert one.figures["delivered_share"] == pytest.approx(200_000 / 3_000)
    assert one.figures["events_per_frame"] == pytest.approx(200_000 / 300)
    assert one.figures["server_cpu_us"] == pytest.approx(7.5)
    assert not watching.delivered([found()], watchers=30).met


def test_latency_is_the_p99_from_event_to_arrival() -> None:
    one = watching.late([found(), found(commit_p99_ms=30.0, commit_worst_ms=40.0), found(commit_p99_ms=21.0)], 60)
    assert (one.value, one.unit, one.met) == (21.0, "ms", False)
    assert one.figures["worst_ms"] == 40.0
    assert one.figures["sent_p99_ms"] == 13.0
    assert one.figures["writes_per_s"] == 5.0
    assert watching.late([found()], 60).met


def test_a_stalled_watcher_is_judged_round_by_round() -> None:
    slow = found(commit_p99_ms=80.0)
    rounds = [(found(), found(commit_p99_ms=8.8)), (slow, slow), (found(), found(commit_p99_ms=16.0))]
    one = watching.disturbed(rounds)
    assert one.value == pytest.approx(1.1)
    assert one.met
    assert one.figures["ratios"] == [1.1, 1.0, 2.0]
    assert one.figures["p99_ms_without"] == 8.0
    assert not watching.disturbed([(found(), found(commit_p99_ms=9.7))]).met


def test_an_idle_watcher_costs_what_the_server_grew_by() -> None:
    kib = 1024
    one = watching.waited(
        found(bookmarks=20, server_cpu=0.1, postgres_cpu=0.02),
        20,
        {"before": 1000 * kib, "open": 9000 * kib, "start": 1500 * kib, "end": 1600 * kib},
        {"open": 40, "start": 3, "end": 5},
    )
    assert (one.value, one.met) == (30.0, True)
    assert one.figures["database_connections"] == 5, "of those who wait, not of those who begin"
    assert one.figures["bookmarks_per_watcher"] == 1.0
    assert one.figures["server_cpu_share"] == 0.05
    assert one.figures["postgres_cpu_share"] == 0.01


def test_rows_about_watchers_are_reported() -> None:
    rows = [watching.late([found()], 60), watching.delivered([found()], 100)]
    record = report.watched_record(rows[0])
    assert (record["name"], record["value"], record["unit"]) == ("watch_latency_p99", 8.0, "ms")
    assert (record["target"], record["met"], record["rounds"], record["p50_ms"]) == (20, True, 1, 2.0)
    lines = report.watched_table(rows).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "at most 20" in lines[2]
    assert "at least 100,000" in lines[3]
    assert "sent_p99_ms 13" in report.watched_remarks(rows)[0]


@pytest.fixture(scope="module")
def offline() -> dict[str, str]:
    """What the load generator needs is on this machine when it was built before; nothing is fetched for a test."""
    if shutil.which("go") is None:
        pytest.skip("the load generator is in Go")
    environment = {**os.environ, "GOPROXY": "off", "GOFLAGS": "-mod=readonly"}
    ready = subprocess.run(["go", "mod", "download"], cwd=GENERATOR, env=environment, capture_output=True, check=False)
    if ready.returncode:
        pytest.skip("its modules are not on this machine")
    return environment


@pytest.mark.long
def test_the_load_generators_own_tests(offline: dict[str, str]) -> None:
    # With the option that `build` uses: all that it imports is compiled once, not twice.
    tests = ["go", "test", "-trimpath", "./..."]
    done = subprocess.run(tests, cwd=GENERATOR, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rows_run_against_a_server(
    offline: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small: what they measure is another matter."""
    for name in ("GOPROXY", "GOFLAGS"):
        monkeypatch.setenv(name, offline[name])
    load = Load(build(tmp_path))
    short = Pressure(0.3, warmup=0.1)
    with serving(None, tmp_path, None) as site:
        rows = [
            watching.deliveries(site, load, short, 1, watchers=3),
            watching.latency(site, load, short, 1, watchers=4),
            watching.stalled(site, load, short, 1, watchers=4, history=512),
        ]
    assert [row.name for row in rows] == list(watching.NAMES[:3])
    assert all(row.value > 0 for row in rows)
    assert rows[0].figures["events_per_frame"] >= 1
    assert rows[1].figures["sent_p99_ms"] >= rows[1].figures["sent_p50_ms"] > 0
