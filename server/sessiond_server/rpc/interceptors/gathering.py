"""Starts calls that arrive at nearly the same time together."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method

QUIET_TURNS: Final = 10
ENOUGH: Final = 64
"""Calls start after QUIET_TURNS turns of the loop without another call, or once ENOUGH calls wait. grpc accepts about
one call per turn, so without this each call would be parsed, checked and answered in its own turn: with cold CPU
caches, and with system calls, cache reads and commands of a batch one at a time. An idle loop makes ten turns in
microseconds, which a single caller does not notice (docs/decisions/0017-gathered-calls.md)."""


class Gathering:
    """Delays unary calls for a few turns of the loop, so that calls that arrive together start together."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.request_streaming or method.response_streaming:
            return proceed

        async def gathered(request: Any, call: Call) -> bytes | None:
            await self._turn()
            return await proceed(request, call)

        def gathering(request: Any, call: Call) -> Awaitable[bytes | None]:
            # Calls of a pipe arrive in frames, and those of a frame start together anyway.
            return proceed(request, call) if call.piped else gathered(request, call)

        return gathering

    def _turn(self) -> "asyncio.Future[None]":
        """A new future for each call, so that cancelling one call does not cancel others."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._gather, loop, 1, QUIET_TURNS)
        return turn

    def _gather(self, loop: asyncio.AbstractEventLoop, seen: int, turns: int) -> None:
        """Starts the calls once their number has stayed at `seen` for `turns` more turns."""
        count = len(self._waiting)
        if count < ENOUGH and (count > seen or turns):
            loop.call_soon(self._gather, loop, count, turns - 1 if count == seen else QUIET_TURNS)
            return
        begin, self._waiting = self._waiting, []
        for turn in begin:
            if not turn.done():
                turn.set_result(None)
