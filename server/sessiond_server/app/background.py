"""Runs the background tasks of the service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Background = Callable[[Coroutine[Any, Any, None], str], None]
"""Starts a background task, as `background_tasks` yields it."""


@asynccontextmanager
async def background_tasks() -> AsyncIterator[Background]:
    """Yields a function that starts tasks. Leaving the context cancels them; a task that fails closes the context."""
    async with asyncio.TaskGroup() as group:
        started: list[asyncio.Task[None]] = []

        def start(work: Coroutine[Any, Any, None], name: str) -> None:
            started.append(group.create_task(work, name=name))

        try:
            yield start
        finally:
            for task in started:
                task.cancel()


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error of the single task that failed, which a TaskGroup raises as a group of one."""
    inner = group.exceptions[0]
    return only_error(inner) if isinstance(inner, BaseExceptionGroup) else inner
