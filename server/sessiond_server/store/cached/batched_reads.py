"""Batches the reads of many callers, and reads each key once for all callers that wait for it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BatchedReads(Generic[K, V]):
    """Calls `read` with at most `most_keys` distinct keys, at most `most_reads` calls in flight.

    A caller never joins a read that is already in flight. So every answer was read after its caller asked, and shows
    the caller's own writes and any version that the caller may demand. A thousand callers of one key cause two reads:
    the one in flight, and one for all who asked since. `read` returns values in the order of its keys, an exception as
    the value where a key has none. If `read` raises, the exception is the value of every key.

    Reads are not delayed: one starts in the loop's next turn. The number of callers bounds how many keys wait.
    """

    def __init__(
        self, read: Callable[[Sequence[K]], Awaitable[Sequence[V | Exception]]], *, most_keys: int, most_reads: int
    ) -> None:
        self._read = read
        self._most_keys = most_keys
        self._most_reads = most_reads
        self._queue: dict[K, list[asyncio.Future[V | Exception]]] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._scheduled = False
        """Whether the loop will call `_start_reads` in its next turn."""
        self._closed = False

    def ask(self, key: K) -> "asyncio.Future[V | Exception]":
        """The value of the key, an exception as a value. Cancelling the future abandons the answer, not the read. It is
        cancelled when this is closed, or was before."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[V | Exception] = loop.create_future()
        if self._closed:
            waiter.cancel()
            return waiter
        waiters = self._queue.get(key)
        if waiters is not None:
            waiters.append(waiter)
            return waiter
        self._queue[key] = [waiter]
        if not self._scheduled and len(self._in_flight) < self._most_reads:
            self._scheduled = True
            loop.call_soon(self._start_reads)
        return waiter

    async def close(self) -> None:
        """Cancels all reads in flight and all waiting callers."""
        self._closed = True
        for waiters in self._queue.values():
            for waiter in waiters:
                waiter.cancel()
        self._queue.clear()
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    def _start_reads(self) -> None:
        self._scheduled = False
        while self._queue and len(self._in_flight) < self._most_reads:
            batch: dict[K, list[asyncio.Future[V | Exception]]] = {}
            while self._queue and len(batch) < self._most_keys:
                key = next(iter(self._queue))
                waiters = self._queue.pop(key)
                if any(not waiter.done() for waiter in waiters):
                    batch[key] = waiters
            if batch:
                task = asyncio.get_running_loop().create_task(self._read_batch(batch))
                self._in_flight.add(task)
                task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: dict[K, list[asyncio.Future[V | Exception]]], task: asyncio.Task[None]) -> None:
        """However it has ended, also before it began: then it has settled none of its callers."""
        self._in_flight.discard(task)
        for waiters in batch.values():
            for waiter in waiters:
                waiter.cancel()
        if self._queue and not self._scheduled:
            self._start_reads()

    async def _read_batch(self, batch: dict[K, list[asyncio.Future[V | Exception]]]) -> None:
        answers: Sequence[V | Exception]
        try:
            answers = await self._read(list(batch))
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers for {len(batch)} keys")
        except Exception as error:
            answers = [error] * len(batch)
        for waiters, answer in zip(batch.values(), answers, strict=True):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(answer)
