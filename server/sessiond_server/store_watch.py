"""Checks every second whether the store answers, for all parts that depend on it, and how late the event loop is."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.store.homes import HURRY
from sessiond_server.store.upkeep import Upkeep

_log = logging.getLogger("sessiond.app")

PING_PAUSE: Final = 1.0
PING_PATIENCE: Final = 2.0
"""Seconds between two checks of the store, and longest time of one; health changes within their sum."""
LAGS: Final = 60
"""Number of the last pauses whose lag is kept: those of a minute or more, so that no scrape misses a lag."""
STALL_SECONDS: Final = 4.0
"""Once a write has had no answer for this many seconds, the store counts as unusable, even if it answers pings. A batch
takes milliseconds, and waits for a lock at most half as long as this."""


class StoreWatch:
    """Records whether the store answers: `reachable` is False until `begin` has succeeded."""

    def __init__(
        self,
        store: Upkeep,
        changed: Callable[[bool], Awaitable[None]],
        stalled: Callable[[], float],
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """`changed` is called whenever `reachable` has changed. `stalled` returns the age, in seconds, of the oldest
        write without an answer. `hurried`: whether calls wait for what the store says of the homes of tenants."""
        self._store = store
        self._changed = changed
        self._stalled = stalled
        self._hurried = hurried
        self.reachable = False
        self.failed: str | None = None
        """Name of a background task that has failed; from then on the store counts as not answering."""
        self._lags: deque[float] = deque([0.0], maxlen=LAGS)

    @property
    def loop_lag(self) -> float:
        """How late, in seconds, the event loop ended the latest of the last LAGS pauses. Other threads may read it."""
        return max(self._lags.copy())

    async def begin(self) -> None:
        """The first check, with no time limit but the store's own. Raises what the store raises."""
        await self._store.ping()
        self.reachable = True

    async def run(self) -> None:
        """Checks every PING_PAUSE seconds, while hurried every HURRY seconds, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            pause = HURRY if self._hurried() else PING_PAUSE
            due = loop.time() + pause
            await asyncio.sleep(pause)
            if pause == PING_PAUSE:
                self._lags.append(max(0.0, loop.time() - due))
            await self.look()

    async def look(self) -> None:
        """One check, which takes at most PING_PATIENCE seconds."""
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
