"""Refuses calls until the server is ready."""

from collections.abc import Awaitable, Callable
from typing import Any

from sessiond_server.errors import Unavailable
from sessiond_server.rpc.call import Call, Handler, Method


class Gate:
    """Refuses calls until `open` is called."""

    def __init__(self, refusal: Callable[[], Unavailable] | None = None) -> None:
        """`refusal` makes the error for calls before `open`; None: the gate is open from the start."""
        self._refusal = refusal

    @property
    def is_open(self) -> bool:
        return self._refusal is None

    def open(self) -> None:
        """Lets calls in."""
        self._refusal = None

    def around(self, method: Method, proceed: Handler) -> Handler:
        def gated(request: Any, call: Call) -> Awaitable[bytes | None]:
            if self._refusal is not None:
                raise self._refusal()
            return proceed(request, call)

        return gated
