"""Asks the database, at intervals, how its standbys and replication slots are doing."""

import asyncio
import logging
from typing import Final

from sessiond_server.postgres.question import Fetch, Question
from sessiond_server.postgres.statements import WATCH
from sessiond_server.store.condition import Replication, Slots, Standbys

_log = logging.getLogger("sessiond.postgres")

STANDBYS: Final = WATCH["standbys"].text
SLOTS: Final = WATCH["slots"].text

PAUSE: Final = 10.0
"""Seconds between two queries."""


class ReplicationWatch:
    """Looks through `fetch` at the replication; `found` is what it last saw."""

    def __init__(self, fetch: Fetch) -> None:
        self.found: Replication | None = None
        """None: the database does not answer, or refuses to."""
        self._question = Question(fetch, _log, "how the replication is doing", STANDBYS, SLOTS)

    async def run(self) -> None:
        """Calls `look` every PAUSE seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Updates `found` from the database. Never raises."""
        answers = await self._question.ask()
        if answers is None:
            self.found = None
            return
        standbys, slots = answers
        self.found = Replication([Standbys(*row) for row in standbys], [Slots(*row) for row in slots])
