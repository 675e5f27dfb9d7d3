"""Seals values into strings that clients return later: signed, encrypted, and valid only for their purpose.

They are encrypted because a position may contain more than its holder may know: the position of one user's feed is a
place in the tenant's feed, and may name an event of another user's session.
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, Final

_VERSION: Final = b"\x02"
_SIGNATURE_BYTES: Final = 16


def binding(*parts: str | bytes | int) -> bytes:
    """A digest of 32 bytes of all parts, in order; other parts have another digest."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.digest()


class Seal:
    """Seals JSON values with one key for one purpose. Replicas with the same key open each other's strings."""

    __slots__ = ("_key", "binding")

    def __init__(self, key: bytes, binding: bytes) -> None:
        self._key = key
        self.binding = binding

    def seal(self, value: Any) -> str:
        """The value as a string of URL-safe characters; equal for equal values. Takes about 10 µs."""
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        signature = self._signature(plain)
        return base64.urlsafe_b64encode(_VERSION + self._masked(plain, signature) + signature).rstrip(b"=").decode()

    def open(self, sealed: str, longest: int) -> Any:
        """The value that was sealed. Raises ValueError for any other string, and for more than `longest` characters."""
        if len(sealed) > longest or not sealed.isascii():
            raise ValueError("not sealed here")
        try:
            data = base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise ValueError("not sealed here") from None
        signature = data[-_SIGNATURE_BYTES:]
        plain = self._masked(data[1:-_SIGNATURE_BYTES], signature)
        if not hmac.compare_digest(signature, self._signature(plain)) or data[:1] != _VERSION:
            raise ValueError("not sealed here")
        value = json.loads(plain)
        # base64 has unused bits at its end. This comparison ensures that one value has only one string.
        if self.seal(value) != sealed:
            raise ValueError("not sealed here")
        return value

    def _signature(self, plain: bytes) -> bytes:
        return hmac.digest(self._key, _VERSION + self.binding + plain, "sha256")[:_SIGNATURE_BYTES]

    def _masked(self, data: bytes, signature: bytes) -> bytes:
        """Encrypts, or decrypts. The mask depends on the signature (as in SIV, RFC 5297), so it differs for each value,
        needs no randomness, and keeps equal values equal."""
        mask = hashlib.shake_256(b"mask" + self._key + signature).digest(len(data))
        return (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(len(data))
