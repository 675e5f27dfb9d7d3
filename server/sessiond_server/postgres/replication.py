"""Asks the database, at intervals, how its standbys and replication slots are doing."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.statements import WATCH
from sessiond_server.store.condition import Replication, Slots, Standbys

_log = logging.getLogger("sessiond.postgres")

STANDBYS: Final = WATCH["standbys"].text
SLOTS: Final = WATCH["slots"].text

PAUSE: Final = 10.0
"""Seconds between two queries."""
ANSWER_SECONDS: Final = 3.0


class ReplicationWatch:
    """Looks through `fetch` at the replication; `found` is what it last saw."""

    def __init__(self, fetch: Callable[[str], Awaitable[Sequence[Any]]]) -> None:
        self.found: Replication | None = None
        """None: the database does not answer, or refuses to."""
        self._fetch = fetch
        self._failed = False

    async def run(self) -> None:
        """Calls `look` every PAUSE seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Updates `found` from the database. Never raises."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                standbys, slots = await self._fetch(STANDBYS), await self._fetch(SLOTS)
        except (StoreUnavailable, TimeoutError):
            self.found = None
            return
        except Exception as error:
            self.found = None
            if not self._failed:
                _log.warning("cannot find out how the replication is doing", exc_info=error)
            self._failed = True
            return
        self.found = Replication(
            [Standbys(*row) for row in standbys],
            [Slots(*row) for row in slots],
        )
