"""Lists that are fetched one page at a time."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import ListEventsResponse
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import ListMessagesResponse


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


Page = TypeVar("Page")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Pages(Generic[Page, Item]):
    """A list that is fetched one page at a time, as it is read.

    `async for item in pages` iterates over all items, `async for page in pages.pages()` over the answers of the
    service, which also carry tokens and versions. Each iteration starts at the first page, or at the list's
    `page_token`. When a page could not be fetched, or the wait for it was cancelled, the next step of the same iterator
    requests it again. An iterator is for one task and need not be closed.
    """

    fetch: Callable[[str], Awaitable[Page]]
    """Fetches the page of a token."""
    items: Callable[[Page], Sequence[Item]]
    first_token: str = ""

    def __aiter__(self) -> AsyncIterator[Item]:
        return _Items(self.pages(), self.items)

    def pages(self) -> AsyncIterator[Page]:
        """Iterates over the pages from the list's `page_token` on."""
        return _PageIterator(self.fetch, self.first_token, cast("Callable[[Page], str]", _next_token))

    async def page(self) -> Page:
        """Fetches one page: the first, or that of the list's `page_token`."""
        return await self.fetch(self.first_token)


@dataclass(frozen=True, slots=True)
class MessagePages(Pages[ListMessagesResponse, Message]):
    """The messages of a session: Pages that can also be read backwards."""

    def pages(self, *, back: bool = False) -> AsyncIterator[ListMessagesResponse]:
        """Iterates over the pages from the list's `page_token` on; with `back`, towards the first page. Each page keeps
        the order of the list.

        To go back from a page, start at its `previous_page_token`.
        """
        return _PageIterator(self.fetch, self.first_token, _previous_token if back else _next_token)


@dataclass(frozen=True, slots=True)
class EventPages(Pages[ListEventsResponse, Event]):
    """The events of a session: Pages whose tokens are positions. A list or a watch can continue at each page's
    `position`, also at that of the last page."""

    def pages(self) -> AsyncIterator[ListEventsResponse]:
        """Iterates over the pages from the list's position on, up to the end of the log at the time of the read."""
        return _PageIterator(self.fetch, self.first_token, _next_position)


def _next_token(page: _Page) -> str:
    return page.next_page_token


def _next_position(page: ListEventsResponse) -> str:
    return page.position if page.more else ""


def _previous_token(page: ListMessagesResponse) -> str:
    return page.previous_page_token


class _PageIterator(Generic[Page]):
    """A class and not an async generator, which would have to be closed and would end for good at a failed fetch."""

    def __init__(self, fetch: Callable[[str], Awaitable[Page]], token: str, follow: Callable[[Page], str]) -> None:
        self._fetch = fetch
        self._token: str | None = token
        self._follow = follow

    def __aiter__(self) -> "_PageIterator[Page]":
        return self

    async def __anext__(self) -> Page:
        if self._token is None:
            raise StopAsyncIteration
        page = await self._fetch(self._token)
        self._token = self._follow(page) or None
        return page


class _Items(Generic[Page, Item]):
    def __init__(self, pages: AsyncIterator[Page], items: Callable[[Page], Sequence[Item]]) -> None:
        self._pages = pages
        self._items_of = items
        self._page: Sequence[Item] = ()
        self._next = 0

    def __aiter__(self) -> "_Items[Page, Item]":
        return self

    async def __anext__(self) -> Item:
        while (item := self.held()) is None:
            self._page, self._next = self._items_of(await anext(self._pages)), 0
        return item

    def held(self) -> Item | None:
        """Returns the next item if its page has been fetched; else None."""
        if self._next == len(self._page):
            return None
        self._next += 1
        return self._page[self._next - 1]
