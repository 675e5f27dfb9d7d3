"""The gate that closes when the server is about to stop."""

from typing import Any

from sessiond_server.errors import Draining
from sessiond_server.rpc.call import Call, Handler, Method


class DrainGate:
    """Refuses calls with Draining once closed; those inside go on."""

    def __init__(self) -> None:
        self._closed = False

    def close(self) -> None:
        """For good."""
        self._closed = True

    def around(self, method: Method, proceed: Handler) -> Handler:
        async def gated(request: Any, call: Call) -> bytes | None:
            if self._closed:
                raise Draining
            return await proceed(request, call)

        return gated
