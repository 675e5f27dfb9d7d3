"""Background tasks, for which their creator does not wait and whose failure must not stay unobserved."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

FAILED: Final = "sessiond_background_task"
"""Key of the task's name in the context that the loop's exception handler gets."""


def run_in_background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Starts a task that runs until it is finished or cancelled. The creator must keep it, cancel it in the end, and
    await that.

    If the task raises, the loop's exception handler is called at once, which logs the error. The handler of `app` also
    takes the service out of use, because a task that has failed unexpectedly does not continue by itself.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_report)
    return task


class Endings:
    """Work that calls leave to be finished when they end early. It must not raise, but where the call awaits it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many are not finished."""
        return len(self._tasks)

    async def finished(self) -> None:
        """Returns once nothing is left. For when no more begins."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def begin(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(ending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _report(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        name = task.get_name()
        task.get_loop().call_exception_handler(
            {"message": f"the background task {name} has failed", "exception": error, "task": task, FAILED: name}
        )
