"""The deltas of one session that its watchers may still want: a few, and none whose message is there already."""

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
"""Message ids that deltas may come late for."""


class DeltaLane:
    """Deltas in the order in which they came, bounded by HubLimits.delta_pieces and delta_bytes: the oldest go first,
    and with them what a slow watcher has not taken.

    A delta is dropped once the message that it is a piece of has been committed, whichever came first.
    """

    __slots__ = ("_batch", "_limits", "_messages", "_pieces", "_size", "count")

    def __init__(self, limits: HubLimits) -> None:
        self.count = 0
        """Deltas that ever passed: where a watcher that has taken them all is."""
        self._limits = limits
        self._pieces: deque[tuple[int, str, bytes]] = deque()
        """(number, message_id, serialised Delta)."""
        self._size = 0
        self._messages: dict[str, None] = {}
        self._batch: tuple[int, ReceivedDeltas] | None = None
        """What watchers at this place get, while nothing changes."""

    def add(self, data: Sequence[bytes]) -> bool:
        """Takes in deltas that passed by, those that are any; whether one is worth showing."""
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

    def supersede(self, entry: LogEntry) -> None:
        """A message has been appended: its deltas are over."""
        message_id = Event.FromString(entry.data).message.message_id
        self._messages.pop(message_id, None)
        self._messages[message_id] = None
        if len(self._messages) > MESSAGES_REMEMBERED:
            del self._messages[next(iter(self._messages))]
        if any(of == message_id for _, of, _ in self._pieces):
            self._pieces = deque(piece for piece in self._pieces if piece[1] != message_id)
            self._size = sum(len(data) for _, _, data in self._pieces)
            self._batch = None

    def after(self, number: int) -> ReceivedDeltas | None:
        """What came behind that number and is still here; the same for all who ask from the same place."""
        if number >= self.count:
            return None
        if self._batch is not None and self._batch[0] == number:
            return self._batch[1]
        data = [piece for of, _, piece in self._pieces if of > number]
        if not data:
            return None
        self._batch = (number, ReceivedDeltas(data))
        return self._batch[1]
