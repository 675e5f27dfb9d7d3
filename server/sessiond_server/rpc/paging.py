"""Page tokens: opaque, signed, and good only for the list that they continue."""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.errors import InvalidPageToken

LONGEST_TOKEN: Final = 2048
"""Characters. The longest position, a name of 200 characters and an id of 128, makes about 1 400."""

_VERSION = b"\x01"
_SIGNATURE_BYTES = 16

Position = list[int | str]
"""Where a page starts: JSON scalars, whose meaning is the list's own."""


class PageTokens:
    """Makes and opens tokens. Replicas that share the key understand each other's tokens."""

    def __init__(self, key: bytes = b"") -> None:
        """`key` is secret; see Store.token_key. It may come later, but before the first token."""
        self.key = key

    def of(self, scope: Scope, method: str, *selection: str | bytes | int) -> "ListTokens":
        """The tokens of one list: of one caller's view, one RPC, and everything that selects and orders the items."""
        digest = hashlib.sha256()
        for part in (scope.tenant_id, scope.user_id, method, *selection):
            data = part if isinstance(part, bytes) else str(part).encode()
            digest.update(len(data).to_bytes(8))
            digest.update(data)
        return ListTokens(self.key, digest.digest())


class ListTokens:
    """The tokens of one list."""

    def __init__(self, key: bytes, binding: bytes) -> None:
        self._key = key
        self._binding = binding

    def seal(self, position: Position) -> str:
        """A token, in URL-safe characters."""
        payload = _VERSION + json.dumps(position, ensure_ascii=False, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(payload + self._signature(payload)).rstrip(b"=").decode()

    def open(self, token: str) -> Position | None:
        """The position that was sealed; None for the empty token. Raises InvalidPageToken for anything else."""
        if not token:
            return None
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise InvalidPageToken
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise InvalidPageToken from None
        payload, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(payload)) or payload[:1] != _VERSION:
            raise InvalidPageToken
        position: Position = json.loads(payload[1:])
        # base64 leaves bits unused at the end: one position has one token only.
        if self.seal(position) != token:
            raise InvalidPageToken
        return position

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, self._binding + payload, "sha256")[:_SIGNATURE_BYTES]
