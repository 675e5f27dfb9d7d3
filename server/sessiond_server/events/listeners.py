"""The registered listeners of a bus."""

from collections.abc import Callable, Sequence

from sessiond_server.events.bus import Deltas, Hint, Listener


class Listeners:
    """A Listener that forwards every call to the registered listeners, in order of registration."""

    def __init__(self) -> None:
        self._all: dict[object, Listener] = {}

    def add(self, listener: Listener) -> Callable[[], None]:
        """See `Bus.listen`. A listener that is added twice is called twice."""
        key = object()
        self._all[key] = listener

        def remove() -> None:
            self._all.pop(key, None)

        return remove

    def on_hints(self, hints: Sequence[Hint]) -> None:
        for listener in tuple(self._all.values()):
            listener.on_hints(hints)

    def on_deltas(self, deltas: Deltas) -> None:
        for listener in tuple(self._all.values()):
            listener.on_deltas(deltas)

    def on_gap(self) -> None:
        for listener in tuple(self._all.values()):
            listener.on_gap()
