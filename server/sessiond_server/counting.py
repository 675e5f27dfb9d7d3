"""Keeps the counters of usage up to date, on one replica at a time."""

import asyncio
import logging
from typing import Final

from sessiond_server.errors import Unavailable
from sessiond_server.measures import Rounds
from sessiond_server.store.usage import UsageCounting

_log = logging.getLogger("sessiond.usage")

LEASE_SECONDS: Final = 10.0
"""After a replica has died, another one goes on after this time."""
PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 5.0
"""Seconds between two rounds once everything is counted. Looking takes a tenth of the time at most."""


def counted() -> Rounds:
    return Rounds("usage", "counted_events")


async def run(counting: UsageCounting, holder: str, rounds: Rounds) -> None:
    """Counts until cancelled. Logs errors, and goes on. Cancelling loses nothing."""
    while True:
        pause = await _round(counting, holder, rounds)
        await asyncio.sleep(pause)


async def _round(counting: UsageCounting, holder: str, rounds: Rounds) -> float:
    """One round. Returns the seconds until the next one."""
    clock = asyncio.get_running_loop().time
    start, began = clock(), rounds.begin()
    events, complete = 0, True
    try:
        if await counting.take_lease(holder, LEASE_SECONDS):
            events, complete = await counting.count()
    except Unavailable as error:
        rounds.fail()
        _log.warning("cannot count usage: %s", error)
        return PAUSE
    except Exception as error:
        rounds.fail()
        _log.error("counting usage failed; trying again in %g s", PAUSE, exc_info=error)
        return PAUSE
    rounds.end(began, events)
    taken = clock() - start
    # While there is more, it rests for as long as it works: it shares the loop, and Postgres, with calls.
    return min(max(PAUSE, 10 * taken), LONGEST_PAUSE) if complete else min(taken, PAUSE)
