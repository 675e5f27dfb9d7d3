"""Finds sockets that tests left to closed event loops.

Python itself reports such a socket when the garbage collector finds it, which may be many tests later and in another's
name.
"""

import asyncio
import os
from asyncio import selector_events
from typing import Any
from weakref import WeakKeyDictionary

_opened: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The transports of this process, and the test that opened each."""


def record() -> None:
    """Records every transport that asyncio opens from now on."""
    transport: Any = selector_events._SelectorTransport  # type: ignore[attr-defined]
    init = transport.__init__

    def recorded(self: Any, *arguments: Any, **options: Any) -> None:
        _opened[self] = os.environ.get("PYTEST_CURRENT_TEST", "no test")  # first: one that fails half-way counts too
        init(self, *arguments, **options)

    transport.__init__ = recorded


def abandoned() -> list[str]:
    """The transports that will never be closed, because their event loop has been. Reports each once, and closes it."""
    found = []
    for transport, test in list(_opened.items()):
        if getattr(transport, "_sock", None) is not None and transport._loop.is_closed():
            found.append(f"{transport!r} of {test}, {transport._sock!r}, {transport._protocol!r}")
            transport._sock.close()
            transport._sock = None
    return found


async def close(server: asyncio.Server) -> None:
    """Closes a listening server. `Server.close` alone leaves a connection open that is between the two steps of being
    accepted (https://github.com/python/cpython/issues/109564)."""
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening)
    await asyncio.sleep(0)
    server.close()
