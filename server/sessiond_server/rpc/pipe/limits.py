"""The bounds of pipes."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024

PIECE_BYTES: Final = 32 * 1024
"""Longest request that clients send in one piece."""
FRAME_BYTES: Final = 64 * 1024
"""Most bytes of a frame of a client. To parse one takes 3 ms at most: one full of tiny calls or entries of metadata."""
FRAME_ENTRIES: Final = 512
"""Most calls, pieces and cancels of a frame."""
METADATA_ENTRIES: Final = 16
"""Most entries of a call's own metadata."""
BEGUN_AT_ONCE: Final = 64
"""Calls after which the reader lets other tasks run: those of a full frame would hold up the loop for milliseconds."""
UNSENT_BYTES: Final = 4 * MIB
"""Bytes of responses that wait for a pipe's client to read, at which no more calls of the pipe are begun."""
FAREWELL: Final = 1.0
"""Seconds without a call after which a pipe that was told to leave ends, although its client has not ended it."""


@dataclass(frozen=True, slots=True)
class PipeLimits:
    """Times are in seconds."""

    pipes: int = 128
    """Most pipes. The transport may hold one message of each, of WireSettings.transport_limit bytes at most. 0: the
    service is not offered."""
    calls: int = 512
    """Most calls of a pipe without an answer."""
    request_bytes: int = 8 * MIB
    """Most bytes of their requests."""
    idle: float = 60.0
    """Time without a call after which a pipe ends."""
