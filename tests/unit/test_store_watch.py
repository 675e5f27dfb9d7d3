"""The health status that a store's state leads to."""

import asyncio
import logging
from typing import Any, cast

import pytest

from sessiond_server.errors import StoreUnavailable
from sessiond_server.store_watch import LAGS, PING_PAUSE, STALL_SECONDS, StoreWatch
from tests.support import virtual_time
from tests.support.virtual_time import VirtualLoop


class _Store:
    def __init__(self) -> None:
        self.error: Exception | None = None

    async def ping(self) -> None:
        if self.error is not None:
            raise self.error


class _Health:
    def __init__(self) -> None:
        self.told: list[bool] = []
        self.stalled = 0.0

    async def changed(self, reachable: bool) -> None:
        self.told.append(reachable)


async def test_store_that_answers_pings_and_no_writes_is_not_serving(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = _Health()
    watch = StoreWatch(cast("Any", _Store()), health.changed, lambda: health.stalled)
    await watch.begin()
    health.stalled = STALL_SECONDS - 0.1
    await watch.look()
    assert health.told == []
    health.stalled = STALL_SECONDS + 0.1
    for _ in range(3):
        await watch.look()
    assert health.told == [False]
    health.stalled = 0.0
    await watch.look()
    assert health.told == [False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "the store answers, but has not answered writes for 4.1 s",
        "the store answers again",
    ]


async def test_unreachable_store_is_reported_to_health_once() -> None:
    health, store = _Health(), _Store()
    watch = StoreWatch(cast("Any", store), health.changed, lambda: health.stalled)
    await watch.begin()
    store.error = StoreUnavailable()
    await watch.look()
    await watch.look()
    store.error = None
    await watch.look()
    assert health.told == [False, True]


def test_lag_of_the_event_loop_is_its_worst_of_the_last_minute() -> None:
    health = _Health()
    watch = StoreWatch(cast("Any", _Store()), health.changed, lambda: health.stalled)

    async def late_once() -> tuple[float, float, float]:
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(2.5)
        before = watch.loop_lag
        loop.call_soon(loop.block, 3.0)
        await asyncio.sleep(1.0)
        after = watch.loop_lag
        await asyncio.sleep(LAGS * PING_PAUSE + 1)
        watching.cancel()
        return before, after, watch.loop_lag

    before, after, later = virtual_time.run(late_once())
    assert before == later == 0
    assert after == 2.5
