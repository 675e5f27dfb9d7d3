"""Calls whose deadlines passed before the event loop took them in."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from sessiond_server.rpc.call import Call, Handler, Method


class Late:
    """Ends calls whose deadlines have passed, before anything is spent on them. No answer would reach their callers.

    Raises CancelledError, at which grpc.aio forgets a call without an operation more; what grpc's C core holds of the
    call it has cancelled itself when the deadline passed.
    """

    def around(self, method: Method, proceed: Handler) -> Handler:
        def in_time(request: Any, call: Call) -> Awaitable[bytes | None]:
            if call.context.time_remaining() == 0:
                raise asyncio.CancelledError
            return proceed(request, call)

        return in_time
