"""Finds and logs which sessions of the database hold the locks that this service's transactions wait for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.statements import WATCH

_log = logging.getLogger("sessiond.postgres")

BLOCKERS = WATCH["blockers"].text

QUIET_SECONDS: Final = 30.0
"""Least time between two log records about the same holder, in seconds."""
MOST_HOLDERS: Final = 64
ANSWER_SECONDS: Final = 3.0


class Blockers:
    """Looks for holders of locks through `fetch`, in its own task, one query at a time."""

    def __init__(
        self, fetch: Callable[[str], Awaitable[Sequence[Any]]], clock: Callable[[], float] = monotonic
    ) -> None:
        """`clock`: seconds."""
        self._fetch = fetch
        self._clock = clock
        self._logged: dict[object, float] = {}
        self._task: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Starts a query, unless one is running."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._look(), name="blockers")

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
        now = self._clock()
        for row in rows:
            holder = (row["pid"], row["locktype"], row["relation"])
            if now - self._logged.get(holder, -QUIET_SECONDS) < QUIET_SECONDS:
                continue
            if len(self._logged) >= MOST_HOLDERS:
                self._logged.clear()
            self._logged[holder] = now
            _log.warning("a transaction waits for %s, held by %s", _lock(row), holder_of(row))


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
