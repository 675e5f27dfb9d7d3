"""What the database's clock says now, estimated from what it has said before."""

from collections.abc import Callable
from time import monotonic
from typing import Final

DRIFT: Final = 0.0001
"""By which part of the time that has passed the clocks may have drifted apart since an answer."""
DOUBT_US: Final = 100_000
"""Largest range, in microseconds, within which the database's clock may be for the estimate to be given: more than the
way to a database in another country and back."""


class DatabaseClock:
    """Each answer of the database bounds its clock: it said its time after it was asked, and before it had answered.

    The estimate is the lower bound of all answers. So it is not ahead of the database's clock, unless that was set back
    since its last answer, and never before a time that the database has given. It is no truth: whoever writes by it has
    the database compare it (`write_if_unchanged` in write.sql).
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds of this process, which are never set."""
        self.clock: Final = clock
        self._bounds: tuple[float, float] | None = None
        """Microseconds that the database's clock is ahead of this process's, at least and at most; as of `_noted`."""
        self._noted = 0.0

    def note(self, asked: float, now_us: int) -> None:
        """The database has just answered, to what it was asked at `asked` of this process's clock, that its time was
        `now_us` meanwhile."""
        answered = self.clock()
        least, most = now_us - answered * 1e6, now_us - asked * 1e6
        before = self._bounds_at(answered)
        if before is not None and least <= before[1] and most >= before[0]:
            least, most = max(least, before[0]), min(most, before[1])
        # Otherwise the database's clock was set, and only this answer counts.
        self._bounds, self._noted = (least, most), answered

    def now_us(self) -> int | None:
        """The estimate, in microseconds since 1970; None while it is in doubt by more than DOUBT_US."""
        now = self.clock()
        bounds = self._bounds_at(now)
        if bounds is None or bounds[1] - bounds[0] > DOUBT_US:
            return None
        return int(now * 1e6 + bounds[0])

    def _bounds_at(self, now: float) -> tuple[float, float] | None:
        if self._bounds is None:
            return None
        drift = (now - self._noted) * 1e6 * DRIFT
        return self._bounds[0] - drift, self._bounds[1] + drift
