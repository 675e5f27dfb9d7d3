"""Bounds the total memory of all rings of a process."""

from typing import Protocol


class Ring(Protocol):
    """Recent events kept in memory for streams that are a little behind."""

    size: int
    """Bytes."""

    def evict(self) -> None:
        """Drops all events that can be read from the store again."""
        ...


class Rings:
    """Keeps the total size of all rings below `most` bytes: the ring that has grown least recently is emptied first.

    After that, each slower stream of the ring needs one read of the store; no stream loses events.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        """Total bytes of all rings."""
        self._most = most
        self._sizes: dict[Ring, int] = {}
        """Sizes of the rings that are not empty, the one that grew least recently first."""

    def changed(self, ring: Ring) -> None:
        """To be called whenever a ring may have grown or shrunk."""
        self.held += ring.size - self._sizes.pop(ring, 0)
        if ring.size:
            self._sizes[ring] = ring.size
        while self.held > self._most and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            oldest.evict()
            self.held -= self._sizes.pop(oldest)

    def removed(self, ring: Ring) -> None:
        """Stops counting a ring that is no longer used."""
        self.held -= self._sizes.pop(ring, 0)
