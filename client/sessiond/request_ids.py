"""Generates idempotency keys."""

import secrets
import time
import uuid

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)


def new_request_id() -> str:
    """Returns a UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits. Keys of the same time are adjacent in an
    index."""
    milliseconds = time.time_ns() // 1_000_000
    random = secrets.randbits(74)
    bits = (milliseconds & (1 << 48) - 1) << 80 | (random >> 62) << 64 | random & (1 << 62) - 1
    return str(uuid.UUID(int=bits | _VERSION_AND_VARIANT))
