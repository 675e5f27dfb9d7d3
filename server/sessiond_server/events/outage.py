"""A server that comes and goes: when to try again, and what the log says of it, once for each outage."""

import asyncio
import logging
from random import Random
from typing import Final

_log = logging.getLogger("sessiond.bus")

LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to reach a server that is away, at most; half of it is left to chance."""
STEADY: Final = 5.0
"""Seconds that a connection must have held for the next attempt to be made at once, and for the log to say so."""


class Outage:
    """Belongs to one task that tries, uses, fails, pauses, and tries again."""

    def __init__(self, server: str, random: Random) -> None:
        """`server` names it in the log."""
        self.failures = 0
        """Attempts in a row that led to nothing steady."""
        self._server = server
        self._random = random
        self._logged = False
        self._began = 0.0
        self._loop = asyncio.get_running_loop()

    def attempt(self) -> None:
        """An attempt begins."""
        self._began = self._loop.time()

    def note_alive(self) -> None:
        """The connection holds; to be called every so often."""
        if self._logged and self._steady():
            self._logged = False
            _log.info("hints go through %s again", self._server)

    async def failed(self, why: str) -> None:
        """The attempt, or the connection that it made, has ended; returns when it is time for the next one.

        `why` must not tell what was in any payload.
        """
        if not self._logged:
            self._logged = True
            _log.warning("hints cannot go through %s: %s", self._server, why)
        if self._steady():
            self.failures = 0
        longest = min(0.01 * 4**self.failures, LONGEST_PAUSE)
        self.failures = min(self.failures + 1, 10)
        await asyncio.sleep(longest * (0.5 + self._random.random() / 2))

    def _steady(self) -> bool:
        return self._loop.time() - self._began > STEADY
