"""Calls that arrive at nearly the same time are served together."""

import asyncio
from typing import Any, Final

from sessiond_server.rpc.call import Call, Handler, Method

QUIET_TURNS: Final = 10
ENOUGH: Final = 64
"""Calls begin once so many turns of the loop brought no other, or so many are there. grpc takes in about one call in
each turn, so without this each would be parsed, checked and answered in a turn of its own: with cold caches of the
processor, and with system calls, reads of the cache and commands of a batch one at a time. A loop with nothing else to
do makes ten turns in microseconds: a lone caller does not notice (docs/decisions/0017-gathered-calls.md)."""


class Gathering:
    """Holds unary calls back for a few turns of the loop, so that those which came together begin together."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def around(self, method: Method, proceed: Handler) -> Handler:
        if method.request_streaming or method.response_streaming:
            return proceed

        async def gathered(request: Any, call: Call) -> bytes | None:
            await self._turn()
            return await proceed(request, call)

        return gathered

    def _turn(self) -> "asyncio.Future[None]":
        """One future for each call: cancelling a call must not cancel its neighbours."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._gather, loop, 1, QUIET_TURNS)
        return turn

    def _gather(self, loop: asyncio.AbstractEventLoop, seen: int, turns: int) -> None:
        """Lets the calls begin once `turns` more turns have brought nothing to the `seen` ones."""
        count = len(self._waiting)
        if count < ENOUGH and (count > seen or turns):
            loop.call_soon(self._gather, loop, count, turns - 1 if count == seen else QUIET_TURNS)
            return
        begin, self._waiting = self._waiting, []
        for turn in begin:
            if not turn.done():
                turn.set_result(None)
