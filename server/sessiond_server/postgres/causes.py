"""Why the database cannot be used: each cause logged once, counted, and raised to callers without its text."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.sqlstates import Meaning, cause, meaning

_log = logging.getLogger("sessiond.postgres")

QUIET_SECONDS: Final = 60.0
"""A cause that was logged is logged again when it comes up after so long, with how often it did meanwhile."""
MOST_CAUSES: Final = 64
"""Different ones that are kept; all others count as "other"."""
_LONGEST: Final = 300


class Causes:
    """The causes that one user of the database has met."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self.counts: Counter[str] = Counter()
        """Times that each came up, by SQLSTATE or class of error."""
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}
        """When each was logged, and its count then."""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raises StoreUnavailable in place of the errors that another try or another time can mend."""
        try:
            yield
        except Exception as error:
            found = meaning(error)
            if found is None:
                raise
            self.note(error)
            raise StoreUnavailable(divisible=found is Meaning.TOO_MUCH) from error

    def note(self, error: BaseException) -> None:
        """Counts the error, and logs it unless it was logged of late."""
        name = cause(error)
        if name not in self.counts and len(self.counts) >= MOST_CAUSES:
            name = "other"
        self.counts[name] += 1
        now, count = self._clock(), self.counts[name]
        at, before = self._logged.get(name, (-QUIET_SECONDS, 0))
        if now - at < QUIET_SECONDS:
            return
        self._logged[name] = (now, count)
        # The first line: those after it may quote a row.
        text = str(error).partition("\n")[0][:_LONGEST]
        often = f" ({count - before} times since it was last said)" if before else ""
        _log.error("Postgres cannot do its work: %s %s: %s%s", name, type(error).__name__, text, often)


@contextmanager
def reaching() -> Iterator[None]:
    """As `Causes.told`, for a single attempt that says itself what is wrong."""
    try:
        yield
    except Exception as error:
        if meaning(error) is None:
            raise
        raise StoreUnavailable from error
