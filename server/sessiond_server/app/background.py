"""The tasks that run while the service does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def background_tasks() -> AsyncIterator[Callable[[Coroutine[Any, Any, None], str], None]]:
    """Gives a function that starts tasks, all cancelled when the context closes. One that fails closes the context."""
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
    """The error of the one task that failed: a TaskGroup raises it as a group of one."""
    inner = group.exceptions[0]
    return only_error(inner) if isinstance(inner, BaseExceptionGroup) else inner
