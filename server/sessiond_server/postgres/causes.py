"""Counts and logs the causes for which the database cannot be used, and hides their text from callers."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

import asyncpg

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.sqlstates import Meaning, cause, meaning

_log = logging.getLogger("sessiond.postgres")

QUIET_SECONDS: Final = 60.0
"""Least time between two log records of one cause, in seconds. The later record says how often it occurred between."""
MOST_CAUSES: Final = 64
"""Most distinct causes; all further ones count as "other"."""
_LONGEST: Final = 300


class Causes:
    """Causes of failure, with their counts."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self.counts: Counter[str] = Counter()
        """Number of occurrences by SQLSTATE or class of error."""
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}
        """Cause -> (time of its last log record, its count then)."""

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Counts temporary errors of the database and raises StoreUnavailable in their place."""
        try:
            yield
        except Exception as error:
            found = meaning(error)
            if found is None:
                raise
            self.note(error)
            raise StoreUnavailable(divisible=found is Meaning.TOO_MUCH) from error

    def note(self, error: BaseException) -> None:
        """Counts the error, and logs it unless it was logged within the last QUIET_SECONDS."""
        name = cause(error)
        if name not in self.counts and len(self.counts) >= MOST_CAUSES:
            name = "other"
        self.counts[name] += 1
        now, count = self._clock(), self.counts[name]
        at, before = self._logged.get(name, (-QUIET_SECONDS, 0))
        if now - at < QUIET_SECONDS:
            return
        self._logged[name] = (now, count)
        # Only the first line is logged: the others may quote a row.
        text = str(error).partition("\n")[0][:_LONGEST]
        often = f" ({count - before} times since the last record)" if before else ""
        _log.error("Postgres failed: %s %s: %s%s", name, type(error).__name__, text, often)


@contextmanager
def translating() -> Iterator[None]:
    """Raises StoreUnavailable for temporary errors as `Causes.translating` does, without counting or logging them."""
    try:
        yield
    except Exception as error:
        if meaning(error) is None:
            raise
        raise StoreUnavailable from error


def waited_for_lock(error: StoreUnavailable) -> bool:
    """Whether the database was there, but a transaction kept a lock from the caller for too long."""
    return isinstance(error.__cause__, asyncpg.LockNotAvailableError)
