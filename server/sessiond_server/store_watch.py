"""One look at the store every second, for whoever must know whether it answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.store.upkeep import Upkeep

_log = logging.getLogger("sessiond.app")

PING_PAUSE: Final = 1.0
PING_PATIENCE: Final = 2.0
"""Seconds between two looks at the store, and for one; health follows within their sum."""
STALL_SECONDS: Final = 4.0
"""Writes that have had no answer for so long say that the store is not of use, whatever else it answers: a batch takes
milliseconds, and waits for a lock half as long."""


class StoreWatch:
    """Knows whether the store answered of late; False until `begin`."""

    def __init__(self, store: Upkeep, changed: Callable[[bool], Awaitable[None]], stalled: Callable[[], float]) -> None:
        """`stalled`: for how many seconds writes have had no answer."""
        self._store = store
        self._changed = changed
        self._stalled = stalled
        self.reachable = False
        self.failed: str | None = None
        """Name of a background task that has failed: the store counts as not answering from then on."""

    async def begin(self) -> None:
        """The first look, with no bound but the store's own. Raises what the store raises."""
        await self._store.ping()
        self.reachable = True

    async def run(self) -> None:
        """Tells `changed` whenever the answer is another one, until cancelled."""
        while True:
            await asyncio.sleep(PING_PAUSE)
            await self.look()

    async def look(self) -> None:
        """One look, within PING_PATIENCE."""
        reachable = await self._answers()
        stalled = self._stalled()
        if reachable and stalled >= STALL_SECONDS:
            reachable = False
            if self.reachable:
                _log.error("the store answers, but has not answered writes for %.1f s", stalled)
        elif reachable != self.reachable:
            say = _log.info if reachable else _log.error
            say("the store %s", "answers again" if reachable else "does not answer")
        if reachable != self.reachable:
            self.reachable = reachable
            await self._changed(reachable)

    async def _answers(self) -> bool:
        if self.failed is not None:
            return False
        try:
            async with asyncio.timeout(PING_PATIENCE):
                await self._store.ping()
        except (StoreUnavailable, TimeoutError):
            return False
        except Exception as error:
            _log.error("the store cannot be used", exc_info=error)
            return False
        return True
