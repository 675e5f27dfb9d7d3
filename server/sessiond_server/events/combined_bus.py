"""Combines two buses: a fast one and a fallback."""

from collections.abc import Callable, Sequence

from sessiond_server.events.bus import Bus, Deltas, Hint, Listener


class CombinedBus:
    """A Bus (see bus.py) that publishes on `first` while that is ready, else on `second`, and listens to both.

    It listens to both because another process may have lost `first` while this one still has it. If this process has
    lost `first`, it misses hints that others publish there, so `ready` is that of `first`.
    """

    def __init__(self, first: Bus, second: Bus) -> None:
        self._first = first
        self._second = second

    @property
    def ready(self) -> bool:
        return self._first.ready

    def listen(self, listener: Listener) -> Callable[[], None]:
        ends = (self._first.listen(listener), self._second.listen(listener))

        def end() -> None:
            for one in ends:
                one()

        return end

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        self._present().publish_hints(hints)

    def publish_deltas(self, deltas: Deltas) -> None:
        self._present().publish_deltas(deltas)

    def _present(self) -> Bus:
        return self._first if self._first.ready else self._second
