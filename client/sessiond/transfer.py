"""Types, bounds and retries of uploads and downloads."""

import asyncio
import random
from collections.abc import AsyncIterable, Callable
from os import PathLike

from sessiond.errors import SessiondError, TransferStalled, Unavailable, UploadOffsetMismatch
from sessiond.options import Reconnect
from sessiond.recovery import may_pass, passes

Source = str | PathLike[str] | bytes | bytearray | memoryview | AsyncIterable[bytes]
"""The source of an upload; a str is a path."""
Progress = Callable[[int, int], None]
"""Called with the bytes transferred so far and the bytes of the whole transfer. The first number may fall: after a cut
connection, bytes that had not arrived are sent again."""

CHUNK_BYTES = 256 * 1024
IDLE_TIMEOUT = 60.0
"""Seconds within which some bytes must be transferred."""
GIVE_UP_AFTER = 60.0
"""Seconds without any progress after which the last error is raised."""
_MOST_SUSPECT = 5
"""Failures in a row, of kinds that may be temporary or permanent, after which the last one is raised."""


class Patience:
    """Decides whether and when a broken transfer is tried again."""

    def __init__(self, reconnect: Reconnect, give_up_after: float) -> None:
        self._reconnect = reconnect
        self._give_up_after = give_up_after
        self._failures = 0
        """Failures since the last progress; the next two attributes count from the same moment."""
        self._suspect = 0
        self._since: float | None = None

    def progressed(self) -> None:
        self._failures = self._suspect = 0
        self._since = None

    async def after(self, error: SessiondError) -> None:
        """Returns when the next attempt is due. Raises the error when there must be no other attempt."""
        loop = asyncio.get_running_loop()
        if self._since is None:
            self._since = loop.time()
        self._failures += 1
        if not (passes(error) or isinstance(error, TransferStalled | UploadOffsetMismatch)):
            self._suspect += 1
            if not may_pass(error) or self._suspect >= _MOST_SUSPECT:
                raise error
        longest = self._reconnect.initial_backoff * 2.0 ** min(self._failures - 1, 30)
        pause = max(min(longest, self._reconnect.max_backoff) * random.uniform(0.5, 1.0), error.retry_after or 0.0)
        if loop.time() + pause >= self._since + self._give_up_after:
            raise error
        await asyncio.sleep(pause)


def stalled(seconds: float) -> SessiondError:
    return Unavailable(f"nothing moved for {seconds:g} s", code="UNAVAILABLE")
