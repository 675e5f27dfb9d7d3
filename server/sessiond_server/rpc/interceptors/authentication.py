"""Authenticates every call, and ends streams whose keys become invalid."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sessiond_server.auth import Authenticator, Principal
from sessiond_server.errors import Unauthenticated
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.interceptors.refusals import Refusals

REVOKED_GRACE: Final = 5.0
"""Seconds that a stream with an invalid key has to end by itself: watchers still get their position."""


class Authentication:
    """Sets `Call.principal`, or raises Unauthenticated at the rate of `refusals`, before the request is read.

    It records streams, for `revoke`. Unary calls end too soon for that to matter.
    """

    def __init__(self, authenticator: Authenticator, refusals: Refusals) -> None:
        self._authenticator = authenticator
        self._refusals = refusals
        self._streams: dict[asyncio.Timeout, Principal] = {}

    def revoke(self, holds: Callable[[Principal], bool]) -> int:
        """Ends streams whose principals are no longer valid with Unauthenticated; returns their number."""
        until = asyncio.get_running_loop().time() + REVOKED_GRACE
        gone = [timer for timer, principal in self._streams.items() if not holds(principal)]
        for timer in gone:
            if timer.when() is None:
                timer.reschedule(until)
        return len(gone)

    def around(self, method: Method, proceed: Handler) -> Handler:
        authenticate = self._authenticator.authenticate

        def authenticated(request: Any, call: Call) -> Awaitable[bytes | None]:
            try:
                call.principal = authenticate(call.metadata, call.peer)
            except Unauthenticated as error:
                return self._refuse(call, error)
            return proceed(request, call)

        async def revocable(request: Any, call: Call) -> bytes | None:
            try:
                call.principal = authenticate(call.metadata, call.peer)
            except Unauthenticated as error:
                return await self._refuse(call, error)
            try:
                async with asyncio.timeout(None) as timer:
                    self._streams[timer] = call.principal
                    try:
                        return await proceed(request, call)
                    finally:
                        del self._streams[timer]
            except TimeoutError:
                if timer.expired():
                    raise Unauthenticated from None
                raise

        return revocable if method.request_streaming or method.response_streaming else authenticated

    async def _refuse(self, call: Call, error: Unauthenticated) -> bytes | None:
        await self._refusals.turn(call.peer)
        raise error
