"""Tool calls whose approval does not come."""

from datetime import UTC, datetime, timedelta
from typing import Any

import sessiond
from sessiond.v1.tool_call_pb2 import ToolCall


async def request_that_expires(
    sessions: sessiond.Client, session_id: str, *, seconds: float = 0.2, **more: Any
) -> ToolCall:
    """Requests a tool call whose approval has so many seconds to come; more on a machine so busy that the request
    arrives behind that time."""
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    try:
        call = await sessions.request_tool_call(session_id, "rm", requires_approval=True, expire_time=expires, **more)
    except sessiond.InvalidFields:
        return await request_that_expires(sessions, session_id, seconds=4 * seconds, **more)
    assert call.expire_time.ToDatetime(UTC) == expires
    return call
