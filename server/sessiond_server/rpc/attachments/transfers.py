"""Bounds uploads and downloads: how many there are at a time, and how long one may stall."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyTransfers, TransferStalled

RETRY_AFTER: Final = 1.0
"""Seconds after which a client that found no place should retry."""

_T = TypeVar("_T")


class Transfers:
    """All transfers of one server. Their number bounds their memory."""

    def __init__(self, shares: Shares, *, idle: float) -> None:
        """`shares`: shares of the places. `idle`: seconds for which a client may neither send nor receive."""
        self._shares = shares
        self._idle = idle
        self.received = self.sent = 0
        """Bytes of messages of uploads that have arrived, and of files that the transport has accepted, so far."""

    @property
    def in_progress(self) -> int:
        return self._shares.used

    @contextmanager
    def place(self, tenant_id: str) -> Iterator[None]:
        """Holds a place for a transfer. Raises TooManyTransfers at once if none is left for the tenant."""
        if not self._shares.take(tenant_id):
            raise TooManyTransfers(RETRY_AFTER)
        try:
            yield
        finally:
            self._shares.give(tenant_id)

    async def moved(self, waiting: Awaitable[_T]) -> _T:
        """Awaits the client's next step for at most `idle` seconds. Raises TransferStalled."""
        try:
            async with asyncio.timeout(self._idle) as timer:
                return await waiting
        except TimeoutError:
            if timer.expired():
                raise TransferStalled(self._idle) from None
            raise

    async def arriving(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The client's messages; waits at most `idle` seconds for each. Raises TransferStalled."""
        while True:
            try:
                message = await self.moved(anext(messages))
            except StopAsyncIteration:
                return
            self.received += len(message)
            yield message
            del message  # it is large, and the next one may take long
