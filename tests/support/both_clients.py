"""The synchronous client in the shape of the asynchronous one, so that one test proves both."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

import sessiond
from sessiond import download, draft, feed, live_run, pages, watch
from sessiond.callbacks import SyncIterator
from sessiond.sync_client import SyncEventPages, SyncMessagePages
from tests.support.waiting import PATIENCE

TWINS: dict[type, type] = {
    sessiond.SyncClient: sessiond.Client,
    sessiond.SyncPages: pages.Pages,
    SyncMessagePages: pages.MessagePages,
    SyncEventPages: pages.EventPages,
    sessiond.SyncWatch: watch.Watch,
    sessiond.SyncFeed: feed.Feed,
    sessiond.SyncDownload: download.Download,
    sessiond.SyncDraft: draft.Draft,
    sessiond.SyncLiveRun: live_run.LiveRun,
}

_END = object()

Test = TypeVar("Test", bound=Callable[..., Any])


def async_only(reason: str) -> Callable[[Test], Test]:
    """Marks a test of a file with BOTH_CLIENTS = True that is for the asynchronous client alone."""

    def mark(test: Test) -> Test:
        test.__dict__["async_only"] = reason
        return test

    return mark


async def in_thread(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What the function returns or raises, in a thread of its own: many may wait at the same time."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        value, failure = None, None
        try:
            value = function(*arguments, **named)
        except BaseException as error:
            failure = error

        def settle() -> None:
            if answer.done():
                return
            if failure is None:
                answer.set_result(value)
            else:
                answer.set_exception(failure)

        with suppress(RuntimeError):  # the test may be over
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, daemon=True).start()
    async with asyncio.timeout(PATIENCE):
        return await answer


class Shaped:
    """An object of the synchronous client with the methods of its asynchronous twin. What waits, waits in a thread.
    Cancelling such a wait leaves it waiting: tests that cancel are for the asynchronous client."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        inner = self.__dict__["inner"]
        value = getattr(inner, "close" if name == "aclose" else name)
        if not inspect.ismethod(value):
            return value
        if name == "aclose" or inspect.iscoroutinefunction(getattr(TWINS.get(type(inner)), name, None)):
            return lambda *arguments, **named: in_thread(value, *arguments, **named)
        return lambda *arguments, **named: _shaped(value(*arguments, **named))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["inner"], name, value)

    def __aiter__(self) -> "Shaped":
        return Shaped(iter(self.__dict__["inner"]))

    async def __anext__(self) -> Any:
        item = await in_thread(next, self.__dict__["inner"], _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> "Shaped":
        await in_thread(self.__dict__["inner"].__enter__)
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await in_thread(self.__dict__["inner"].__exit__, *failure)


def _shaped(value: Any) -> Any:
    return Shaped(value) if type(value) in TWINS or isinstance(value, SyncIterator) else value


@asynccontextmanager
async def connected(client_kind: str, target: str, **options: Any) -> AsyncIterator[sessiond.Client]:
    """A client of that kind, in the shape of the asynchronous one."""
    if client_kind == "async":
        async with sessiond.Client(target, **options) as client:
            yield client
    else:
        async with Shaped(sessiond.SyncClient(target, **options)) as shaped:
            yield cast("sessiond.Client", shaped)
