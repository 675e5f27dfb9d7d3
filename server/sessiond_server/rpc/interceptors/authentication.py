"""Who calls."""

from collections.abc import Awaitable
from typing import Any

from sessiond_server.auth import Authenticator
from sessiond_server.errors import Unauthenticated
from sessiond_server.rpc.call import Call, Handler, Method
from sessiond_server.rpc.interceptors.refusals import Refusals


class Authentication:
    """Sets `Call.principal`, or raises Unauthenticated at the pace of refusals. The request is not read before."""

    def __init__(self, authenticator: Authenticator, refusals: Refusals) -> None:
        self._authenticator = authenticator
        self._refusals = refusals

    def around(self, method: Method, proceed: Handler) -> Handler:
        authenticate = self._authenticator.authenticate

        def authenticated(request: Any, call: Call) -> Awaitable[bytes | None]:
            try:
                call.principal = authenticate(call.metadata, call.context.peer)
            except Unauthenticated as error:
                return self._refuse(call, error)
            return proceed(request, call)

        return authenticated

    async def _refuse(self, call: Call, error: Unauthenticated) -> bytes | None:
        await self._refusals.turn(call.context)
        raise error
