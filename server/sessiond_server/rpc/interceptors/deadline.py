"""Bounds the duration of unary calls."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from sessiond_server.errors import DeadlinePassed
from sessiond_server.rpc.call import Call, Handler, Method


class Deadline:
    """Gives calls without a deadline, or with one later than `longest` seconds, that deadline. After it, a call ends
    with DeadlinePassed.

    An earlier deadline needs no timer here: the transport cancels the call when it passes. Streams have no such limit:
    a watch has no end, and the time of a transfer depends on its size.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.request_streaming or method.response_streaming:
            return proceed

        def limited(request: Any, call: Call) -> Awaitable[bytes | None]:
            remaining = call.context.time_remaining()
            if remaining is None or remaining > self._longest:
                return timed(request, call)
            if remaining <= 0:
                raise DeadlinePassed
            return proceed(request, call)

        async def timed(request: Any, call: Call) -> bytes | None:
            try:
                async with asyncio.timeout(self._longest) as timer:
                    return await proceed(request, call)
            except TimeoutError:
                if timer.expired():
                    raise DeadlinePassed from None
                raise

        return limited
