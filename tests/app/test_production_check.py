"""`sessiond check --production` against real servers."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from sessiond_server.auth import new_key
from sessiond_server.cli.production import ITEMS
from tests.support.serve_process import command
from tests.support.valkey import Valkey

LISTEN = ("--listen", "127.0.0.1:0")


def answers(output: str) -> dict[str, str]:
    """The first word of the line of each item, by item."""
    checklist = output[output.index("the checklist for production") :].splitlines()[1:]
    return {line.split()[1]: line.split()[0] for line in checklist if not line.startswith(" ")}


def test_every_item_is_answered_and_one_that_fails_makes_the_exit_code(postgres_dsn: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(new_key("a", "acme")[1])
    keys.chmod(0o640)
    arguments = ("check", "--production", *LISTEN, "--keys-file", keys, "--postgres-dsn", postgres_dsn)
    ran = command(*arguments, "--replicas", "2")
    found = answers(ran.stdout)
    assert list(found) == list(ITEMS)
    # The tests' own server does without fsync.
    assert (found.pop("durable"), ran.returncode) == ("FAILED", 1)
    assert found.pop("backups") == "MANUAL"
    assert "FAILED" not in found.values(), ran.stdout
    assert (
        found["tls"] == found["keys"] == found["pool"] == found["version"] == found["xids"] == found["vacuum"] == "ok"
    )
    too_many = command(*arguments, "--replicas", "100")
    assert answers(too_many.stdout)["pool"] == "FAILED"
    assert "Traceback" not in ran.stderr + too_many.stderr


def test_without_the_option_there_is_no_checklist(postgres_dsn: str) -> None:
    ran = command("check", *LISTEN, "--postgres-dsn", postgres_dsn)
    assert ran.returncode == 0
    assert "checklist" not in ran.stdout


def test_memory_store_fails_the_items_of_a_database_only() -> None:
    ran = command("check", "--production", *LISTEN, "--store", "memory", "--metrics-listen", "127.0.0.1:0")
    failed = {item for item, status in answers(ran.stdout).items() if status == "FAILED"}
    assert failed == {"durable", "pool", "clock", "version", "xids", "vacuum"}
    assert ran.returncode == 1


async def altered(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_table_that_autovacuum_leaves_alone_is_named(postgres_dsn: str) -> None:
    await altered(postgres_dsn, "alter table events set (autovacuum_enabled = false)")
    ran = await asyncio.to_thread(command, "check", "--production", *LISTEN, "--postgres-dsn", postgres_dsn)
    assert "FAILED  vacuum    it is off for events" in ran.stdout
    await altered(postgres_dsn, "alter table events reset (autovacuum_enabled)")
    again = await asyncio.to_thread(command, "check", "--production", *LISTEN, "--postgres-dsn", postgres_dsn)
    assert answers(again.stdout)["vacuum"] == "ok"


async def test_cache_that_writes_to_disk_or_has_no_limit_is_named(valkey: Valkey) -> None:
    arguments = ("check", "--production", *LISTEN, "--store", "memory", "--redis-url", valkey.url)
    unlimited = await asyncio.to_thread(command, *arguments)
    assert "WARNING cache     its memory has no limit" in unlimited.stdout
    async with valkey.client() as client:
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "allkeys-lru")
        good = await asyncio.to_thread(command, *arguments)
        await client.config_set("save", "3600 1")
        snapshots = await asyncio.to_thread(command, *arguments)
    assert answers(good.stdout)["cache"] == "ok", good.stdout
    assert "WARNING cache     it writes its data to disk" in snapshots.stdout


def test_database_that_is_away_is_reported_once_and_its_items_fail() -> None:
    ran = command("check", "--production", *LISTEN, "--postgres-dsn", "postgresql://me:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in ran.stdout + ran.stderr
    assert ran.returncode == 1
    assert ran.stdout.count("FAILED  postgres") == 1
    assert answers(ran.stdout)["xids"] == "FAILED"
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("replicas", ["0", "10001", "many"])
def test_number_of_replicas_that_cannot_be_is_refused(replicas: str) -> None:
    ran = command("check", "--production", "--replicas", replicas)
    assert ran.returncode == 2
    assert "--replicas" in ran.stderr
