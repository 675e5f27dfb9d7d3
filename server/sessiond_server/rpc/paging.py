"""Page tokens: opaque, signed, and valid only for the list that they continue."""

from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.errors import InvalidPageToken
from sessiond_server.rpc.seals import Seal, binding
from sessiond_server.store.homes import Homes

LONGEST_TOKEN: Final = 4096
"""Longest token, in characters. The longest position has two ids of 255 bytes and a model of 255 characters: 2 200."""

Position = list[int | str]
"""Where a page starts: JSON scalars, whose meaning each list defines."""


class PageTokens:
    """Seals and opens tokens. Replicas with the same key accept each other's tokens."""

    def __init__(self, key: bytes = b"", homes: Homes | None = None) -> None:
        """`key` is secret; see Store.token_key. It may be set later, but before the first token. `homes`: says
        which tenants have another one, since they lived in another database before."""
        self.key = key
        self._keys = homes or Homes()

    def key_of(self, tenant_id: str) -> bytes:
        """The secret key for what is signed for a tenant."""
        return self._keys.keys.get(tenant_id, self.key)

    def of(self, scope: Scope, method: str, *selection: str | bytes | int) -> "ListTokens":
        """The tokens of one list, bound to the caller's scope, the RPC, and all that selects and orders items."""
        return ListTokens(
            Seal(
                self.key_of(scope.tenant_id),
                binding(scope.tenant_id, scope.user_id, method, *selection),
            )
        )


class ListTokens:
    """The tokens of one list."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def seal(self, position: Position) -> str:
        """A token, in URL-safe characters."""
        return self._seal.seal(position)

    def open(self, token: str) -> Position | None:
        """The position that was sealed; None for the empty token. Raises InvalidPageToken for anything else."""
        if not token:
            return None
        try:
            position: Position = self._seal.open(token, LONGEST_TOKEN)
        except ValueError:
            raise InvalidPageToken from None
        return position
