"""SearchService. Each RPC makes four moves: check, authorise, call, answer."""

from typing import Final

from sessiond.v1.search_service_pb2 import (
    SearchMessagesRequest,
    SearchMessagesResponse,
    SearchSessionsRequest,
    SearchSessionsResponse,
    SeenVersion,
)
from sessiond_server.auth import SESSIONS_READ
from sessiond_server.domain.commands import Scope
from sessiond_server.errors import SearchOff
from sessiond_server.rpc import answers
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import ListTokens, PageTokens
from sessiond_server.rpc.search import checks as requests
from sessiond_server.rpc.search.checks import Search
from sessiond_server.search.contract import SearchIndex
from sessiond_server.search.finding import find_messages, find_sessions

SEEN_SECONDS: Final = 2.0
"""Longest wait for the index to see a version."""


class SearchServicer:
    """The RPCs of sessiond.v1.SearchService."""

    def __init__(self, index: SearchIndex | None, tokens: PageTokens) -> None:
        """`index` None: search is switched off."""
        self._index = index
        self._tokens = tokens

    async def search_messages(self, request: SearchMessagesRequest, call: Call) -> bytes:
        search = requests.search_messages(request)
        scope = call.admit(SESSIONS_READ)
        index = await self._ready(scope, request.wait_for)
        tokens = self._of(scope, call, search)
        page = await find_messages(
            index,
            scope,
            search.query,
            search.where,
            relevance=search.relevance,
            after=tokens.open(request.page_token),
            limit=search.limit,
        )
        token = tokens.seal(page.next) if page.next else ""
        return SearchMessagesResponse(hits=page.hits, next_page_token=token, partial=page.partial).SerializeToString()

    async def search_sessions(self, request: SearchSessionsRequest, call: Call) -> bytes:
        search = requests.search_sessions(request)
        scope = call.admit(SESSIONS_READ)
        index = await self._ready(scope, request.wait_for)
        tokens = self._of(scope, call, search)
        page = await find_sessions(
            index,
            scope,
            search.query,
            search.where,
            relevance=search.relevance,
            after=tokens.open(request.page_token),
            limit=search.limit,
        )
        token = tokens.seal(page.next) if page.next else ""
        return SearchSessionsResponse(hits=page.hits, next_page_token=token, partial=page.partial).SerializeToString()

    def _of(self, scope: Scope, call: Call, search: Search) -> ListTokens:
        return self._tokens.of(scope, call.method.path, search.selection)

    async def _ready(self, scope: Scope, least: SeenVersion) -> SearchIndex:
        """The index, once it has seen the version; without one, at once."""
        if self._index is None:
            raise SearchOff
        if least.version:
            version = await self._index.wait_until_seen(scope, least.session_id, least.version, SEEN_SECONDS)
            answers.not_before(least.version, least.session_id, version)
        return self._index
