"""The client's methods for search."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

from sessiond.connection import Connection
from sessiond.fields import RoleLike, SearchOrderLike, SessionWhere, enum_value, session_filter, timestamp
from sessiond.pages import Pages
from sessiond.v1.message_pb2 import Role
from sessiond.v1.search_service_pb2 import (
    MessageHit,
    SearchMessagesRequest,
    SearchMessagesResponse,
    SearchOrder,
    SearchSessionsRequest,
    SearchSessionsResponse,
    SeenVersion,
    SessionHit,
)


class SearchCalls:
    """SearchService; see `Client` for what all methods have in common.

    A query is words, all of which must occur: `two words`, `"a phrase"`, `begin*`, `-without`, `this OR that`.
    """

    _connection: Connection

    def search_messages(
        self,
        query: str,
        *,
        session_id: str = "",
        roles: Iterable[RoleLike] = (),
        time_from: datetime | None = None,
        time_until: datetime | None = None,
        order_by: SearchOrderLike = "newest_first",
        wait_for: tuple[str, int] | None = None,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
        **where: Unpack[SessionWhere],
    ) -> Pages[SearchMessagesResponse, MessageHit]:
        """Finds messages and tool calls in all sessions, in one, or in those that `where` selects, for `async for`; see
        Pages.

        `time_from` is inclusive, `time_until` exclusive, both by the database's clock. `wait_for` is a session and a
        version of it that the index must have seen: the call waits for that, at most 2 s. `page_size` 0 means 20; the
        maximum is 100. `timeout` applies to each page. Raises, when it is read: InvalidFields for a query without a
        word, InvalidPageToken, SessionNotFound and VersionNotReached of `wait_for`, SearchOff.
        """
        request = SearchMessagesRequest(
            query=query,
            session_id=session_id,
            filter=session_filter(where),
            roles=[enum_value(Role.DESCRIPTOR, role) for role in roles],
            time_from=None if time_from is None else timestamp(time_from),
            time_until=None if time_until is None else timestamp(time_until),
            order_by=enum_value(SearchOrder.DESCRIPTOR, order_by),
            page_size=page_size,
            wait_for=_seen(wait_for),
        )

        async def fetch(token: str) -> SearchMessagesResponse:
            page = SearchMessagesRequest()
            page.CopyFrom(request)
            page.page_token = token
            return await self._connection.call(self._connection.search.SearchMessages, page, timeout)

        return Pages(fetch, lambda page: page.hits, page_token)

    def search_sessions(
        self,
        query: str,
        *,
        order_by: SearchOrderLike = "newest_first",
        wait_for: tuple[str, int] | None = None,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
        **where: Unpack[SessionWhere],
    ) -> Pages[SearchSessionsResponse, SessionHit]:
        """Finds sessions by their names, summaries and labels, of those that `where` selects, for `async for`.
        Arguments and errors are as in `search_messages`."""
        request = SearchSessionsRequest(
            query=query,
            filter=session_filter(where),
            order_by=enum_value(SearchOrder.DESCRIPTOR, order_by),
            page_size=page_size,
            wait_for=_seen(wait_for),
        )

        async def fetch(token: str) -> SearchSessionsResponse:
            page = SearchSessionsRequest()
            page.CopyFrom(request)
            page.page_token = token
            return await self._connection.call(self._connection.search.SearchSessions, page, timeout)

        return Pages(fetch, lambda page: page.hits, page_token)


def _seen(wait_for: tuple[str, int] | None) -> SeenVersion | None:
    return None if wait_for is None else SeenVersion(session_id=wait_for[0], version=wait_for[1])
