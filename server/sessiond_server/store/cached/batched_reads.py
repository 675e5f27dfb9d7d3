"""Reads of many callers, gathered: whatever was asked for while others were away goes together, and once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BatchedReads(Generic[K, V]):
    """Asks `read` for at most `most_keys` different keys at a time, at most `most_reads` times at once.

    Nobody joins a flight that has left: an answer was read after the question was put, so it shows what the asker could
    know (its own writes, the version that it demands), whatever it is. A thousand callers of one key make two reads:
    the one that is away, and one for all who came since. `read` answers in the order of its keys, with an exception as
    the value where a key has none; when it raises, that is every key's answer.

    Nothing waits on purpose: a flight leaves in the loop's next turn. How much can wait is bounded by the callers.
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
        """The loop will have the next flight leave."""

    def ask(self, key: K) -> "asyncio.Future[V | Exception]":
        """The answer, an exception as a value. Cancelling the future gives up this answer, not the flight."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[V | Exception] = loop.create_future()
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
        """Gives up all reads_in_flight and all who wait for one."""
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
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
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
        except BaseException:
            for waiters in batch.values():
                for waiter in waiters:
                    waiter.cancel()
            raise
        for waiters, answer in zip(batch.values(), answers, strict=True):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(answer)
