"""ContextService. Each RPC makes four moves: check, authorise, call, answer."""

from typing import cast

from sessiond.v1.context_service_pb2 import (
    CreateSummaryRequest,
    GetContextRequest,
    ListSummariesRequest,
    ListSummariesResponse,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import SummaryCreated
from sessiond_server.rpc import answers, fields
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.context import checks as requests
from sessiond_server.rpc.context.history import History
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.store.commits import Writer
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.work import WorkStore


class ContextServicer:
    """The RPCs of sessiond.v1.ContextService."""

    def __init__(
        self, sessions: SessionReads, queries: SessionQueries, work: WorkStore, writer: Writer, tokens: PageTokens
    ) -> None:
        self._queries = queries
        self._history = History(sessions, queries, work)
        self._writer = writer
        self._tokens = tokens

    async def create_summary(self, request: CreateSummaryRequest, call: Call) -> bytes:
        action = requests.create_summary(request)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return answers.outcome(SummaryCreated, await self._writer.write(command)).summary

    async def list_summaries(self, request: ListSummariesRequest, call: Call) -> bytes:
        limit = requests.list_summaries(request)
        scope = call.admit(SESSIONS_READ)
        session_id = request.session_id
        tokens = self._tokens.of(scope, call.method.path, session_id)
        # A token that this list has sealed holds the seq of a summary.
        position = cast("list[int] | None", tokens.open(request.page_token))
        before = position[0] if position else 0
        page = await self._queries.list_summaries(scope, session_id, before_seq=before, limit=limit)
        answers.not_before(request.min_version, session_id, page.version)
        following = tokens.seal([page.next_seq]) if page.next_seq else ""
        return answers.listed_summaries(
            page.summaries, ListSummariesResponse(next_page_token=following, version=page.version)
        )

    async def get_context(self, request: GetContextRequest, call: Call) -> bytes:
        wanted, freshness = requests.get_context(request)
        scope = call.admit(SESSIONS_READ)
        context = await self._history.context(scope, request.session_id, wanted, freshness)
        return context.SerializeToString()
