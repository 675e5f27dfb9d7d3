"""The client's methods for summaries and contexts."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from datetime import datetime

from sessiond.connection import Connection
from sessiond.fields import ConsistencyLike, Fence, enum_value, run_fence, timestamp
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.v1.context_service_pb2 import (
    Context,
    CreateSummaryRequest,
    GetContextRequest,
    ListSummariesRequest,
    ListSummariesResponse,
    RequestSummaryRequest,
    RequestSummaryResponse,
)
from sessiond.v1.session_pb2 import Consistency, TokenUsage
from sessiond.v1.summary_pb2 import Summary


class ContextCalls:
    """ContextService; see `Client` for what all methods have in common. All methods raise SessionNotFound."""

    _connection: Connection

    async def create_summary(
        self,
        session_id: str,
        text: str,
        through_seq: int,
        *,
        model: str = "",
        author: str = "",
        usage: TokenUsage | None = None,
        token_count: int = 0,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> Summary:
        """Adds a summary of the messages up to `through_seq`, and returns it. Older ones and the messages stay.

        `usage` are the tokens that making it cost, which the session's usage counts; `token_count` is the number of
        tokens of `text`. Raises SessionEnded, RunFenced; InvalidFields for a `through_seq` beyond the version.
        """
        summary = Summary(
            through_seq=through_seq, text=text, model=model, author=author, usage=usage, token_count=token_count
        )
        request = CreateSummaryRequest(
            session_id=session_id,
            summary=summary,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.context.CreateSummary
        return await self._connection.call(call, request, timeout, request.request_id)

    async def request_summary(
        self, session_id: str, *, keep_messages: int | None = None, timeout: float | None = None
    ) -> RequestSummaryResponse:
        """Asks the service to summarise the session now, and returns at once: the summary is an event behind the
        `version` of the answer, within seconds, or later where the model is slow or down.

        `keep_messages` of the newest messages, 0 to 500, stay out; None: as many as the operator has set. No summary
        comes where that leaves none to cover. Raises SummariserOff where the service makes no summaries,
        TooManySummaries where 100 sessions of the tenant wait.
        """
        request = RequestSummaryRequest(session_id=session_id, keep_messages=keep_messages)
        return await self._connection.call(self._connection.context.RequestSummary, request, timeout)

    async def get_context(
        self,
        session_id: str,
        *,
        max_tokens: int = 0,
        max_messages: int = 0,
        thinking: bool = False,
        system_prompt: bool = True,
        max_tool_result_tokens: int = 0,
        as_of_seq: int = 0,
        as_of_time: datetime | None = None,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Context:
        """Returns what to send to a model: `system_prompt`, the newest `summary`, and the newest `messages` that fit
        into `max_tokens` and `max_messages`, which the converters of `sessiond.formats` take. 0: no bound of tokens,
        and 1 000 messages.

        `thinking` includes what the model thought; `max_tool_result_tokens` shortens longer results of tools;
        `as_of_seq` answers as of an earlier version, `as_of_time` as of an earlier time. Raises ContextBudgetTooSmall
        when not even the newest turn's least fits; VersionNotReached; InvalidFields for a place that the session has
        not.
        """
        request = GetContextRequest(
            session_id=session_id,
            max_tokens=max_tokens,
            max_messages=max_messages,
            include_thinking=thinking,
            omit_system_prompt=not system_prompt,
            max_tool_result_tokens=max_tool_result_tokens,
            as_of_seq=as_of_seq,
            as_of_time=None if as_of_time is None else timestamp(as_of_time),
            min_version=min_version,
            consistency=enum_value(Consistency.DESCRIPTOR, consistency),
        )
        return await self._connection.call(self._connection.context.GetContext, request, timeout)

    def list_summaries(
        self,
        session_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        include_rewound: bool = False,
        min_version: int = 0,
        consistency: ConsistencyLike | None = None,
        timeout: float | None = None,
    ) -> Pages[ListSummariesResponse, Summary]:
        """Lists a session's summaries, newest first, for `async for`; see Pages.

        `include_rewound`: also those that a rewind has hidden.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken, VersionNotReached.
        """
        freshness = enum_value(Consistency.DESCRIPTOR, consistency)

        async def fetch(token: str) -> ListSummariesResponse:
            request = ListSummariesRequest(
                session_id=session_id,
                page_size=page_size,
                page_token=token,
                include_rewound=include_rewound,
                min_version=min_version,
                consistency=freshness,
            )
            return await self._connection.call(self._connection.context.ListSummaries, request, timeout)

        return Pages(fetch, lambda page: page.summaries, page_token)
