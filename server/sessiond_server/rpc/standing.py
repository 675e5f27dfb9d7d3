"""When a queue of calls is refused more: overload told from a burst by the time that calls wait."""

from dataclasses import dataclass
from typing import Final

LEAST_DELAY: Final = 0.5
MOST_DELAY: Final = 5.0
STEP: Final = 0.5
"""Seconds that a refused caller is asked to wait: as long as the queue was, in steps, so that few refusals differ and
an answer is serialised once for each of them."""


@dataclass(frozen=True, slots=True)
class StandingQueue:
    """Judges a queue as CoDel does: by how long its oldest call has waited, not by how many calls there are.

    A burst drains, however large it is: up to `burst` calls wait as long as their deadlines let them. Beyond that, a
    queue whose oldest call has waited for longer than `target` stands: it has more calls than can be served, and each
    call that joins it makes others wait in vain. Does not read a clock.
    """

    burst: int = 2048
    """Calls that may wait for any time: as many as one connection carries."""
    target: float = 1.0
    """Seconds that the oldest call may have waited when more than `burst` wait."""

    def refusal(self, waiting: int, oldest: float) -> float | None:
        """Seconds after which a new call is to be tried again, or None: it may join. `waiting`: calls in the queue.
        `oldest`: seconds that the oldest of them has waited."""
        if waiting < self.burst or oldest <= self.target:
            return None
        return retry_after(oldest)


def retry_after(seconds: float) -> float:
    """Seconds after which a caller is to come again, where calls wait for so many."""
    return min(MOST_DELAY, max(LEAST_DELAY, seconds // STEP * STEP))
