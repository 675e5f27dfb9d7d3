"""Makes the identifiers that the server assigns."""

import hashlib
import re
import time
import uuid
from random import Random, SystemRandom

_VERSION_7 = 0x7000
_VERSION_8 = 0x8000
_VARIANT = 0x8000_0000_0000_0000
_PLAIN_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_RANDOM = Random(SystemRandom().getrandbits(256))


def uuid7() -> str:
    """Returns a new UUIDv7 (RFC 9562): 48 bits of the wall clock in milliseconds and 74 random bits.

    The clock only makes ids sort roughly by age; no decision depends on it. Ids are unique, not secret, so a generator
    that the system seeds once is enough, at a fraction of the cost of system randomness for each id.
    """
    random = _RANDOM.getrandbits(74)
    return _text(
        (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80
        | (_VERSION_7 | random >> 62) << 64
        | _VARIANT
        | random & 0x3FFF_FFFF_FFFF_FFFF
    )


def derived(tenant_id: str, user_id: str, request_id: str) -> str:
    """Returns the session id for a CreateSession that names none. Every retry of the request gets the same id.

    The id is a UUIDv8 made from the SHA-256 of the arguments. Where `request_id` is a UUIDv7, as the client library
    makes them, it is a UUIDv7 of the same millisecond, so that ids still sort by age.
    """
    digest = int.from_bytes(hashlib.sha256("\0".join((tenant_id, user_id, request_id)).encode()).digest()[:16])
    high, low = digest >> 64, _VARIANT | digest & 0x3FFF_FFFF_FFFF_FFFF
    try:
        origin = uuid.UUID(request_id)
    except ValueError:
        origin = None
    if origin is not None and origin.version == 7:
        return _text((origin.int >> 80 << 16 | _VERSION_7 | high & 0x0FFF) << 64 | low)
    return _text((high & ~0xF000 | _VERSION_8) << 64 | low)


def own_prefix(user_id: str) -> str:
    """What the ids that a key bound to this user chooses begin with. No user's prefix begins with another's.

    The user's id and a tilde, where it is 1 to 64 of `[A-Za-z0-9._-]` and begins with a letter or digit; else a hash of
    it between tildes.
    """
    if _PLAIN_USER(user_id):
        return f"{user_id}~"
    return f"~{hashlib.sha256(user_id.encode()).hexdigest()[:32]}~"


def time_ms(identifier: str) -> int | None:
    """When a UUIDv7 was made, in milliseconds since 1970 UTC; None if `identifier` is not a UUIDv7."""
    try:
        value = uuid.UUID(identifier)
    except ValueError:
        return None
    return value.int >> 80 if value.version == 7 else None


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
