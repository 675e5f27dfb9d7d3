"""Periodic work on the store: ends expired sessions, and removes records that are past their retention.

Safe on any number of replicas at once: each skips rows that another one is working on.
"""

import asyncio
import logging

from sessiond_server.errors import Unavailable
from sessiond_server.measures import Rounds
from sessiond_server.store.commits import Commits
from sessiond_server.store.upkeep import Upkeep

_log = logging.getLogger("sessiond.sweeper")

BATCH = 200
"""Most sessions that one transaction ends, and most records that one removes."""


def counted() -> Rounds:
    """For `run`: counts the rounds, the sessions that they changed and the records that they removed."""
    return Rounds("sweeper", "sessions", "records")


async def sweep(commits: Commits, upkeep: Upkeep) -> tuple[int, int]:
    """Works until nothing is due; returns (sessions ended, records removed). Cancelling loses nothing."""
    ended = removed = 0
    while True:
        count = len((await commits.expire_due(BATCH)).heads)
        ended += count
        if count < BATCH:
            break
    while True:
        count = await upkeep.purge(BATCH)
        removed += count
        if count < BATCH:
            break
    return ended, removed


async def run(commits: Commits, upkeep: Upkeep, interval: float, rounds: Rounds | None = None) -> None:
    """Sweeps every `interval` seconds until cancelled. An error is logged and does not end it. `rounds` are those of
    `counted`."""
    rounds = rounds or counted()
    while True:
        began = rounds.begin()
        try:
            ended, removed = await sweep(commits, upkeep)
            rounds.end(began, ended, removed)
            if ended or removed:
                _log.info("ended %d expired sessions, removed %d records past their retention", ended, removed)
        except Unavailable as error:
            rounds.fail()
            _log.warning("cannot sweep: %s", error)
        except Exception as error:
            rounds.fail()
            _log.error("sweeping failed; trying again in %s s", interval, exc_info=error)
        await asyncio.sleep(interval)
