"""What keeps a store in order. Errors, times and cancelling as in contract.py."""

from typing import Protocol


class Upkeep(Protocol):
    """Removal of what is past its retention, the key of tokens, and a sign of life."""

    async def purge(self, limit: int) -> int:
        """Removes at most `limit` idempotency records and tombstones each that are past their retention; how many."""
        ...

    async def token_key(self) -> bytes:
        """32 secret bytes that sign page tokens and positions; the same for all replicas, for the database's life."""
        ...

    async def ping(self) -> None:
        """Returns when a read of the primary has succeeded."""
        ...
