"""The gate that is closed before the server is ready, and again when it is about to stop."""

from collections.abc import Callable
from typing import Any

from sessiond_server.errors import Draining, Unavailable
from sessiond_server.rpc.call import Call, Handler, Method


class Gate:
    """Refuses calls while it is closed; those inside go on."""

    def __init__(self, refusal: Callable[[], Unavailable] | None = None) -> None:
        """`refusal` None: open from the start; else what calls are refused with until `open`."""
        self._refusal = refusal

    def open(self) -> None:
        """Lets calls in. No effect after `close`."""
        if self._refusal is not Draining:
            self._refusal = None

    def close(self) -> None:
        """Refuses calls with Draining, for good."""
        self._refusal = Draining

    def around(self, method: Method, proceed: Handler) -> Handler:
        async def gated(request: Any, call: Call) -> bytes | None:
            if self._refusal is not None:
                raise self._refusal()
            return await proceed(request, call)

        return gated
