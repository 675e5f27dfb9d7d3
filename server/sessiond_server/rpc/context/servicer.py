"""ContextService. Each RPC makes four moves: check, authorise, call, answer."""

from dataclasses import replace
from typing import Final, cast

from sessiond.v1.context_service_pb2 import (
    CreateSummaryRequest,
    GetContextRequest,
    ListSummariesRequest,
    ListSummariesResponse,
    RequestSummaryRequest,
    RequestSummaryResponse,
)
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.domain.commands import SummaryCreated
from sessiond_server.domain.rewinds import ranges
from sessiond_server.errors import SummariserOff, TooManySummaries
from sessiond_server.rpc import answers, as_of, fields
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.context import checks as requests
from sessiond_server.rpc.context.history import History
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.store.commits import Writer
from sessiond_server.store.history import HistoryReads
from sessiond_server.store.session_reads import SessionQueries, SessionReads
from sessiond_server.store.work import WorkStore
from sessiond_server.summaries.queue import SummaryQueue

MOST_REQUESTED: Final = 100
"""Sessions of a tenant that wait for a summary that was asked for."""
RETRY_AFTER: Final = 30.0
"""Seconds after which a caller who found so many may come back."""


class ContextServicer:
    """The RPCs of sessiond.v1.ContextService."""

    def __init__(
        self,
        sessions: SessionReads,
        queries: SessionQueries,
        past: HistoryReads,
        work: WorkStore,
        summaries: SummaryQueue | None,
        writer: Writer,
        tokens: PageTokens,
    ) -> None:
        """`summaries` None: there is no summariser."""
        self._sessions = sessions
        self._queries = queries
        self._summaries = summaries
        self._past = past
        self._history = History(sessions, queries, past, work)
        self._writer = writer
        self._tokens = tokens

    async def create_summary(self, request: CreateSummaryRequest, call: Call) -> bytes:
        action = requests.create_summary(request)
        scope = call.admit(SESSIONS_WRITE)
        fence = fields.fence_of(request)
        command = call.command(scope, request, request.session_id, action, request.expected_version, fence)
        return answers.outcome(SummaryCreated, await self._writer.write(command)).summary

    async def request_summary(self, request: RequestSummaryRequest, call: Call) -> bytes:
        keep = requests.request_summary(request)
        scope = call.admit(SESSIONS_WRITE)
        if self._summaries is None:
            raise SummariserOff
        found = await self._sessions.get_session(scope, request.session_id, content=False)
        core = Session.FromString(found.core)
        if not await self._summaries.request(scope.tenant_id, request.session_id, keep, MOST_REQUESTED):
            raise TooManySummaries(MOST_REQUESTED, RETRY_AFTER)
        return RequestSummaryResponse(version=core.version, summary_seq=core.summary_seq).SerializeToString()

    async def list_summaries(self, request: ListSummariesRequest, call: Call) -> bytes:
        limit = requests.list_summaries(request)
        scope = call.admit(SESSIONS_READ)
        session_id = request.session_id
        more = (fields.INCLUDE_REWOUND,) if request.include_rewound else ()
        tokens = self._tokens.of(scope, call.method.path, session_id, *more)
        # A token that this list has sealed holds the seq of a summary.
        position = cast("list[int] | None", tokens.open(request.page_token))
        before = position[0] if position else 0
        rewound = ranges.NOTHING if request.include_rewound else None
        page = await self._queries.list_summaries(scope, session_id, before_seq=before, limit=limit, rewound=rewound)
        answers.not_before(request.min_version, session_id, page.version)
        following = tokens.seal([page.next_seq]) if page.next_seq else ""
        return answers.listed_summaries(
            page.summaries, ListSummariesResponse(next_page_token=following, version=page.version)
        )

    async def get_context(self, request: GetContextRequest, call: Call) -> bytes:
        wanted, freshness = requests.get_context(request)
        scope = call.admit(SESSIONS_READ)
        seq = await as_of.place(self._past, scope, request)
        wanted = replace(wanted, as_of_seq=seq)
        context = await self._history.context(scope, request.session_id, wanted, freshness)
        return context.SerializeToString()
