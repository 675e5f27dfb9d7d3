"""The health status that a store's state leads to."""

import logging
from typing import Any, cast

import pytest

from sessiond_server.errors import StoreUnavailable
from sessiond_server.store_watch import STALL_SECONDS, StoreWatch


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
