"""The bell between replicas: hints that something happened, and deltas. Neither is ever believed or relied on.

A hint says that a session's log has reached a seq. Losing, doubling, delaying or reordering hints costs latency only:
the hub reads the log from the store, and polls its end besides. Deltas are the ephemeral lane: they may be lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.rows import Key


@dataclass(frozen=True, slots=True)
class Hint:
    """The session's log has reached `seq`."""

    key: Key
    seq: int


@dataclass(frozen=True, slots=True)
class Deltas:
    """Pieces of messages in the making, of one session."""

    key: Key
    data: Sequence[bytes]
    """Serialised sessiond.v1.Delta each."""


class Listener(Protocol):
    """What a bus calls, on the event loop's thread. Must return at once and never raise."""

    def on_hints(self, hints: Sequence[Hint]) -> None:
        """Sessions have new events. Those of this process may come back to it too."""
        ...

    def on_deltas(self, deltas: Deltas) -> None:
        """Deltas passed by, those of this process included."""
        ...

    def on_gap(self) -> None:
        """The bus may have missed hints until now: look at everything that is watched."""
        ...


class Bus(Protocol):
    """Carries hints and deltas to all replicas, this one included. Every method returns at once; nothing raises."""

    @property
    def ready(self) -> bool:
        """Whether hints of other replicas arrive, as far as is known. While it is False the hub polls faster."""
        ...

    def listen(self, listener: Listener) -> Callable[[], None]:
        """From now on `listener` is called; the answer ends that."""
        ...

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        """Hands hints on, one publication for all of them. Bounded: what can't be sent soon is dropped."""
        ...

    def publish_deltas(self, deltas: Deltas) -> None:
        """Hands deltas on. Bounded: what can't be sent soon is dropped."""
        ...
