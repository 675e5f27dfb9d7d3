"""`sessiond databases move` as the operator runs it: what it says, and with which code it exits."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from sessiond_server.postgres.moving import switching
from tests.support.databases import Databases
from tests.support.serve_process import command
from tests.support.several_databases import Dsns, group, variables
from tests.support.transactions import connected

MOVE = ("databases", "move", "globex")


@pytest.fixture
def dsns(databases: Databases) -> Iterator[Dsns]:
    made = {each: databases.create_migrated() for each in ("main", "eu", "us")}
    group(made, {"globex": "eu"})
    yield made
    for dsn in made.values():
        databases.drop(dsn)


def killed(dsns: Dsns, place: str, *arguments: str) -> None:
    """Runs the command until it is at that place, and kills it there."""
    ended = command(*MOVE, *arguments, **variables(dsns), SESSIOND_FAILPOINTS=f"{place}=exit:1")
    assert ended.returncode == -signal.SIGKILL, ended


@pytest.mark.long
def test_a_move_that_is_being_undone_is_not_reported_as_moved(dsns: Dsns) -> None:
    killed(dsns, "move_subscribed", "--to", "us")
    killed(dsns, "move_aborting", "--abort")
    refused = command(*MOVE, "--to", "us", **variables(dsns))
    assert refused.returncode == 1, refused
    assert "the move of globex to us is being undone: finish that with --abort" in refused.stderr
    assert refused.stdout == ""
    undone = command(*MOVE, "--abort", **variables(dsns))
    assert undone.returncode == 0, undone
    assert undone.stdout.endswith("globex stays in eu\n")
    again = command(*MOVE, "--abort", **variables(dsns))
    assert again.returncode == 1, again
    assert "no move of the tenant globex is under way" in again.stderr


def test_a_move_to_where_the_tenant_lives_changes_nothing(dsns: Dsns) -> None:
    done = command(*MOVE, "--to", "eu", **variables(dsns))
    assert (done.returncode, done.stdout) == (0, "globex lives in eu\n")


def test_a_move_to_another_database_than_the_one_under_way_is_refused(dsns: Dsns) -> None:
    killed(dsns, "move_copying", "--to", "us")
    refused = command(*MOVE, "--to", "main", **variables(dsns))
    assert refused.returncode == 1, refused
    assert "the tenant globex is moving to us: end that move, or abort it" in refused.stderr
    undone = command(*MOVE, "--abort", **variables(dsns))
    assert (undone.returncode, undone.stdout.splitlines()[-1]) == (0, "globex stays in eu")


@pytest.mark.long
def test_a_tenant_that_is_being_moved_is_not_placed(dsns: Dsns) -> None:
    """Its old home would take writes again, which its new one does not have."""
    killed(dsns, "move_fenced", "--to", "us")
    for each in ("eu", "us"):
        refused = command("databases", "place", "globex", "--to", each, **variables(dsns))
        assert refused.returncode == 1, refused
        assert "the tenant globex is being moved from eu to us" in refused.stderr
    assert home_in(dsns["eu"]) == "us"
    done = command(*MOVE, "--to", "us", **variables(dsns))
    assert done.returncode == 0, done


def away(dsns: Dsns) -> Dsns:
    """The databases, with one of them at a port where nothing listens."""
    return {**dsns, "us": "postgresql://nobody@127.0.0.1:1/none"}


def replicated(dsn: str) -> list[str]:
    """Names of what a move has made for its replication in a database."""

    async def names() -> list[str]:
        async with connected(dsn) as connection:
            rows = await connection.fetch(
                "select pubname from pg_publication union all "
                "select subname from pg_subscription where subdbid = "
                "(select oid from pg_database where datname = current_database()) union all "
                "select slot_name from pg_replication_slots where database = current_database()"
            )
        return [row[0] for row in rows]

    return asyncio.run(names())


def home_in(dsn: str) -> str | None:
    """Where a database says that the tenant lives."""

    async def home() -> str | None:
        async with connected(dsn) as connection:
            return await switching.home(connection, "globex")

    return asyncio.run(home())


@pytest.mark.long
def test_a_move_to_a_database_that_is_away_is_undone_at_the_source_first(dsns: Dsns) -> None:
    killed(dsns, "move_fenced", "--to", "us")
    assert home_in(dsns["eu"]) == "us"
    left = command(*MOVE, "--abort", **variables(away(dsns)))
    assert left.returncode == 1, left
    assert "eu takes writes of globex again; slot and publication of the move are dropped there" in left.stdout
    (name,) = replicated(dsns["us"])
    assert "us cannot be used (" in left.stderr
    assert f"Left there: the subscription {name} and the copied rows of globex" in left.stderr
    assert "Run this command again once it can be used" in left.stderr
    assert home_in(dsns["eu"]) == "eu"
    assert replicated(dsns["eu"]) == []
    undone = command(*MOVE, "--abort", **variables(dsns))
    assert (undone.returncode, undone.stdout.splitlines()[-1]) == (0, "globex stays in eu"), undone
    assert [replicated(dsn) for dsn in dsns.values()] == [[], [], []]


@pytest.mark.long
def test_a_move_to_a_database_that_is_lost_ends_with_an_empty_one_of_its_id(dsns: Dsns, databases: Databases) -> None:
    killed(dsns, "move_copying", "--to", "us")
    assert command(*MOVE, "--abort", **variables(away(dsns))).returncode == 1
    fresh = databases.create_migrated()
    try:
        replaced = {**dsns, "us": fresh}
        assert command("databases", "add", "us", **variables(replaced)).returncode == 0
        undone = command(*MOVE, "--abort", **variables(replaced))
        assert (undone.returncode, undone.stdout.splitlines()[-1]) == (0, "globex stays in eu"), undone
        assert "moves from" not in command("databases", "list", **variables(replaced)).stdout
    finally:
        databases.drop(fresh)
