"""The pace at which calls are accepted: no faster than they are served."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Protocol

from sessiond_server.rpc.ahead import Ahead

ENOUGH_OF_MANY: Final = 8192
"""Calls in progress at which no more are accepted while there are several tenants: a call must be accepted before its
tenant is known, and a tenant's share bounds how much it delays others."""
STALLED: Final = 0.5
"""Seconds without the end of a call after which calls are accepted anyway: then something else than their number delays
the calls in progress, and calls of other kinds may well be served."""
LOOK_EVERY: Final = 0.002
"""Seconds between two looks at whether there is room again."""

_REQUEST_CALL: Final = "AioServer._request_call"
"""The coroutine by which grpc.aio accepts one call; it runs in a task of its own."""


class Progress(Protocol):
    """Counts of the calls in progress."""

    @property
    def present(self) -> int:
        """Calls that are served or wait for a place."""
        ...

    @property
    def left(self) -> int:
        """Calls that have given their places back so far."""
        ...


class Intake:
    """Decides whether the next call is accepted.

    Accepting a call costs grpc.aio about as much as serving an empty one, even if its caller has left. So calls that
    cannot be served yet stay in grpc's C core, where they cost almost nothing, and where refusing those beyond
    `grpc.server.max_pending_requests` costs almost nothing (docs/decisions/0024-calls-wait-in-the-core.md).
    """

    def __init__(self, calls: Progress, enough: int, *, alone: Callable[[], bool], clock: Callable[[], float]) -> None:
        """`enough`: calls in progress at which no more are accepted. `alone`: whether there is only one tenant.
        `clock`: seconds."""
        self._calls = calls
        self._enough = enough
        self._alone = alone
        self._clock = clock
        self._left = 0
        self._left_at = clock()
        self._ended = False
        self._ahead = Ahead()
        self._request_call: Callable[[], Coroutine[Any, Any, Any]] | None = None

    def full(self) -> bool:
        """Whether the next call must wait."""
        calls = self._calls
        if self._ended or calls.present < self._enough:
            return False
        now = self._clock()
        if calls.left != self._left:
            self._left = calls.left
            self._left_at = now
        return now - self._left_at <= STALLED and (calls.present >= ENOUGH_OF_MANY or self._alone())

    def end(self) -> None:
        """Accepts every call from now on, and none ahead: a server that stops waits for the task that accepts calls."""
        self._ended = True
        self._ahead.end()

    async def handed_over(self) -> None:
        """Returns once grpc.aio has got the calls that were accepted ahead. To be called after `end`."""
        await self._ahead.handed_over()

    def govern(self, loop: asyncio.AbstractEventLoop, server: object = None) -> None:
        """Sets the pace of servers that are started in this context. `server`: the one, of grpc.aio, for which calls
        are accepted ahead while there are several tenants; None: calls are accepted one by one."""
        _GOVERNING.set(self)
        self._request_call = getattr(getattr(server, "_server", None), "_request_call", None)
        factory = loop.get_task_factory()
        if getattr(factory, "__func__", None) is not _TaskFactory.make:
            loop.set_task_factory(_TaskFactory(factory).make)

    def ahead(self) -> bool:
        """Whether the next call comes from those that are accepted ahead."""
        return self._request_call is not None and (not self._alone() or self._ahead.used)

    def next(self, first: Coroutine[Any, Any, Any], task: Callable[[Any], "asyncio.Future[Any]"]) -> Any:
        """The future of the next call. `first` is grpc's request for it; `task` makes a task of a coroutine."""
        request_call = self._request_call
        if self.full():
            return self._ahead.next(task(_when_there_is_room(self, first)))
        if request_call is None or self._alone():
            return self._ahead.next(task(first))
        return self._ahead.next(task(first), lambda: task(request_call()))

    async def room(self) -> None:
        """Returns once the next call may be accepted."""
        while self.full():  # noqa: ASYNC110 - calls should not pay for saying that they end
            await asyncio.sleep(LOOK_EVERY)


_GOVERNING: ContextVar[Intake | None] = ContextVar("intake", default=None)


class _TaskFactory:
    """Creates the tasks of a loop; tasks that accept a call start once there is room."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def make(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Future[Any]":
        if getattr(coro, "__qualname__", "") == _REQUEST_CALL:
            intake = _GOVERNING.get()
            if intake is not None:
                if intake.ahead():
                    return intake.next(coro, partial(self._task, loop, **options))  # type: ignore[no-any-return]
                if intake.full():
                    coro = _when_there_is_room(intake, coro)
        if self._before is not None:
            return self._before(loop, coro, **options)  # type: ignore[no-any-return]
        return asyncio.Task(coro, loop=loop, **options)

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Future[Any]":
        if self._before is not None:
            return self._before(loop, coro, **options)  # type: ignore[no-any-return]
        return asyncio.Task(coro, loop=loop, **options)


async def _when_there_is_room(intake: Intake, request_call: Coroutine[Any, Any, Any]) -> Any:
    try:
        await intake.room()
    except BaseException:
        request_call.close()
        raise
    return await request_call
