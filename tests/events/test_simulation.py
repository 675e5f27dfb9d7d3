"""Hundreds of schedules, each by its seed: nothing missed, doubled, reordered, falsely proved or silently diverged."""

import os

import pytest

from tests.support import virtual_time
from tests.support.effort import batches
from tests.support.hub_simulation import Schedule, Verdict

SCHEDULES = int(os.environ.get("SCHEDULES", "50"))
"""In each of five batches."""


@pytest.mark.parametrize("batch", batches(1, 5))
def test_every_watcher_gets_every_event_once_in_order(batch: int) -> None:
    total = Verdict()
    for seed in range(batch * SCHEDULES, (batch + 1) * SCHEDULES):
        verdict = virtual_time.run(Schedule(seed).run())
        assert verdict.sound, f"seed {seed}: {verdict.wrong}: {verdict.first}"
        total.add(verdict)
    for happened in (
        "events", "feed_events", "bookmark", "feed_bookmark", "delta", "redact", "pop", "both", "deltas", "cancelled",
        "resumed", "unavailable", "restart", "failover", "lost", "position_lost", "cut",
    ):  # fmt: skip
        assert total.seen[happened] > SCHEDULES // 10, happened
    assert total.seen["delete"]
