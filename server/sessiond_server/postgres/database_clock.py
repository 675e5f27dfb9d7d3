"""What the database's clock says now, estimated from what it has said before."""

from collections.abc import Callable
from time import monotonic
from typing import Final

DRIFT: Final = 0.0001
"""By which part of the time that has passed the clocks may have drifted apart since an answer."""


class DatabaseClock:
    """The estimate is never ahead of the database's clock, unless that has been set back since its last answer, and
    never behind a time that the database has given before.

    It is no truth: whoever writes by it has the database compare it (`write_if_unchanged` in write.sql).
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds of this process, which are never set."""
        self.clock: Final = clock
        self._offset: float | None = None
        """Microseconds that the database's clock is ahead of this process's, at least; as of `_noted`."""
        self._noted = 0.0

    def note(self, asked: float, now_us: int) -> None:
        """The database has just answered, to what it was asked at `asked` of this process's clock, that its time was
        `now_us` meanwhile."""
        answered = self.clock()
        least, most = now_us - answered * 1e6, now_us - asked * 1e6
        before = self._offset_at(answered)
        if before is None or least > before or most < before:
            self._offset, self._noted = least, answered

    def now_us(self) -> int | None:
        """The estimate, in microseconds since 1970; None before the first answer."""
        now = self.clock()
        offset = self._offset_at(now)
        return None if offset is None else int(now * 1e6 + offset)

    def _offset_at(self, now: float) -> float | None:
        return None if self._offset is None else self._offset - (now - self._noted) * 1e6 * DRIFT
