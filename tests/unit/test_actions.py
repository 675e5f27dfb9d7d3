"""The table of actions: complete, and enough for caches and subscribers."""

from typing import get_args

import pytest

from sessiond_server.domain import commands as c
from sessiond_server.domain import replay
from sessiond_server.domain.batch import ACTIONS
from tests.support.run_actions import begin
from tests.support.session_log import KEY, Log


def test_every_action_has_one_row() -> None:
    assert set(ACTIONS) == set(get_args(c.Action))


@pytest.mark.parametrize("kind", get_args(c.Outcome))
def test_every_outcome_has_the_version_of_the_session(kind: type) -> None:
    assert hasattr(kind, "version"), "announcing and the cache read it of any outcome"


def test_repeated_command_is_announced_with_its_first_outcome() -> None:
    log = Log()
    log.create()
    command = log.command(c.SuspendSession())
    (first,) = log.apply(command)
    (again,) = log.apply(command)
    assert again == first
    assert list(replay.repeated([command], [again], set())) == [(command, first)]
    assert list(replay.repeated([command], [again], {KEY})) == [], "the batch has written the session: that says more"


def test_heartbeat_is_no_repeated_command() -> None:
    """It writes no event, so nothing was announced before."""
    log = Log()
    log.create()
    log.ok(begin("r1"))
    command = log.command(c.HeartbeatRun(), fence=c.Fence("r1", 2))
    results = log.apply(command)
    assert list(replay.repeated([command], results, set())) == []
