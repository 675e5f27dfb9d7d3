"""Reconnects to a server: the backoff between attempts, and one log line for the start and end of each outage."""

import asyncio
import logging
from random import Random
from typing import Final

_log = logging.getLogger("sessiond.bus")

LONGEST_PAUSE: Final = 2.0
"""Longest backoff in seconds between attempts to reach a server; half of it is jitter."""
STEADY: Final = 5.0
"""Seconds after which a connection counts as stable: the backoff is reset, and the log says that the outage is over."""


class Outage:
    """The reconnect state of one task, which connects, uses the connection, fails, waits, and connects again."""

    def __init__(self, server: str, random: Random) -> None:
        """`server` names it in the log."""
        self.failures = 0
        """Consecutive attempts without a stable connection."""
        self._server = server
        self._random = random
        self._logged = False
        self._began = 0.0
        self._loop = asyncio.get_running_loop()

    def attempt(self) -> None:
        """An attempt begins."""
        self._began = self._loop.time()

    def note_alive(self) -> None:
        """Notes that the connection works. To be called regularly while it is in use."""
        if self._logged and self._steady():
            self._logged = False
            _log.info("hints go through %s again", self._server)

    async def failed(self, why: str) -> None:
        """Notes that the attempt, or the connection that it made, has failed. Returns after the backoff.

        `why` is logged and must not contain any payload.
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
