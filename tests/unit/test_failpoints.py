"""Failpoints: a specification arms exactly the faults that it names."""

import os
import signal
import time
from collections.abc import Iterator
from random import Random

import pytest

from sessiond_server import failpoints
from sessiond_server.failpoints import Fault


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_accepted_specifications() -> None:
    text = (
        " after_commit=exit:0.01, before_deliver=sleep:0.2,before_read=sleep:0.1:0.5 ,before_hint=drop,"
        "before_cache=drop:0.3"
    )
    assert failpoints.parse(text) == {
        "after_commit": Fault("exit", 0.01),
        "before_deliver": Fault("sleep", 1.0, 0.2),
        "before_read": Fault("sleep", 0.5, 0.1),
        "before_hint": Fault("drop"),
        "before_cache": Fault("drop", 0.3),
    }
    assert failpoints.parse("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "nowhere=exit:1",
        "after_commit",
        "after_commit=exit",
        "after_commit=exit:0",
        "after_commit=exit:1.5",
        "after_commit=exit:x",
        "after_commit=drop",
        "before_read=sleep",
        "before_read=sleep:61",
        "before_read=sleep:-1",
        "before_read=sleep:1:1:1",
        "before_hint=burn:1",
    ],
)
def test_invalid_specification_is_refused_and_arms_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|could not"):
        failpoints.arm(text)
    assert not failpoints.armed


async def test_drop_affects_its_failpoint_only() -> None:
    failpoints.arm("before_hint=drop")
    assert await failpoints.reach("before_hint")
    assert failpoints.hit("before_hint")
    assert not await failpoints.reach("before_cache")
    failpoints.arm("")
    assert not failpoints.hit("before_hint")


def test_probabilities_are_kept() -> None:
    failpoints.arm("before_hint=drop:0.3", Random(1))
    assert 250 < sum(failpoints.hit("before_hint") for _ in range(1000)) < 350


async def test_sleep_delays_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    failpoints.arm("before_hint=sleep:0.25")
    assert not failpoints.hit("before_hint")
    assert slept == [0.25]


def test_exit_kills_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *what: killed.append(what))
    failpoints.arm("after_commit=exit:1")
    failpoints.hit("after_commit")
    assert killed == [(os.getpid(), signal.SIGKILL)]
