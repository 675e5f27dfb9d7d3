"""Waits for what nothing announces: another process, a server, a task."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

PATIENCE = 240.0
"""Seconds after which a wait has failed: the machine may be busy."""


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Returns once the condition holds. TimeoutError after PATIENCE.

    Looks less often as time goes by, at least fifty times a second: a look may ask a database, and while a test waits
    for another process, it must not take the processor from it.
    """
    pause = 0.002
    async with asyncio.timeout(PATIENCE):
        while True:
            holds = condition()
            if inspect.isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, 0.02)
