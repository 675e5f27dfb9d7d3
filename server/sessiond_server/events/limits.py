"""Bounds of the hub: memory, streams, reads and times."""

from dataclasses import dataclass
from typing import Final

from sessiond_server.events.drafts import DraftLimits
from sessiond_server.store.session_reads import PAGE_BYTES

BATCH_EVENTS: Final = 1000
BATCH_BYTES: Final = PAGE_BYTES
"""Most events of one batch, and their bytes together; one event alone may be larger."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Bounds of one hub. Times are in seconds."""

    poll: float = 1.0
    """Interval of polls of the ends of all watched logs: the largest delay that a lost hint causes."""
    fast_poll: float = 0.2
    """The same while the bus does not receive hints of other replicas."""
    bookmark: float = 10.0
    """How long a stream is idle before it gets a bookmark, and the interval between bookmarks."""
    outage: float = 10.0
    """How long the store may be unavailable before all streams end."""
    ring_events: int = 1000
    ring_bytes: int = 1024 * 1024
    """Most of one session's, and of one tenant's, newest events that are kept in memory; the newest one always is.
    Streams that are further behind read from the store."""
    total_ring_bytes: int = 128 * 1024 * 1024
    """Most bytes of all rings together. Beyond it, the ring that has grown least recently is emptied."""
    delta_pieces: int = 512
    delta_bytes: int = 512 * 1024
    """Most deltas of one session that are kept for streams which are slow to take them; the oldest go first."""
    drafts: DraftLimits = DraftLimits()  # noqa: RUF009 - frozen
    watchers: int = 20_000
    """Most streams at once. Further ones are refused."""
    reads: int = 4
    """Most concurrent reads of the store, besides the poll: few, so that writes find a connection. Other reads queue;
    `watchers` bounds how many."""
    tombstone_retention: float = 30 * 24 * 3600.0
    """How long the store keeps tombstones. A session that is younger than this and missing was lost."""
