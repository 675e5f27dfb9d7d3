"""Calls whose deadlines passed before the event loop took them in."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sessiond_server.rpc.call import Call, Handler, Method


class Late:
    """Ends calls whose deadlines have passed, before anything is spent on them. No answer would reach their callers.

    Raises CancelledError, at which grpc.aio forgets a call without an operation more; what grpc's C core holds of the
    call it has cancelled itself when the deadline passed.
    """

    def __init__(self, tell: Callable[[Method], None]) -> None:
        """`tell` is told of each such call, whose tenant is not known yet."""
        self._tell = tell

    def around(self, method: Method, proceed: Handler) -> Handler:
        tell = self._tell

        def in_time(request: Any, call: Call) -> Awaitable[bytes | None]:
            if call.context.time_remaining() == 0:
                tell(method)
                raise asyncio.CancelledError
            return proceed(request, call)

        return in_time
