"""Buffers the newest deltas of one session for its watchers, without those of committed messages."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from sessiond.v1.event_pb2 import Event
from sessiond.v1.event_service_pb2 import Delta
from sessiond_server.domain.log import LogEntry
from sessiond_server.events.contract import ReceivedDeltas
from sessiond_server.events.limits import HubLimits

MESSAGES_REMEMBERED: Final = 256
"""Most ids of committed messages that are remembered, to drop their late deltas."""


class DeltaLane:
    """Deltas in order of arrival, bounded by HubLimits.delta_pieces and delta_bytes. The oldest are dropped first, even
    if a slow watcher has not taken them.

    A delta is dropped once its message has been committed, whichever arrives first.
    """

    __slots__ = ("_batch", "_limits", "_messages", "_pieces", "_size", "count")

    def __init__(self, limits: HubLimits) -> None:
        self.count = 0
        """Number of deltas ever added: the position of a watcher that has taken all of them."""
        self._limits = limits
        self._pieces: deque[tuple[int, str, bytes]] = deque()
        """(number, message_id, serialised Delta)."""
        self._size = 0
        self._messages: dict[str, None] = {}
        self._batch: tuple[int, ReceivedDeltas] | None = None
        """(position, deltas after it), kept for other watchers at the same position until something changes."""

    def add(self, data: Sequence[bytes]) -> bool:
        """Adds the deltas. Ignores undecodable ones and those of committed messages. Returns whether any was added."""
        before = self.count
        for piece in data:
            try:
                message_id = Delta.FromString(piece).message_id
            except DecodeError:
                continue
            if message_id not in self._messages:
                self.count += 1
                self._pieces.append((self.count, message_id, piece))
                self._size += len(piece)
        while len(self._pieces) > self._limits.delta_pieces or self._size > self._limits.delta_bytes:
            self._size -= len(self._pieces.popleft()[2])
        self._batch = None
        return self.count > before

    def supersede(self, entry: LogEntry) -> str:
        """Drops the deltas of a message that has been appended. Returns its id."""
        message_id = Event.FromString(entry.data).message.message_id
        self._messages.pop(message_id, None)
        self._messages[message_id] = None
        if len(self._messages) > MESSAGES_REMEMBERED:
            del self._messages[next(iter(self._messages))]
        if any(of == message_id for _, of, _ in self._pieces):
            self._pieces = deque(piece for piece in self._pieces if piece[1] != message_id)
            self._size = sum(len(data) for _, _, data in self._pieces)
            self._batch = None
        return message_id

    def after(self, number: int) -> ReceivedDeltas | None:
        """The kept deltas after that number; None if there are none. Callers at the same position share the result."""
        if number >= self.count:
            return None
        if self._batch is not None and self._batch[0] == number:
            return self._batch[1]
        data = [piece for of, _, piece in self._pieces if of > number]
        if not data:
            return None
        self._batch = (number, ReceivedDeltas(data))
        return self._batch[1]
