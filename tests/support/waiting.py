"""Waits for what nothing announces: another process, a server, a task."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

PATIENCE = 240.0
"""Seconds after which a wait has failed: the machine may be busy."""


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Returns once the condition holds. TimeoutError after PATIENCE."""
    async with asyncio.timeout(PATIENCE):
        while True:
            holds = condition()
            if inspect.isawaitable(holds):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.002)
