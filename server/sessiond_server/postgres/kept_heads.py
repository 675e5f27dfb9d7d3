"""The heads of sessions that this process has written last: what it believes of them, not what is true."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.rows import Head, Key, Writes
from sessiond_server.domain.session_rows import next_check

MOST_HEADS: Final = 50_000
MOST_BYTES: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 600
"""Bytes that a head takes besides its core and limits, about."""


@dataclass(slots=True)
class KeptHead:
    """Never changed."""

    head: Head
    check_time_us: int | None
    """When the session or the lease of its live run expires, whichever is earlier; None: neither does."""
    size: int
    """Bytes of memory, about."""


class KeptHeads:
    """Those used last, within MOST_HEADS and MOST_BYTES. None is of a deleted session."""

    def __init__(self, most_heads: int = MOST_HEADS, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[Key, KeptHead] = OrderedDict()
        self._bytes = 0
        self._most_heads = most_heads
        self._most_bytes = most_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> KeptHead | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Key, head: Head, check_time_us: int | None) -> None:
        if key in self._kept:
            self.drop((key,))
        if head.deleted:
            return
        size = _OVERHEAD + len(head.core) + len(head.limits)
        self._kept[key] = KeptHead(head, check_time_us, size)
        self._bytes += size
        while len(self._kept) > self._most_heads or self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size

    def learn(self, writes: Writes) -> None:
        """Keeps the heads that were written."""
        for row in writes.heads:
            self.keep(row.key, row.head, row.expire_time_us)
        for key, lease_expire_us in writes.leases:
            if (found := self._kept.get(key)) is not None:
                head = replace(found.head, lease_expire_us=lease_expire_us)
                self.keep(key, head, next_check(Session.FromString(head.core), lease_expire_us))

    def drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if (found := self._kept.pop(key, None)) is not None:
                self._bytes -= found.size

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
