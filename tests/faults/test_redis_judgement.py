"""When a campaign against Redis counts as passed."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.faults.ledger import Verdict
from tests.faults.redis_faults import FEWEST, Report, Seen, p99

CALM = [0.010] * FEWEST
SOUND = Report(faults=4, acked=9, verdict=Verdict(), seen=Seen(reads=9, calm=CALM, hurt=CALM), audited=9, stale=0,
               seconds=1.0)  # fmt: skip


def timed(calm: Sequence[float], hurt: Sequence[float]) -> Report:
    return replace(SOUND, seen=replace(SOUND.seen, calm=list(calm), hurt=list(hurt)))


def test_a_clean_one_passes() -> None:
    assert SOUND.sound
    assert "ratio=1.00" in SOUND.line()


@pytest.mark.parametrize(
    "damaged",
    [
        replace(SOUND, stale=1),
        replace(SOUND, verdict=Verdict(lost=1)),
        replace(SOUND, seen=replace(SOUND.seen, below_min_version=1)),
        replace(SOUND, acked=0),
        replace(SOUND, audited=0),
        replace(SOUND, seen=replace(SOUND.seen, reads=0)),
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_what_is_wrong_or_was_not_looked_at_fails_it(damaged: Report, timed: bool) -> None:
    assert not replace(damaged, timed=timed).sound


def test_writes_take_less_than_twice_their_normal_time_in_an_outage() -> None:
    assert timed(CALM, [0.019] * FEWEST).sound
    slow = timed(CALM, [0.020] * FEWEST)
    assert not slow.sound
    assert "write_p99_ms=10.0 write_p99_ms_in_outage=20.0 ratio=2.00 " in slow.line()
    assert replace(slow, timed=False).sound, "where nothing is timed"


@pytest.mark.parametrize(("calm", "hurt"), [(CALM, []), ([], CALM), ([], []), (CALM, CALM[1:]), (CALM[1:], CALM)])
def test_too_few_writes_prove_nothing(calm: list[float], hurt: list[float]) -> None:
    assert not timed(calm, hurt).sound
    assert "ratio=nan" in timed(calm, hurt).line()


def test_p99_is_what_one_in_a_hundred_exceeds() -> None:
    assert p99([float(value) for value in range(1000)]) == 990.0
    assert math.isnan(p99([0.0] * (FEWEST - 1)))
