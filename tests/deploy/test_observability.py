"""Alert rules and dashboard: about metrics that a running server has, and firing at real faults of a real server."""

import asyncio
import json
import re
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest
from deploy.verify import observability
from deploy.verify.tools import PROMTOOL, ROOT, run
from prometheus_client.parser import text_string_to_metric_families

import sessiond
from tests.support.proxy import proxied_postgres
from tests.support.serve_process import Serving, serving
from tests.support.valkey import Valkey
from tests.support.waiting import PATIENCE

FOLDER = ROOT / "deploy" / "observability"
METRICS = ("--metrics-listen", "127.0.0.1:0")
OF_WORKERS = {"sessiond_workers", "sessiond_worker_failures_total"}
"""Served with several workers only: tests/app/test_serve_workers.py."""
needs_promtool = pytest.mark.skipif(not PROMTOOL.exists(), reason="make deploy-check builds promtool, with Go")

Scrape = Mapping[str, float]
"""Values by series, as PromQL writes it."""


async def page(server: Serving) -> str:
    found = re.search(r"metrics +(http://\S+)", server.announced)
    assert found
    with await asyncio.to_thread(urlopen, found[1], timeout=PATIENCE) as answer:
        text: str = answer.read().decode()
    return text


async def scraped(server: Serving) -> Scrape:
    series = {'up{instance="a:9464",job="sessiond"}': 1.0}
    for family in text_string_to_metric_families(await page(server)):
        for sample in family.samples:
            labels = {**sample.labels, "instance": "a:9464", "job": "sessiond"}
            named = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            series[f"{sample.name}{{{named}}}"] = sample.value
    return series


def firing(scratch: Path, before: Scrape, after: Scrape) -> set[str]:
    """The alerts that fire within half an hour after five minutes of one scrape are followed by the other for good."""
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yaml").read_text())
    series = [
        {"series": name, "values": f"{before.get(name, value)!r}x5 {value!r}x40"} for name, value in after.items()
    ]
    expected = [{"alertname": alert, "eval_time": f"{minute}m"} for alert in alerts for minute in (7, 9, 12, 20, 30)]
    test = {
        "rule_files": ["alerts.yaml"],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": expected}],
    }
    shutil.copy(FOLDER / "alerts.yaml", scratch)
    (scratch / "scraped.json").write_text(json.dumps(test))
    said = run(PROMTOOL, "test", "rules", "scraped.json", cwd=scratch).said
    assert "SUCCESS" in said or "got:" in said, said
    return set(re.findall(r'Labels:\{alertname="(\w+)"', said))


