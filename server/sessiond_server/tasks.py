"""Tasks in the background: work that its creator does not wait for, and that must not die unobserved."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

FAILED: Final = "sessiond_background_task"
"""Key of the name of the task, in the context that the loop's exception handler gets."""


def run_in_background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Starts work that goes on until it is cancelled, or has done all there is to do. Its creator holds it, cancels it
    in the end, and waits for that.

    When it raises, the loop's exception handler is called at once: it logs the error, and that of `app` takes the
    service out of use, for what has failed in a way that its own code did not foresee does not go on by itself.
    """
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_report)
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
