"""What the hub may hold and how long it waits."""

from dataclasses import dataclass
from typing import Final

from sessiond_server.store.session_reads import PAGE_BYTES

BATCH_EVENTS: Final = 1000
BATCH_BYTES: Final = PAGE_BYTES
"""Most events of one batch, and their bytes together; one event alone may be larger."""


@dataclass(frozen=True, slots=True)
class HubLimits:
    """Times are seconds."""

    poll: float = 1.0
    """Between two looks at the ends of all watched logs: what a lost hint costs at most."""
    fast_poll: float = 0.2
    """The same while the bus does not hear other replicas."""
    bookmark: float = 10.0
    """How long a stream is idle before it gets a bookmark, and from one to the next."""
    outage: float = 10.0
    """How long the store may be away before the streams end."""
    ring_events: int = 1000
    ring_bytes: int = 1024 * 1024
    """Most of one session's, and of one tenant's, newest events that are kept in memory; the newest one always is.
    Streams that are further behind read from the store."""
    total_ring_bytes: int = 128 * 1024 * 1024
    """Of all rings together. Beyond it the ring that has grown least recently is emptied."""
    delta_pieces: int = 512
    delta_bytes: int = 512 * 1024
    """Most deltas of one session that are kept for streams which are slow to take them; the oldest go first."""
    watchers: int = 20_000
    """Streams at once; further ones are refused."""
    reads: int = 4
    """Reads of the store at once, the poll not counted: few, so that writes find a connection. Others wait their turn;
    how many can is bounded by `watchers`."""
    tombstone_retention: float = 30 * 24 * 3600.0
    """How long the store remembers a deleted session; what is younger and not there was lost."""