def missing(wanted: Iterable[str], text: str) -> list[str]:
    """Names that a page of metrics has no sample, and no type, of."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", text))
    there = {sample.name for family in families.values() for sample in family.samples} | set(kinds)
    there |= {f"{name}{part}" for name, kind in kinds.items() if kind == "histogram" for part in ("_bucket", "_count")}
    return sorted(set(wanted) - there)


async def test_every_metric_of_alerts_dashboard_and_documentation_exists(postgres_dsn: str, valkey: Valkey) -> None:
    known = observability.documented((ROOT / "docs" / "metrics.md").read_text())
    named = observability.named((FOLDER / "alerts.yaml").read_text())
    named |= observability.named("\n".join(observability.expressions((FOLDER / "dashboard.json").read_text())))
    assert len(named) > 20
    everything = ("--search=true", "--summariser", "extractive", *METRICS)
    async with serving("--postgres-dsn", postgres_dsn, "--redis-url", valkey.url, *everything) as server:
        async with sessiond.Client(server.target) as client:
            await client.create_session(session_id="s", active=True)
        text = await page(server)
    assert missing((named | known | observability.OF_THE_CLIENT) - OF_WORKERS, text) == []
    assert missing(["sessiond_no_such_metric"], text) == ["sessiond_no_such_metric"]


def test_every_alert_is_tested() -> None:
    assert list(observability.untested(FOLDER)) == []


def test_every_alert_is_in_the_runbook() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    alerts = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yaml").read_text())
    assert re.findall(r"(?m)^\| `(Sessiond\w+)` \|", page) == alerts


@pytest.mark.long
@needs_promtool
async def test_silent_postgres_raises_its_alert(postgres_dsn: str, tmp_path: Path) -> None:
    async with proxied_postgres(postgres_dsn) as (proxy, dsn), serving("--postgres-dsn", dsn, *METRICS) as server:
        well = await scraped(server)
        proxy.stall()
        await server.until_metric("sessiond_store_reachable", 0)
        ill = await scraped(server)
        proxy.flow()
        await server.until_metric("sessiond_store_reachable", 1)
        again = await scraped(server)
    assert firing(tmp_path, well, well) == set()
    assert "SessiondStoreUnreachable" in firing(tmp_path, well, ill)
    assert "SessiondStoreUnreachable" not in firing(tmp_path, ill, again)


@pytest.mark.long
@needs_promtool
async def test_redis_that_is_gone_raises_its_alert(postgres_dsn: str, valkey: Valkey, tmp_path: Path) -> None:
    async with serving("--postgres-dsn", postgres_dsn, "--redis-url", valkey.url, *METRICS) as server:
        await server.until_metric("sessiond_cache_usable", 1)
        well = await scraped(server)
        valkey.kill()
        await server.until_metric("sessiond_cache_usable", 0)
        ill = await scraped(server)
    assert firing(tmp_path, well, well) == set()
    assert firing(tmp_path, well, ill) == {"SessiondCacheUnusable"}
    await valkey.start()


@pytest.mark.long
@needs_promtool
async def test_full_queue_raises_its_alert(postgres_dsn: str, tmp_path: Path) -> None:
    async with (
        proxied_postgres(postgres_dsn) as (proxy, dsn),
        serving("--postgres-dsn", dsn, "--queue-commands", "1", *METRICS) as server,
        sessiond.Client(server.target) as client,
    ):
        await client.create_session(session_id="s", active=True)
        well = await scraped(server)
        proxy.stall()
        writes = [asyncio.create_task(client.append_messages("s", [sessiond.user("x")])) for _ in range(8)]
        refused = await asyncio.wait_for(_refused(writes), PATIENCE)
        async with asyncio.timeout(PATIENCE):
            # A call is counted once its answer has been sent.
            while (await server.metrics())["sessiond_refused_calls_total queue"] < 1:  # noqa: ASYNC110  another process's
                await asyncio.sleep(0.05)
        ill = await scraped(server)
        proxy.flow()
        await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(refused, sessiond.QueueFull)
    assert firing(tmp_path, well, well) == set()
    assert "SessiondQueueFull" in firing(tmp_path, well, ill)


async def _refused(writes: Iterable["asyncio.Task[object]"]) -> BaseException | None:
    done, _ = await asyncio.wait(list(writes), return_when=asyncio.FIRST_EXCEPTION)
    return next(task.exception() for task in done if task.exception() is not None)


@pytest.mark.long
@needs_promtool
async def test_process_that_stood_still_raises_its_alert(tmp_path: Path) -> None:
    async with serving("--store", "memory", *METRICS) as server:
        well = await scraped(server)
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3.0)  # the fault itself
        server.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            while (await server.metrics())["sessiond_loop_lag_seconds"] < 1:  # noqa: ASYNC110  another process's state
                await asyncio.sleep(0.05)
        ill = await scraped(server)
    assert firing(tmp_path, well, {name: 0.0 if name.startswith("up") else v for name, v in well.items()}) == {
        "SessiondDown"
    }
    assert "SessiondLoopLags" in firing(tmp_path, well, ill)


def planted(tmp_path: Path, file: str, old: str, new: str) -> Path:
    """A copy of the folder with a mistake in it."""
    folder = tmp_path / "observability"
    shutil.copytree(FOLDER, folder)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    return folder


def test_metric_that_does_not_exist_is_found(tmp_path: Path) -> None:
    known = observability.documented((ROOT / "docs" / "metrics.md").read_text())
    assert list(observability.metrics(FOLDER, known)) == []
    folder = planted(tmp_path, "alerts.yaml", "sessiond_store_reachable ==", "sessiond_store_reachble ==")
    assert list(observability.metrics(folder, known)) == [
        "alerts.yaml names sessiond_store_reachble, which is no metric of the service"
    ]
    other = planted(tmp_path / "other", "dashboard.json", "sessiond_watchers{", "sessiond_watcher{")
    assert len(list(observability.metrics(other, known))) == 1


def test_alert_without_a_test_is_found(tmp_path: Path) -> None:
    folder = planted(tmp_path, "alerts.yaml", "alert: SessiondDown", "alert: SessiondGone")
    assert list(observability.untested(folder)) == ["no test of alerts.test.yaml makes SessiondGone fire"]


@pytest.mark.long
@needs_promtool
@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("alerts.yaml", "sessiond_store_reachable == 0", "sessiond_store_reachable == ", "check rules"),
        ("alerts.yaml", "sessiond_store_reachable == 0", "sessiond_store_reachable == 2", "test rules"),
        ("alerts.yaml", "severity: critical", "severity: warning", "test rules"),
        ("alerts.test.yaml", 'severity: "critical"', 'severity: "page"', "test rules"),
        ("dashboard.json", "sum(sessiond_watchers{", "summ(sessiond_watchers{", "queries of dashboard.json"),
    ],
)
def test_broken_rule_test_or_query_is_found(tmp_path: Path, file: str, old: str, new: str, problem: str) -> None:
    assert list(observability.rules(FOLDER)) == []
    problems = list(observability.rules(planted(tmp_path, file, old, new)))
    assert any(problem in found for found in problems), problems
