"""`sessiond databases move` as the operator runs it: what it says, and with which code it exits."""

import signal
from collections.abc import Iterator

import pytest

from tests.support.databases import Databases
from tests.support.serve_process import command
from tests.support.several_databases import Dsns, group, variables

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
