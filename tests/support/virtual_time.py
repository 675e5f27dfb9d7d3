"""An event loop without I/O, whose clock jumps to the next thing that happens: a schedule of an hour takes a moment."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """Everything that happens on it is decided by its callers: the same ones make the same run."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[object]:
        """In the place of waiting for the network."""
        if timeout is None:
            raise RuntimeError("everything waits for something that never comes")
        self._now += timeout
        return []

    def block(self, seconds: float) -> None:
        """The time that a callback takes, in which nothing else of the loop can happen."""
        self._now += seconds

    def _process_events(self, events: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing has to be woken up."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns; every task that it left behind is cancelled."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()
