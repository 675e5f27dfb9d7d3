"""A listener that records the hints and deltas that it receives."""

import asyncio
from collections.abc import Callable, Sequence

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Bus, Deltas, Hint


class Ear:
    """Listens to `bus` from the start."""

    def __init__(self, bus: Bus) -> None:
        self.hints: dict[Key, int] = {}
        """The highest `seq` received for each session."""
        self.calls = 0
        """Times that hints came."""
        self.deltas: dict[Key, list[bytes]] = {}
        self.missed = 0
        """Times that the bus may have missed something."""
        self.close = bus.listen(self)
        self._bus = bus
        self._change = asyncio.Event()

    def on_hints(self, hints: Sequence[Hint]) -> None:
        self.calls += 1
        for hint in hints:
            self.hints[hint.key] = max(hint.seq, self.hints.get(hint.key, 0))
        self._change.set()

    def on_deltas(self, deltas: Deltas) -> None:
        self.deltas.setdefault(deltas.key, []).extend(deltas.data)
        self._change.set()

    def on_gap(self) -> None:
        self.missed += 1
        self._change.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns when what was heard meets the condition."""
        async with asyncio.timeout(20):
            while not condition():
                self._change.clear()
                await self._change.wait()

    async def heard(self, *hints: Hint) -> None:
        """Returns when it has heard all of these, or of something later."""
        await self.until(lambda: all(self.hints.get(hint.key, 0) >= hint.seq for hint in hints))
