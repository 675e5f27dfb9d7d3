"""The memory that all rings of a process may have together."""

from typing import Protocol


class Ring(Protocol):
    """Events kept for streams that are a little behind."""

    size: int
    """Bytes."""

    def evict(self) -> None:
        """Lets go of what can be read from the store again."""
        ...


class Rings:
    """Keeps the sum of their sizes below `most` bytes: the ring that has grown least recently is emptied first.

    A ring that is emptied costs its slower streams a read each; nobody loses anything.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        """Bytes of all rings."""
        self._most = most
        self._sizes: dict[Ring, int] = {}
        """Those that hold something, the one that grew least recently first."""

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
        """The ring is no longer used."""
        self.held -= self._sizes.pop(ring, 0)
