"""Admission control: bounds how many calls are served at a time, fairly between tenants."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.pace import Pace
from sessiond_server.rpc.places import RETRY_AFTER, Places
from sessiond_server.rpc.standing import retry_after

SEARCHES: Final = frozenset(
    (
        "/sessiond.v1.DocumentService/ListDocuments",
        "/sessiond.v1.SearchService/SearchMessages",
        "/sessiond.v1.SearchService/SearchSessions",
        "/sessiond.v1.SessionService/CountSessions",
        "/sessiond.v1.SessionService/ListSessions",
        "/sessiond.v1.ToolCallService/ListPendingApprovals",
        "/sessiond.v1.UsageService/GetUsage",
    )
)
"""Methods that may need long queries. They have separate places, fewer than there are database connections."""
ALL: Final = ""
"""Stands for the tenant while there is only one."""
SMALL: Final = 64 * 1024
"""Largest answer, in bytes, that needs no budget: the number of places bounds these."""


class Admission:
    """Delays calls until there is a place for them, before a byte of their requests is read.

    Waiting is better than refusing, which costs three quarters of serving: a waiting call occupies its HTTP/2 stream,
    so the client holds back further calls. Streams take no place; they have separate limits. Raises TooManyCalls if too
    many calls wait, for a call whose deadline is too near while others end too late, and for an answer for which the
    budget of unsent bytes has no room.
    """

    def __init__(self, calls: Places, searches: Places, unsent: Shares, *, alone: Callable[[], bool]) -> None:
        """`unsent`: budget for bytes of answers that clients have not received yet. `alone`: whether there is only one
        tenant."""
        self._calls = calls
        self._searches = searches
        self._unsent = unsent
        self._alone = alone
        self._paces: dict[str, Pace] = {}
        """By the paths of methods."""

    def late(self, method: Method) -> None:
        """A call's deadline had passed before it was accepted. Whose it was is known only if there is one tenant; calls
        of several are accepted at once, so that theirs pass here."""
        pace = self._paces.get(method.path)
        if pace is not None and self._alone():
            pace.late(ALL, None)

    def around(self, method: Method, proceed: Handler) -> Handler:
        places = self._searches if method.path in SEARCHES else self._calls
        unsent = self._unsent

        def streamed(request: Any, call: Call) -> Awaitable[bytes | None]:
            call.unsent = unsent
            return proceed(request, call)

        if method.request_streaming or method.response_streaming:
            return streamed

        alone = self._alone
        pace = self._paces[method.path] = Pace(monotonic)

        async def admitted(request: Any, call: Call) -> bytes | None:
            tenant_id = call.principal.tenant_id
            began = monotonic()
            if pace.judges:
                needed = pace.hopeless(ALL if alone() else tenant_id, call.context.time_remaining())
                if needed is not None:
                    raise TooManyCalls(retry_after(needed), "deadline")
            try:
                if not places.take_now(tenant_id):
                    await places.take(tenant_id)
                try:
                    response = await proceed(request, call)
                finally:
                    places.give(tenant_id)
            except asyncio.CancelledError:
                if call.context.time_remaining() == 0:
                    pace.late(ALL if alone() else tenant_id, monotonic() - began)
                raise
            if pace.judges:
                pace.ended(ALL if alone() else tenant_id, monotonic() - began)
            if response is not None and len(response) > SMALL:
                size = len(response)
                if not unsent.take(tenant_id, size):
                    raise TooManyCalls(RETRY_AFTER, "answer_bytes")
                # The bytes are returned when the client has received the answer or has disconnected.
                call.when_over(lambda _: unsent.give(tenant_id, size))
            return response

        return admitted
