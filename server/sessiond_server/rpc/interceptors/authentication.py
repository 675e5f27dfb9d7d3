"""Who calls."""

from collections.abc import Awaitable
from typing import Any

from sessiond_server.auth import Authenticator
from sessiond_server.rpc.call import Call, Handler, Method


class Authentication:
    """Sets `Call.principal`, or raises Unauthenticated before anything of the request is looked at."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def around(self, method: Method, proceed: Handler) -> Handler:
        authenticate = self._authenticator.authenticate

        def authenticated(request: Any, call: Call) -> Awaitable[bytes | None]:
            call.principal = authenticate(call.metadata, call.context.peer)
            return proceed(request, call)

        return authenticated
