"""The event loop that serves all synchronous clients of a process, in a thread of its own, and the calls that wait for
it."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from sessiond.errors import ClientClosed, ClientForked
from sessiond.forks import forked

Value = TypeVar("Value")

PARTING = 5.0
"""Maximum seconds that an interrupted caller waits until its call has ended."""
ENDING = 2.0
"""Maximum seconds that the interpreter's exit waits for the loop."""

_started: "LoopThread | None" = None
_starting = threading.Lock()
_exiting = False


class LoopThread:
    """An event loop in a daemon thread, from the first call of the process until the interpreter exits."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sessiond-sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        # As asyncio.run does at its end, so that nothing is left to warn about.
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=ENDING / 2))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def end(self) -> None:
        """Stops the loop and cancels what runs on it. Waits at most ENDING seconds."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(ENDING)


def _the_loop() -> asyncio.AbstractEventLoop:
    """Returns the loop of this process; starts it at the first call."""
    global _started
    with _starting:
        if _exiting:
            raise ClientClosed
        if _started is None:
            _started = LoopThread()
        return _started.loop


def _at_exit() -> None:
    global _exiting
    _exiting = True
    if _started is not None:
        _started.end()


def _after_fork() -> None:
    """The child has neither the thread nor, perhaps, the lock in a state that it can use."""
    global _started, _starting
    _started, _starting = None, threading.Lock()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)


class _Call(Generic[Value]):
    """One call on the loop, and the inbox of the thread that waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Value]) -> None:
        self._coroutine = coroutine
        self._value: Value | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self.inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        """What the waiting thread must do for the call; None once the call is over."""

    def start(self) -> None:
        if self._cancelled:
            self._coroutine.close()
            self.inbox.put(None)
        else:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="sessiond-sync-call")

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        _call.set(self)
        try:
            self._value = await self._coroutine
        except BaseException as error:
            self._error = error
        if not _exiting:  # a daemon thread must not wake up for that, and print its traceback
            self.inbox.put(None)

    def result(self) -> Value:
        error, self._error = self._error, None
        if error is None:
            return cast("Value", self._value)
        try:
            raise ClientClosed if isinstance(error, asyncio.CancelledError) else error
        finally:
            del error  # its traceback refers to this frame


_call: ContextVar[_Call[Any]] = ContextVar("sessiond_sync_call")


def wait(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Runs the coroutine on the loop and returns its value, or raises its error, in this thread.

    An exception that a signal raises meanwhile, such as KeyboardInterrupt, cancels the call and is raised once the call
    has ended, or after PARTING seconds. Raises RuntimeError in a thread whose event loop it would block; ClientForked;
    ClientClosed while the interpreter exits.
    """
    try:
        _refuse_on_a_loop()
        if forked():
            raise ClientForked
        loop = _the_loop()
    except BaseException:
        coroutine.close()
        raise
    call = _Call(coroutine)
    loop.call_soon_threadsafe(call.start)
    try:
        while (work := call.inbox.get()) is not None:
            work()
    except BaseException:
        loop.call_soon_threadsafe(call.cancel)
        with suppress(Empty):
            while call.inbox.get(timeout=PARTING) is not None:
                pass
        raise
    return call.result()


def leave(coroutine: Coroutine[Any, Any, object]) -> None:
    """Waits for a coroutine that closes something. Does nothing where there is nothing left to close: in a child that
    was forked after its parent had connected, and while the interpreter exits."""
    if forked() or _exiting:
        coroutine.close()
    else:
        wait(coroutine)


async def in_caller(function: Callable[..., Value], *arguments: object) -> Value:
    """Runs a function in the thread that waits for the running call, and returns what it returns."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Value] = loop.create_future()

    def work() -> None:
        try:
            value = function(*arguments)
        except Exception as error:
            loop.call_soon_threadsafe(settle, answer, None, error)
        else:
            loop.call_soon_threadsafe(settle, answer, value, None)

    _call.get().inbox.put(work)
    return await answer


def settle(future: "asyncio.Future[Value]", value: Value | None, error: Exception | None) -> None:
    """Gives a future the outcome of what ran in another thread, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(cast("Value", value))


def tell_caller(work: Callable[[], object]) -> None:
    """Has the thread that waits for the running call do something, without waiting for it. What `work` raises there
    cancels the call."""
    _call.get().inbox.put(work)


def _refuse_on_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "a synchronous client would block the event loop that runs in this thread: use sessiond.Client and await its"
        " methods, or call the synchronous one in another thread, for example by asyncio.to_thread"
    )
