"""Two bells as one: a fast one, and one to fall back on."""

from collections.abc import Callable, Sequence

from sessiond_server.events.bus import Bus, Deltas, Hint, Listener


class CombinedBus:
    """A Bus (see bus.py) that rings `first` while that is ready and `second` while it is not, and listens to both.

    Another process may have lost the first bell while this one has it, and rings the second. The other way round, what
    the others ring on the first is not heard here while it is away: `ready` is the first's.
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
