"""A thousand seeded schedules leave no stale entry, no answer below its min_version, and no deleted session."""

import os

import pytest

from tests.support import virtual_time
from tests.support.cache_simulation import Schedule, Verdict
from tests.support.effort import batches

SCHEDULES = int(os.environ.get("SCHEDULES", "150"))
"""In each of seven batches."""


@pytest.mark.parametrize("batch", batches(1, 5))
def test_no_race_leaves_a_stale_entry(batch: int) -> None:
    total = Verdict()
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES):
        verdict = virtual_time.run(Schedule(seed).run())
        assert verdict.sound, f"seed {seed}: {verdict}"
        total.add(verdict)
    for happened in ("flush", "failover", "cut", "append", "redact", "delete", "min_version", "strong"):
        assert total.seen[happened] > SCHEDULES // 20


@pytest.mark.long
@pytest.mark.parametrize("batch", batches(1, 2))
def test_stale_entry_of_a_crashed_process_ends_with_its_time_to_live(batch: int) -> None:
    total = Verdict()
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES):
        verdict = virtual_time.run(Schedule(seed, crashes=True).run())
        assert verdict.sound, f"seed {seed}: {verdict}"
        total.add(verdict)
    assert total.seen["crash"] > SCHEDULES // 10
