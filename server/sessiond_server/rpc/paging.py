"""Page tokens: opaque, signed, and good only for the list that they continue."""

from typing import Final

from sessiond_server.domain.commands import Scope
from sessiond_server.errors import InvalidPageToken
from sessiond_server.rpc.seals import Seal, binding

LONGEST_TOKEN: Final = 2048
"""Characters. The longest position, a name of 200 characters and an id of 128, makes about 1 400."""

Position = list[int | str]
"""Where a page starts: JSON scalars, whose meaning is the list's own."""


class PageTokens:
    """Makes and opens tokens. Replicas that share the key understand each other's tokens."""

    def __init__(self, key: bytes = b"") -> None:
        """`key` is secret; see Store.token_key. It may come later, but before the first token."""
        self.key = key

    def of(self, scope: Scope, method: str, *selection: str | bytes | int) -> "ListTokens":
        """The tokens of one list: of one caller's view, one RPC, and everything that selects and orders the items."""
        return ListTokens(Seal(self.key, binding(scope.tenant_id, scope.user_id, method, *selection)))


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
