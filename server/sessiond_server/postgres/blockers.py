"""Finds and logs which sessions of the database hold the locks that this service's transactions wait for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.schema.tables import TABLES
from sessiond_server.postgres.statements import WATCH

_log = logging.getLogger("sessiond.postgres")

BLOCKERS = WATCH["blockers"].text
TABLE_HOLDER = WATCH["table_holder"].text

QUIET_SECONDS: Final = 30.0
"""Least time between two log records about the same holder, in seconds."""
MOST_HOLDERS: Final = 64
ANSWER_SECONDS: Final = 3.0


class Blockers:
    """Looks for holders of locks through `fetch`, in its own task, one query at a time."""

    def __init__(self, fetch: Callable[..., Awaitable[Sequence[Any]]], clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self._fetch = fetch
        self._clock = clock
        self._logged: dict[object, float] = {}
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Starts a query, unless one is running."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._look(), name="blockers")

    async def of_table(self, refused: int) -> bool:
        """Whether another transaction keeps writers out of one of the tables; logged then, with the number of calls
        that are refused for it. False when the database does not say."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                rows = await self._fetch(TABLE_HOLDER, TABLES)
        except (StoreUnavailable, TimeoutError):
            return False
        for row in rows:
            if self._is_new(("table", row["pid"], row["relation"])):
                _log.warning(
                    "the table %s is locked (%s, %s) by %s: %d calls, and others that come, are refused",
                    row["relation"],
                    row["mode"],
                    "held" if row["granted"] else "waited for",
                    holder_of(row),
                    refused,
                )
        return bool(rows)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                rows = await self._fetch(BLOCKERS)
        except (StoreUnavailable, TimeoutError):
            return  # the transaction that waits logs what is wrong with the database
        except Exception as error:
            _log.warning("cannot find out which sessions hold locks", exc_info=error)
            return
        for row in rows:
            if self._is_new((row["pid"], row["locktype"], row["relation"])):
                _log.warning("a transaction waits for %s, held by %s", _lock(row), holder_of(row))

    def _is_new(self, holder: object) -> bool:
        """Whether it was not logged of late; from now on it was."""
        now = self._clock()
        if now - self._logged.get(holder, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        if len(self._logged) >= MOST_HOLDERS:
            self._logged.clear()
        self._logged[holder] = now
        return True


def _lock(row: Any) -> str:
    of = f" of {row['relation']}" if row["relation"] else ""
    return f"{row['mode'] or 'a lock'} on {row['locktype'] or 'something'}{of}"


def holder_of(row: Any) -> str:
    """Describes the session that holds a lock, without its query or data."""
    if not row["pid"]:
        return row["application"] or "a prepared transaction"
    words = [f"process {row['pid']}"]
    if row["application"]:
        words.append(f"application {row['application']!r}")
    if row["role"]:
        words.append(f"role {row['role']!r}")
    if row["state"]:
        words.append(row["state"])
    if row["seconds"]:
        words.append(f"in a transaction for {row['seconds']:.0f} s")
    return ", ".join(words)
