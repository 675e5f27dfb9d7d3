"""Uploads and downloads in progress: how many there may be, and how long nothing may move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sessiond_server.domain.shares import Shares
from sessiond_server.errors import TooManyTransfers, TransferStalled

RETRY_AFTER: Final = 1.0
"""Seconds that whoever comes when all places are taken is told to wait."""

_T = TypeVar("_T")


class Transfers:
    """All transfers of one server. Their number bounds the memory that they take."""

    def __init__(self, shares: Shares, *, idle: float) -> None:
        """`shares`: of the places. `idle`: seconds that a client may send, or take, nothing."""
        self._shares = shares
        self._idle = idle

    @contextmanager
    def place(self, tenant_id: str) -> Iterator[None]:
        """Held while a transfer goes on. Raises TooManyTransfers at once when there is none left for the tenant."""
        if not self._shares.take(tenant_id):
            raise TooManyTransfers(RETRY_AFTER)
        try:
            yield
        finally:
            self._shares.give(tenant_id)

    async def moved(self, waiting: Awaitable[_T]) -> _T:
        """What the client does, in time. Raises TransferStalled."""
        try:
            async with asyncio.timeout(self._idle) as timer:
                return await waiting
        except TimeoutError:
            if timer.expired():
                raise TransferStalled(self._idle) from None
            raise

    async def arriving(self, messages: AsyncIterator[_T]) -> AsyncIterator[_T]:
        """What a client sends, each in time."""
        while True:
            try:
                message = await self.moved(anext(messages))
            except StopAsyncIteration:
                return
            yield message
            del message  # large, and perhaps a while until the next
