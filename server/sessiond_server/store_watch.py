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


class StoreWatch:
    """Knows whether the store answered of late; False until `begin`."""

    def __init__(self, store: Upkeep, changed: Callable[[bool], Awaitable[None]]) -> None:
        self._store = store
        self._changed = changed
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
            reachable = await self._answers()
            if reachable != self.reachable:
                self.reachable = reachable
                (_log.info if reachable else _log.error)(
                    "the store %s", "answers again" if reachable else "does not answer"
                )
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
