"""The operator's signals: stop, and reload files."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from sessiond_server.app.background import only_error

_log = logging.getLogger("sessiond.app")

_T = TypeVar("_T")


class Signals:
    """The operator's wish to stop, by SIGTERM or SIGINT, or to read files again, by SIGHUP. Belongs to the task that
    makes it."""

    def __init__(self) -> None:
        self.is_asked = False
        self.reload = asyncio.Event()
        self.at_once: Callable[[], None] = lambda: None
        """Called before a second signal ends the process."""
        self._waiter: asyncio.Event | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    async def asked(self) -> None:
        """Waits until a stop is requested."""
        self._waiter = asyncio.Event()
        if not self.is_asked:
            await self._waiter.wait()

    def _signalled(self, number: int) -> None:
        if self.is_asked:
            # Ends at once, without clean-up. The kernel signals the bundled servers (see embedded/child.py).
            self.at_once()
            os._exit(128 + number)
        self.ask()

    def ask(self) -> None:
        """Requests a stop, as the first signal does."""
        if self.is_asked:
            return
        self.is_asked = True
        if self._waiter is not None:
            self._waiter.set()
        elif self._task is not None:
            self._task.cancel()  # the service is still starting

    async def serve(
        self, opened: AbstractAsyncContextManager[_T], announce: Callable[[_T], None], grace: float
    ) -> None:
        """Opens the context, announces what it yields, and leaves it once a stop is requested, also while it opens.
        Raises what it raises; of a group of one error, that one. `grace`: seconds, for the log."""
        try:
            async with opened as service:
                announce(service)
                await self.asked()
                _log.info("stopping: calls in progress have %g s to finish", grace)
        except asyncio.CancelledError:
            if not self.is_asked:
                raise
        except BaseExceptionGroup as group:
            raise only_error(group) from None
