"""How many calls are in progress, and how many may be."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from sessiond_server.errors import TooManyCalls
from sessiond_server.rpc.call import Call, Handler, Method

RETRY_AFTER = 0.5
"""Seconds a refused caller is told to wait."""


class Occupancy:
    """Refuses calls beyond `most` with TooManyCalls, at once. Streamed answers are counted, not limited.

    In place of grpc's `maximum_concurrent_rpcs`, which miscounted for years.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limited = 0
        self._all = 0
        self._empty: asyncio.Future[None] | None = None

    @property
    def calls(self) -> int:
        """Calls whose answer has not been handed to the transport."""
        return self._all

    async def emptied(self) -> None:
        """Returns once no call is in progress. For one task."""
        while self._all:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    def around(self, method: Method, proceed: Handler) -> Handler:
        limited = 0 if method.response_streaming else 1

        def left(_: Any) -> None:
            self._all -= 1
            self._limited -= limited
            if not self._all and self._empty is not None and not self._empty.done():
                self._empty.set_result(None)

        def counted(request: Any, call: Call) -> Awaitable[bytes | None]:
            if limited and self._limited >= self._most:
                raise TooManyCalls(RETRY_AFTER)
            # A done callback, not `finally`: the answer is still to be sent when the handler has returned.
            call.context.add_done_callback(left)  # type: ignore[arg-type]  # the stubs name a class where any callable will do
            self._all += 1
            self._limited += limited
            return proceed(request, call)

        return counted
