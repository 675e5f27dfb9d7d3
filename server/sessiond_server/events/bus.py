"""The contract of the bus, which carries hints and deltas between replicas. Correctness never depends on it.

A hint says that a session's log has reached a seq. Lost, duplicated, late or reordered hints cost only latency: the hub
reads the log from the store, and also polls its end. Deltas are ephemeral and may be lost.
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
    """Deltas of one session: pieces of messages that are still being written."""

    key: Key
    data: Sequence[bytes]
    """Serialised sessiond.v1.Delta messages."""


class Listener(Protocol):
    """Receives hints and deltas from a bus, on the event loop's thread. Its methods must return at once and not
    raise."""

    def on_hints(self, hints: Sequence[Hint]) -> None:
        """Sessions have new events. A process may also receive its own hints."""
        ...

    def on_deltas(self, deltas: Deltas) -> None:
        """Deltas were published, by this process or another one."""
        ...

    def on_gap(self) -> None:
        """The bus may have missed hints until now: poll everything that is watched."""
        ...


class Bus(Protocol):
    """Carries hints and deltas to all replicas, this one included. Every method returns at once; nothing raises."""

    @property
    def ready(self) -> bool:
        """Whether hints of other replicas arrive, as far as is known. While False, the hub polls faster."""
        ...

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Registers the listener. The returned function removes it."""
        ...

    def publish_hints(self, hints: Sequence[Hint]) -> None:
        """Publishes the hints in one publication. The buffer is bounded: hints that can't be sent soon are dropped."""
        ...

    def publish_deltas(self, deltas: Deltas) -> None:
        """Publishes the deltas. The buffer is bounded: deltas that can't be sent soon are dropped."""
        ...
