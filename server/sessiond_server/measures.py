"""Numbers that the parts of the service count, for metrics. Only the loop writes them; any thread may read them."""

from bisect import bisect_left
from collections.abc import Callable
from time import monotonic
from typing import Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Upper bounds of histograms, in seconds, inclusive. The last one is the default of the longest deadline."""


class Durations:
    """A histogram of durations. To note one takes 0.2 µs."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """How many took at most BOUNDS[i], and more than the bound before it."""
        self.seconds = 0.0
        """Total of all durations."""

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Rounds:
    """The rounds of one periodic task."""

    __slots__ = ("_clock", "_last", "achieved", "done", "failed", "seconds", "task")

    def __init__(self, task: str, *achieved: str, clock: Callable[[], float] = monotonic) -> None:
        """`task` names it. `achieved`: names of what its rounds achieve. `clock`: seconds."""
        self.task: Final = task
        self.done = 0
        """Rounds that went through."""
        self.failed = 0
        self.seconds = 0.0
        """Total duration of the rounds that went through."""
        self.achieved = dict.fromkeys(achieved, 0)
        """How much of each has been achieved so far."""
        self._clock = clock
        self._last = clock()

    def begin(self) -> float:
        """Returns when the round begins, for `end`."""
        return self._clock()

    def end(self, began: float, *achieved: int) -> None:
        """A round has gone through. `achieved`: how much of each, in the order of their names."""
        self._last = self._clock()
        self.done += 1
        self.seconds += self._last - began
        for name, amount in zip(self.achieved, achieved, strict=True):
            self.achieved[name] += amount

    def fail(self) -> None:
        """A round has failed."""
        self.failed += 1

    def age(self) -> float:
        """Seconds since a round last went through, or since the task began."""
        return self._clock() - self._last
