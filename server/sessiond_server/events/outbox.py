"""Queues of hints and deltas that wait to be published. They are bounded, and hints are merged while they wait."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from sessiond_server.domain.rows import Key
from sessiond_server.events.bus import Deltas, Hint
from sessiond_server.events.payloads import EVERYTHING, deltas_record, hint_line

MOST_HINTS: Final = 16_384
"""Most sessions with queued hints. With one more, all hints are replaced by one that means every session."""
MOST_DELTA_BYTES: Final = 1024 * 1024
"""Most bytes of queued deltas. The oldest are dropped for newer ones."""
DELTA_OVERHEAD: Final = 64
"""Bytes that a queued delta counts besides its own."""


class Hints:
    """The queued hints: the highest `seq` of each session, in order of arrival of the sessions."""

    def __init__(self, most: int = MOST_HINTS) -> None:
        self._most = most
        self._waiting: dict[Key, int] = {}
        self._everything = False

    def __bool__(self) -> bool:
        return self._everything or bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, hints: Sequence[Hint]) -> None:
        waiting = self._waiting
        for key, seq in ((hint.key, hint.seq) for hint in hints):
            if waiting.get(key, 0) < seq:
                waiting[key] = seq
        if self._everything or len(waiting) > self._most:
            waiting.clear()
            self._everything = True

    def take(self, most_bytes: int) -> bytes:
        """The next payload, at least one line; the rest goes on waiting. There must be something."""
        if self._everything:
            self._everything = False
            return EVERYTHING
        lines: list[bytes] = []
        size = -1
        for key, seq in self._waiting.items():
            line = hint_line(key, seq)
            size += 1 + len(line)
            if lines and size > most_bytes:
                break
            lines.append(line)
        if len(lines) == len(self._waiting):
            self._waiting = {}
        else:
            for key in list(islice(self._waiting, len(lines))):
                del self._waiting[key]
        return b"\n".join(lines)

    def clear(self) -> int:
        """Drops all hints and returns how many there were."""
        count = len(self._waiting) + self._everything
        self._waiting = {}
        self._everything = False
        return count


class DeltaQueue:
    """The queued deltas of many sessions, in order."""

    def __init__(self, most_bytes: int = MOST_DELTA_BYTES) -> None:
        self.size = 0
        """Queued bytes, including the overhead."""
        self.dropped = 0
        """Number of deltas that were dropped for newer ones or by `clear`."""
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Key, bytes]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, deltas: Deltas) -> None:
        for data in deltas.data:
            self._waiting.append((deltas.key, data))
            self.size += len(data) + DELTA_OVERHEAD
        while self.size > self._most_bytes:
            self._next()
            self.dropped += 1

    def take(self, most_bytes: int) -> bytes:
        """The next payload, at least one delta; the rest goes on waiting. There must be something."""
        taken: dict[Key, list[bytes]] = {}
        size = 0
        while self._waiting and (not size or size + len(self._waiting[0][1]) <= most_bytes):
            key, data = self._next()
            taken.setdefault(key, []).append(data)
            size += len(data)
        return b"".join([deltas_record(Deltas(key, data)) for key, data in taken.items()])

    def clear(self) -> None:
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self.size = 0

    def _next(self) -> tuple[Key, bytes]:
        key, data = self._waiting.popleft()
        self.size -= len(data) + DELTA_OVERHEAD
        return key, data
