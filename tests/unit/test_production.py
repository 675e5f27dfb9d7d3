"""Each item of the checklist for production, from both sides of what it judges by."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sessiond_server.cli.production import AGE_OF_DANGER, FILES_NEEDED, ITEMS, Finding, Place, findings
from sessiond_server.postgres.production import Facts
from sessiond_server.redis import Upkeep
from sessiond_server.settings import load

DSN = "postgresql://sessiond@db/sessiond"
GOOD = Facts(
    version=180000, unsafe=(), connections=97, pooler=False, transaction_age=1000, multixact_age=1,
    freeze_age=200_000_000, multixact_freeze_age=400_000_000, autovacuum=True, not_vacuumed=(), archiving=True,
    clock_skew=0.01,
)  # fmt: skip
CACHE = Upkeep(persistent=False, max_memory=2**28, evicts=True)
NETWORK = "10.0.0.1:50051"


def place(settings: dict[str, str] | None = None, *, replicas: int = 2, **facts: Any) -> Place:
    given = {"postgres_dsn": DSN, **(settings or {})}
    return Place(load(given, {}), replicas, replace(GOOD, **facts), CACHE, FILES_NEEDED)


def finding(item: str, place: Place) -> Finding:
    return dict(findings(place))[item]


def test_items_are_those_of_the_documentation_in_its_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    table = page.split("## A checklist for production\n")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(ITEMS)


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, "ok"),
        ({"listen": NETWORK}, "fail"),
        ({"listen": NETWORK, "tls_cert_file": "/c", "tls_key_file": "/k"}, "ok"),
    ],
)
def test_tls_is_needed_beyond_loopback(settings: dict[str, str], status: str) -> None:
    assert finding("tls", place(settings)).status == status


def test_keys_are_needed(tmp_path: Path) -> None:
    (tmp_path / "keys").touch(0o640)
    assert finding("keys", place()).status == "warn"
    assert finding("keys", place({"listen": NETWORK})).status == "fail"
    assert finding("keys", place({"listen": NETWORK, "keys_file": str(tmp_path / "keys")})).status == "ok"


@pytest.mark.parametrize(
    ("name", "mode", "status"),
    [
        ("keys", 0o440, "ok"),
        ("keys", 0o644, "warn"),
        ("keys", 0o642, "fail"),
        ("private", 0o640, "ok"),
        ("private", 0o644, "fail"),
        ("private", 0o642, "fail"),
    ],
)
def test_files_of_keys_are_closed_to_others(tmp_path: Path, name: str, mode: int, status: str) -> None:
    for file in ("keys", "private"):
        (tmp_path / file).touch()
        (tmp_path / file).chmod(mode if file == name else 0o600)
    files = {"keys_file": "keys", "tls_key_file": "private", "tls_cert_file": "certificate"}
    found = finding("keys", place({setting: str(tmp_path / file) for setting, file in files.items()}))
    assert found.status == status
    assert status == "ok" or str(tmp_path / name) in found.text


def test_file_of_keys_that_is_not_there_fails() -> None:
    assert finding("keys", place({"keys_file": "/nowhere/keys.toml"})).status == "fail"


@pytest.mark.parametrize(
    ("settings", "facts", "status"),
    [
        ({}, {}, "ok"),
        ({}, {"unsafe": ["synchronous_commit"]}, "fail"),
        ({"store": "memory"}, {}, "fail"),
        ({"postgres_dsn": ""}, {}, "warn"),
    ],
)
def test_what_is_acknowledged_must_be_kept(settings: dict[str, Any], facts: dict[str, Any], status: str) -> None:
    settings = {name: value or None for name, value in settings.items()}
    assert finding("durable", place(settings, **facts)).status == status


@pytest.mark.parametrize(
    ("connections", "workers", "pooler", "status"),
    [
        (55, "1", False, "ok"), (54, "1", False, "warn"), (40, "1", False, "warn"), (39, "1", False, "fail"),
        (100, "2", False, "ok"), (99, "2", False, "warn"), (70, "2", False, "warn"), (69, "2", False, "fail"),
        (1000, "1", True, "warn"),
    ],
)  # fmt: skip
def test_connections_suffice_for_every_replica(connections: int, workers: str, pooler: bool, status: str) -> None:
    at = place({"pool_size": "15", "workers": workers}, replicas=2, connections=connections, pooler=pooler)
    assert finding("pool", at).status == status


@pytest.mark.parametrize(
    ("upkeep", "status"),
    [
        (CACHE, "ok"),
        (replace(CACHE, persistent=True), "warn"),
        (replace(CACHE, max_memory=0), "warn"),
        (replace(CACHE, evicts=False), "warn"),
        (None, "warn"),
    ],
)
def test_cache_keeps_nothing_and_has_a_limit(upkeep: Upkeep | None, status: str) -> None:
    at = replace(place({"redis_url": "redis://cache"}), upkeep=upkeep)
    assert finding("cache", at).status == status
    assert finding("cache", place()).status == "warn"  # there is none


@pytest.mark.parametrize(
    ("settings", "replicas", "status"),
    [
        ({}, 3, "ok"),
        ({"blob_store": "s3://bucket/prefix"}, 3, "ok"),
        ({"blob_store": "file:///data"}, 1, "ok"),
        ({"blob_store": "file:///data"}, 2, "warn"),
    ],
)
def test_attachments_are_where_all_replicas_find_them(settings: dict[str, str], replicas: int, status: str) -> None:
    assert finding("blobs", place(settings, replicas=replicas)).status == status


@pytest.mark.parametrize(("skew", "status"), [(-0.9, "ok"), (1.1, "warn"), (-29.0, "warn"), (31.0, "fail")])
def test_clocks_agree(skew: float, status: str) -> None:
    assert finding("clock", place(clock_skew=skew)).status == status


@pytest.mark.parametrize(("level", "status"), [("debug", "warn"), ("info", "ok"), ("warning", "ok"), ("error", "warn")])
def test_log_says_neither_too_much_nor_too_little(level: str, status: str) -> None:
    assert finding("log", place({"log_level": level})).status == status


LIMITED = {"max_live_sessions": "100000"}


@pytest.mark.parametrize(
    ("settings", "files", "status"),
    [
        (LIMITED, FILES_NEEDED, "ok"),
        (LIMITED, FILES_NEEDED - 1, "warn"),
        ({}, FILES_NEEDED, "warn"),
        ({**LIMITED, "default_ttl": "0"}, FILES_NEEDED, "warn"),
        ({**LIMITED, "failpoints": "before_read=sleep:1"}, FILES_NEEDED, "fail"),
    ],
)
def test_limits_are_set(settings: dict[str, str], files: int, status: str) -> None:
    assert finding("limits", replace(place(settings), files=files)).status == status


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (None, "warn"),
        ("127.0.0.1:9464", "ok"),
        ("10.1.2.3:9464", "ok"),
        ("0.0.0.0:9464", "warn"),
        ("metrics.example:9464", "warn"),
        ("8.8.8.8:9464", "fail"),
    ],
)
def test_metrics_are_served_and_not_to_everyone(address: str | None, status: str) -> None:
    settings = {} if address is None else {"metrics_listen": address}
    assert finding("metrics", place(settings)).status == status


@pytest.mark.parametrize("archiving", [True, False])
def test_backups_are_left_to_a_person(archiving: bool) -> None:
    found = finding("backups", place(archiving=archiving))
    assert found.status == "manual"
    assert f"archive_mode is {'on' if archiving else 'off'}" in found.text


@pytest.mark.parametrize(("version", "status"), [(140020, "warn"), (150000, "ok"), (180003, "ok"), (190000, "warn")])
def test_version_of_postgres_is_maintained_and_tried(version: int, status: str) -> None:
    assert finding("version", place(version=version)).status == status


@pytest.mark.parametrize(("kind", "late"), [("transaction_age", 300_000_001), ("multixact_age", 600_000_001)])
@pytest.mark.parametrize(
    ("over", "status"), [(-1, "ok"), (0, "warn"), (AGE_OF_DANGER, "warn"), (AGE_OF_DANGER + 1, "fail")]
)
def test_transaction_ids_do_not_run_out(kind: str, late: int, over: int, status: str) -> None:
    """`late`: the least age at which autovacuum does not keep up, of which each kind has its own limit."""
    age = over if over > 1 else late + over
    facts: dict[str, Any] = {kind: age}
    assert finding("xids", place(**facts)).status == status


@pytest.mark.parametrize(
    ("facts", "status"), [({}, "ok"), ({"autovacuum": False}, "fail"), ({"not_vacuumed": ["events"]}, "fail")]
)
def test_autovacuum_is_on_for_every_table(facts: dict[str, Any], status: str) -> None:
    assert finding("vacuum", place(**facts)).status == status


def test_database_that_cannot_be_asked_fails_its_items() -> None:
    at = replace(place(), facts=None)
    failed = {item for item, found in findings(at) if found.status == "fail"}
    assert failed == {"durable", "pool", "clock", "version", "xids", "vacuum"}


def test_whatever_is_not_ok_has_a_remedy() -> None:
    at = replace(place({"listen": NETWORK}, unsafe=["fsync"], connections=1, autovacuum=False), upkeep=None)
    for item, found in findings(at):
        assert found.status == "ok" or found.remedy, item
