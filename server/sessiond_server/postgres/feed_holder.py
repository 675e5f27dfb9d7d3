"""Finds and reports an open transaction, of any program, that holds feeds back."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from sessiond_server.postgres.blockers import holder_of
from sessiond_server.postgres.question import Fetch, Question
from sessiond_server.postgres.statements import WATCH
from sessiond_server.store.condition import FeedHolder

_log = logging.getLogger("sessiond.feeds")

FIND = WATCH["feed_holder"].text

PAUSE: Final = 2.0
"""Seconds between two queries."""
PATIENCE: Final = 5.0
"""Seconds that a transaction may hold feeds back before it is reported. Our own transactions take milliseconds."""


class FeedHolders:
    """Looks through `fetch` for the transaction that holds feeds back; `holder` is the one that was reported."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self.holder: FeedHolder | None = None
        self._question = Question(fetch, _log, "which transaction holds feeds back", FIND)
        self._clock = clock
        self._xid = 0
        """Id of the oldest open transaction; 0: none."""
        self._since = 0.0
        """When that transaction was first seen."""

    async def run(self) -> None:
        """Calls `look` every PAUSE seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Updates `holder` from the database. Never raises; a database that does not answer leaves it as it is."""
        answers = await self._question.ask()
        if answers is not None:
            (rows,) = answers
            self._found(rows[0] if rows else None)

    def _found(self, row: Any | None) -> None:
        now, xid = self._clock(), row["xid"] if row is not None else 0
        if xid != self._xid:
            if self.holder is not None:
                _log.info("feeds go on: process %d held them back for %.0f s", self.holder.pid, now - self._since)
            self._xid, self._since, self.holder = xid, now, None
        if row is None or now - self._since < PATIENCE:
            return
        if self.holder is None:
            database = f" in database {row['database']!r}" if row["database"] else ""
            _log.warning("feeds are held back by an open transaction: %s%s", holder_of(row), database)
        self.holder = FeedHolder(row["pid"], row["application"], row["state"], now - self._since)
