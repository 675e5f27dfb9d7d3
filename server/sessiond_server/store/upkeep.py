"""The contract for a store's maintenance. Errors, times and cancelling as in contract.py."""

from typing import Protocol


class Upkeep(Protocol):
    """Removal of rows past their retention, the token key, and a liveness check."""

    async def purge(self, limit: int) -> int:
        """Removes what is past its retention: idempotency records and tombstones, those of documents too. Removes the
        content of expired documents, which become tombstones. At most `limit` of each kind; returns how many in all."""
        ...

    async def token_key(self) -> bytes:
        """The 32 secret bytes that sign page tokens and positions. The same for all replicas and for the life of the
        database."""
        ...

    async def ping(self) -> None:
        """Returns once a read of the primary has succeeded."""
        ...
