"""Keeps the index up to date: follows the feeds of all tenants, on one replica at a time."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol

from sessiond_server.errors import Unavailable
from sessiond_server.measures import Rounds

_log = logging.getLogger("sessiond.search")

LEASE_SECONDS: Final = 5.0
"""After a replica has died, another one goes on after this time."""
WORK_SECONDS: Final = 0.25
"""Longest time of a round, but for the transaction under way then. It rests for as long as it took: indexing shares the
loop, and the processor of Postgres, with calls. A caller who waits for the index ends the rest."""
PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 5.0
"""Seconds between two looks for events. Looking takes a tenth of the time at most."""
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Behind:
    """An index of which a tenant's feed has more."""

    tenant_id: str
    feed_id: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """What reading a feed further has brought."""

    events: int
    complete: bool
    """Whether the index then had all that could be read."""


class IndexUpkeep(Protocol):
    """What keeps an index up to date. Every method raises StoreUnavailable."""

    async def take_lease(self, holder: str, seconds: float) -> bool:
        """Whether the holder has the lease, now for so many seconds. Others may not work meanwhile, but do no harm."""
        ...

    async def give_lease(self, holder: str) -> None:
        """Gives the lease back, if the holder has it."""
        ...

    async def behind(self) -> Sequence[Behind]:
        """Indexes of which the feeds have more, of all tenants; makes one for each tenant that has none."""
        ...

    async def advance(self, feed_id: int) -> Advanced:
        """Reads a bounded part of the feed, and writes what it brings, all or nothing. An index that is built anew and
        complete takes the place of the other one."""
        ...

    async def remove_dropped(self) -> bool:
        """Removes a bounded part of what is left of indexes that were replaced. Returns whether there was any."""
        ...


@dataclass(frozen=True, slots=True)
class IndexState:
    """What metrics show."""

    lag: float
    """Seconds since the index was last known to have all that could be read."""
    keeps: bool
    """Whether this process keeps it."""


class Indexing:
    """The indexing of one database by this replica."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self.rounds = Rounds("search", "indexed_events", clock=clock)
        self.keeps = False
        self.last = ""
        """The tenant whose feed was read last: the next round begins with the one behind it."""
        self._clock = clock
        self._complete = clock()

    def state(self) -> IndexState:
        """Any thread may ask."""
        return IndexState(self._clock() - self._complete, self.keeps)

    def completed(self) -> None:
        self._complete = self._clock()


async def run(upkeep: IndexUpkeep, holder: str, indexing: Indexing, news: asyncio.Event) -> None:
    """Indexes until cancelled, then gives the lease back. An error is logged and does not end it. `news` is set by
    those who wait for the index."""
    try:
        while True:
            await _round(upkeep, holder, indexing, news)
    finally:
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await upkeep.give_lease(holder)
        except (Unavailable, TimeoutError):
            pass  # it ends by itself


async def _round(upkeep: IndexUpkeep, holder: str, indexing: Indexing, news: asyncio.Event) -> None:
    """One round, and the pause after it."""
    began = indexing.rounds.begin()
    pause = RETRY_SECONDS
    indexing.keeps = False
    clock = asyncio.get_running_loop().time
    try:
        indexing.keeps = await upkeep.take_lease(holder, LEASE_SECONDS)
        if indexing.keeps:
            start = clock()
            pause = await round_of(upkeep, indexing, began)
            pause = max(pause, min(clock() - start, LONGEST_PAUSE))
        else:
            indexing.completed()  # another replica has the lease, and says how far it is
            indexing.rounds.end(began, 0)
    except Unavailable as error:
        indexing.rounds.fail()
        _log.warning("cannot index: %s", error)
    except Exception as error:
        indexing.rounds.fail()
        _log.error("indexing failed; trying again in %g s", pause, exc_info=error)
    if pause:
        try:
            async with asyncio.timeout(pause):
                await news.wait()
        except TimeoutError:
            pass
        news.clear()


async def round_of(upkeep: IndexUpkeep, indexing: Indexing, began: float) -> float:
    """Reads each feed further, at most a page of it and WORK_SECONDS in all, the tenants by turns. Returns the seconds
    until the next round.

    A feed that cannot be read does not keep the others from being read: its error is raised after them.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    behind = sorted(await upkeep.behind(), key=lambda index: (index.tenant_id <= indexing.last, index.tenant_id))
    looked = loop.time() - start
    events, complete = 0, True
    failed: Exception | None = None
    for index in behind:
        indexing.last = index.tenant_id
        try:
            advanced = await upkeep.advance(index.feed_id)
        except Unavailable:
            raise
        except Exception as error:
            failed = error
            continue
        events += advanced.events
        complete = complete and advanced.complete
        if loop.time() - start > WORK_SECONDS:
            complete = complete and index is behind[-1]
            break
    dropped = await upkeep.remove_dropped()
    if failed is not None:
        raise failed
    if complete:
        indexing.completed()
    indexing.rounds.end(began, events)
    return min(max(PAUSE, 10 * looked), LONGEST_PAUSE) if complete and not dropped else 0.0
