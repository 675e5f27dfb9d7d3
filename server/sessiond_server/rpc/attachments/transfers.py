"""Uploads and downloads in progress: how many there may be, and how long nothing may move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sessiond_server.errors import TooManyTransfers, TransferStalled

RETRY_AFTER: Final = 1.0
"""Seconds that whoever comes when all places are taken is told to wait."""

_T = TypeVar("_T")


class Transfers:
    """All transfers of one server. Their number bounds the memory that they take."""

    def __init__(self, *, most: int, idle: float) -> None:
        """`idle`: seconds that a client may send, or take, nothing."""
        self._most = most
        self._idle = idle
        self._under_way = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Held while a transfer goes on. Raises TooManyTransfers at once when there is none left."""
        if self._under_way >= self._most:
            raise TooManyTransfers(RETRY_AFTER)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

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
