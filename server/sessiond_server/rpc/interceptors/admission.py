"""How many calls are served at once, of whom."""

from collections.abc import Awaitable
from typing import Any, Final

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.shares import RETRY_AFTER, Places

SEARCHES: Final = frozenset(
    (
        "/sessiond.v1.SessionService/CountSessions",
        "/sessiond.v1.SessionService/ListSessions",
        "/sessiond.v1.ToolCallService/ListPendingApprovals",
    )
)
"""What may take the database long: they have places of their own, fewer than it has connections."""
SMALL: Final = 64 * 1024
"""Bytes of an answer that no budget is asked for: places bound them."""


class Admission:
    """Holds calls back, before a byte of their requests is read, until there is a place for them.

    Waiting is better than refusing, which costs three quarters of serving: a call that waits keeps its stream, and with
    it the next call, in the client. Streams take no place, they have limits of their own. Raises TooManyCalls where too
    many wait, and for an answer that has no room beside those which clients do not take.
    """

    def __init__(self, calls: Places, searches: Places, unsent: Shares) -> None:
        """`unsent`: bytes of answers that clients have yet to take."""
        self._calls = calls
        self._searches = searches
        self._unsent = unsent

    def around(self, method: Method, proceed: Handler) -> Handler:
        places = self._searches if method.path in SEARCHES else self._calls
        unsent = self._unsent

        def streamed(request: Any, call: Call) -> Awaitable[bytes | None]:
            call.unsent = unsent
            return proceed(request, call)

        if method.request_streaming or method.response_streaming:
            return streamed

        async def admitted(request: Any, call: Call) -> bytes | None:
            tenant_id = call.principal.tenant_id
            if not places.take_now(tenant_id):
                await places.take(tenant_id)
            try:
                response = await proceed(request, call)
            finally:
                places.give(tenant_id)
            if response is not None and len(response) > SMALL:
                size = len(response)
                if not unsent.take(tenant_id, size):
                    raise TooManyCalls(RETRY_AFTER, "answer_bytes")
                # When the client has taken it, or has left.
                call.context.add_done_callback(lambda _: unsent.give(tenant_id, size))  # type: ignore[arg-type]
            return response

        return admitted
