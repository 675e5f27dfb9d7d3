"""Counts calls in progress."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from sessiond_server.rpc.call import Call, Handler, Method


class Occupancy:
    """Counts calls from authentication until their answers have been handed to the transport."""

    def __init__(self) -> None:
        self._all = 0
        self._empty: asyncio.Future[None] | None = None

    @property
    def calls(self) -> int:
        """Number of calls whose answer has not been handed to the transport yet."""
        return self._all

    async def emptied(self) -> None:
        """Returns once no call is in progress. For one task."""
        while self._all:
            self._empty = asyncio.get_running_loop().create_future()
            await self._empty

    def around(self, method: Method, proceed: Handler) -> Handler:
        def left(_: Any) -> None:
            self._all -= 1
            if not self._all and self._empty is not None and not self._empty.done():
                self._empty.set_result(None)

        def counted(request: Any, call: Call) -> Awaitable[bytes | None]:
            # No `finally`, because the answer is sent after the handler has returned.
            call.when_over(left)
            self._all += 1
            return proceed(request, call)

        return counted
