"""UsageService. Each RPC makes four moves: check, authorise, call, answer."""

from datetime import date

from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.usage_service_pb2 import GetUsageRequest, GetUsageResponse, UsageRow
from sessiond_server.auth import SESSIONS_READ
from sessiond_server.domain.times import set_timestamp
from sessiond_server.domain.usage.figures import Figures
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.paging import PageTokens, Position
from sessiond_server.rpc.usage import checks as requests
from sessiond_server.store.usage import Key, UsageReads


class UsageServicer:
    """The RPCs of sessiond.v1.UsageService."""

    def __init__(self, usage: UsageReads, tokens: PageTokens) -> None:
        self._usage = usage
        self._tokens = tokens

    async def get_usage(self, request: GetUsageRequest, call: Call) -> bytes:
        asked = requests.get_usage(request, call.scope)
        scope = call.admit(SESSIONS_READ)
        selection = GetUsageRequest()
        selection.CopyFrom(request)
        selection.ClearField("page_token")
        selection.ClearField("page_size")
        tokens = self._tokens.of(scope, call.method.path, selection.SerializeToString(deterministic=True))
        after = _after(tokens.open(request.page_token))
        page = await self._usage.get_usage(scope, asked.query, after=after, limit=asked.limit)
        answer = GetUsageResponse(rows=[_row(key, figures) for key, figures in page.rows])
        if page.more:
            answer.next_page_token = tokens.seal(_position(page.rows[-1][0]))
        set_timestamp(answer.as_of_time, page.as_of_us)
        return answer.SerializeToString()


def _row(key: Key, figures: Figures) -> UsageRow:
    user_id, day, agent_id, model = key
    return UsageRow(
        user_id=user_id,
        day=day.isoformat() if day is not None else "",
        agent_id=agent_id,
        model=model,
        usage=TokenUsage(
            input_tokens=figures.input_tokens,
            output_tokens=figures.output_tokens,
            total_tokens=figures.total_tokens,
            reasoning_tokens=figures.reasoning_tokens,
            cached_tokens=figures.cached_tokens,
        ),
        message_count=figures.message_count,
        run_count=figures.run_count,
        tool_call_count=figures.tool_call_count,
        session_count=figures.session_count,
    )


def _position(key: Key) -> Position:
    user_id, day, agent_id, model = key
    return [user_id, day.isoformat() if day is not None else "", agent_id, model]


def _after(position: Position | None) -> Key | None:
    """A token that this list has sealed holds the key of a row."""
    if position is None:
        return None
    user_id, day, agent_id, model = (str(part) for part in position)
    return user_id, date.fromisoformat(day) if day else None, agent_id, model
