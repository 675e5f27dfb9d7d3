"""Two servers replaced in turn behind one client: no call fails, and no watcher loses or doubles an event."""

from pathlib import Path

import pytest

from sessiond_server.postgres.schema.migrate import migrations
from tests.support import earlier_server
from tests.support.replica import Replica
from tests.support.rolls import rolled
from tests.support.serve_process import command

BESIDE_OLD_ONES = {"SESSIOND_CONTENT_PATCHES": "0"}
"""What docs/compatibility.md says of an upgrade from a version before patches."""


@pytest.mark.long
async def test_restarts_in_turn_are_not_noticed(postgres_dsn: str, tmp_path: Path) -> None:
    replicas = [Replica(postgres_dsn, tmp_path / f"server-{number}.log") for number in range(2)]
    await rolled(replicas, replicas * 3)


@pytest.mark.long
async def test_upgrade_from_the_release_before_is_not_noticed(empty_postgres_dsn: str, tmp_path: Path) -> None:
    """The old servers go on while the first new one migrates the database, and beside it."""
    earlier = earlier_server.of_last_release(tmp_path / "earlier")
    old = [Replica(empty_postgres_dsn, tmp_path / f"old-{number}.log", earlier) for number in range(2)]
    new = [Replica(empty_postgres_dsn, tmp_path / f"new-{number}.log", BESIDE_OLD_ONES) for number in range(2)]
    await rolled(old, new)


@pytest.mark.long
async def test_servers_of_one_schema_go_back_and_forth(empty_postgres_dsn: str, tmp_path: Path) -> None:
    earlier = earlier_server.of_this_schema(tmp_path / "earlier")
    old = [Replica(empty_postgres_dsn, tmp_path / f"old-{number}.log", earlier) for number in range(2)]
    new = [Replica(empty_postgres_dsn, tmp_path / f"new-{number}.log") for number in range(2)]
    await rolled(old, [*new, *old, *new])


@pytest.mark.long
async def test_an_older_server_refuses_a_newer_schema_and_says_why(postgres_dsn: str, tmp_path: Path) -> None:
    earlier = earlier_server.of_last_release(tmp_path / "earlier")
    if earlier_server.migrations(earlier) == len(migrations()):
        pytest.skip("the schema is that of the last release")
    said = command("serve", "--postgres-dsn", postgres_dsn, "--listen", "127.0.0.1:0", **earlier)
    assert said.returncode == 1
    assert f"schema is version {len(migrations())}; this server knows versions up to" in said.stderr
    assert "Traceback" not in said.stderr
