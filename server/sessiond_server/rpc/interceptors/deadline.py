"""No call lasts for ever."""

import asyncio
from typing import Any

from sessiond_server.errors import DeadlinePassed
from sessiond_server.rpc.call import Call, Handler, Method


class Deadline:
    """Calls without a deadline, or with one further away than `longest` seconds, get that; expiry is DeadlinePassed.

    A nearer deadline needs no timer here: the transport cancels the call when it passes. Streamed answers are not
    bounded: watching has no end.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.response_streaming:
            return proceed

        async def limited(request: Any, call: Call) -> bytes | None:
            remaining = call.context.time_remaining()
            if remaining is not None and remaining <= self._longest:
                if remaining <= 0:
                    raise DeadlinePassed
                return await proceed(request, call)
            try:
                async with asyncio.timeout(self._longest) as timer:
                    return await proceed(request, call)
            except TimeoutError:
                if timer.expired():
                    raise DeadlinePassed from None
                raise

        return limited
