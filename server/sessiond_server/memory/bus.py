"""The bus of a single process, for the store in memory and for tests."""

import asyncio
from collections.abc import Callable, Sequence

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint, Listener
from sessiond_server.events.listeners import Listeners


class MemoryBus:
    """A Bus (see bus.py) that all hubs of one event loop share. It loses nothing.

    Listeners are called in the loop's next turn, never from within `ring` or `show`: what a turn rang for is one call,
    the highest `seq` of each session.
    """

    def __init__(self) -> None:
        self._listeners = Listeners()
        self._hints: dict[Key, int] = {}
        self._deltas: dict[Key, list[bytes]] = {}
        self._due = False

    @property
    def ready(self) -> bool:
        return True

    def listen(self, listener: Listener) -> Callable[[], None]:
        return self._listeners.add(listener)

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        for hint in hints:
            self._hints[hint.key] = max(hint.seq, self._hints.get(hint.key, 0))
        self._later()

    def publish_deltas(self, deltas: Deltas) -> None:
        self._deltas.setdefault(deltas.key, []).extend(deltas.data)
        self._later()

    def _later(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._due = False
        hints, self._hints = self._hints, {}
        deltas, self._deltas = self._deltas, {}
        if hints:
            self._listeners.on_hints([Hint(key, seq) for key, seq in hints.items()])
        for key, data in deltas.items():
            self._listeners.on_deltas(Deltas(key, data))
