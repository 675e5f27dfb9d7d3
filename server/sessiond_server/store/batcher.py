"""Gathers commands from many callers into transactions: runs `batching.py` on asyncio, over any Commits."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random
from time import monotonic, thread_time
from types import TracebackType
from typing import Final

from sessiond_server.domain.commands import Command, Outcome
from sessiond_server.domain.shares import one_tenant
from sessiond_server.errors import DeadlinePassed, StoreUnavailable
from sessiond_server.measures import Durations
from sessiond_server.store import write_spans
from sessiond_server.store.batching import Answer, Batching, BatchLimits, Ticket
from sessiond_server.store.commits import Applied, Commits

_log = logging.getLogger("sessiond.batcher")


FLUSH_SECONDS: Final = 2.0
"""How long leaving the context waits for answers. Callers have had their own grace period by then."""


@dataclass(frozen=True, slots=True)
class BatcherState:
    """For metrics."""

    queued_commands: int
    queued_bytes: int
    """Request bytes of the queued commands."""
    batches: int
    """Batches that the store has answered. A batch that was sent again counts once."""
    batched_commands: int
    """Commands of these batches."""
    under_way: int = 0
    """Commands that were sent and have no answer yet."""
    stalled_seconds: float = 0.0
    """See `Batcher.stalled`."""
    oldest_seconds: float = 0.0
    """Age of the oldest queued command."""


class Batcher:
    """Implements `commits.Writer`. Belongs to one event loop, the one of its first `write`.

    Each shard has one task that calls the store, so a caller's cancellation never reaches a commit.
    """

    def __init__(
        self,
        commits: Commits,
        limits: BatchLimits | None = None,
        *,
        alone: Callable[[], bool] = one_tenant,
        traced: bool = False,
    ) -> None:
        """`alone` as of Batching. `traced`: writes of traced calls, and their batches, have spans."""
        self._traced = traced
        self._commits = commits
        self._batching: Batching[asyncio.Future[Answer]] = Batching(limits or BatchLimits(), Random(), alone=alone)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._idle: dict[int, asyncio.Future[None]] = {}
        """Shard -> future that its task waits for while the shard has nothing to send."""
        self._batches = self._batched = 0
        self.waits: Final = self._batching.waits
        """See `Batching.waits`."""
        self.batch_times: Final = Durations()
        """How long each batch took, from its sending to its answer: the transaction, and the update of the cache."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def write(self, command: Command, *, deadline: float = inf) -> Outcome:
        """See `commits.Writer.write`. Also raises Draining once `close` was called, and DeadlinePassed if the command
        was not sent by `deadline`, in seconds of the loop's clock; then nothing was written.

        If the store raises an unforeseen error for this command alone, `write` raises it.
        """
        self._loop = loop = asyncio.get_running_loop()
        if deadline < loop.time():
            raise DeadlinePassed
        waiter: asyncio.Future[Answer] = loop.create_future()
        ticket = self._batching.submit(command, waiter, deadline, loop.time())
        if self._traced:
            ticket.traced = write_spans.queued()
        idle = self._idle.pop(ticket.shard, None)
        if idle is not None:
            idle.set_result(None)
        elif ticket.shard not in self._tasks:
            self._begin(ticket.shard)
        try:
            answer = await waiter
        except asyncio.CancelledError:
            self._batching.withdraw(ticket)
            raise
        finally:
            if ticket.traced is not None:
                ticket.traced.wait.end()  # unless its batch has ended it
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer, waiter, ticket  # all lead to the error, whose traceback has this frame
        return answer

    def queued(self) -> tuple[int, int]:
        """(number, request bytes) of the commands that wait to be sent."""
        return self._batching.queued()

    def state(self) -> BatcherState:
        under_way, stalled = self._batching.under_way(), self.stalled()
        oldest = self._batching.oldest(self._loop.time()) if self._loop is not None else 0.0
        return BatcherState(*self.queued(), self._batches, self._batched, under_way, stalled, oldest)

    def stalled(self) -> float:
        """Seconds for which the batch that waits longest for the store has had no answer, all its tries together."""
        return self._batching.stalled(self._loop.time()) if self._loop is not None else 0.0

    async def close(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - what is left then is answered, not cancelled
        """Refuses new commands and returns once all others have their answer, after at most about `timeout` seconds.

        After the timeout, commands that were never sent get Draining. The others get StoreUnavailable, and their commit
        may still happen.
        """
        self._batching.close()
        for idle in self._idle.values():
            idle.set_result(None)
        self._idle.clear()
        tasks = list(self._tasks.values())
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=timeout)
            for task in unfinished:
                task.cancel()
            _settle(self._batching.abandon())
            await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> "Batcher":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(FLUSH_SECONDS)

    async def _apply_traced(
        self, batch: Sequence[Ticket[asyncio.Future[Answer]]], commands: Sequence[Command]
    ) -> Applied:
        with write_spans.of_batch([ticket.traced for ticket in batch if ticket.traced is not None], len(batch)):
            return await self._commits.apply(commands)

    def _begin(self, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self._drive(number), name=f"batcher-{number}")
        task.add_done_callback(partial(self._ended, number))
        self._tasks[number] = task

    def _ended(self, number: int, task: "asyncio.Task[None]") -> None:
        """Answers the callers of a shard whose task has ended. Unless the batcher is closed, only a defect ends the
        task; the shard's next command starts a new one."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the task of a shard failed", exc_info=error)
        if self._tasks.get(number) is task and (error is not None or not self._batching.closed):
            del self._tasks[number]
            self._idle.pop(number, None)
            _settle(self._batching.abandon(number))

    async def _drive(self, number: int) -> None:
        """Sends one shard's batches, one at a time, until the batcher is closed and the shard is empty."""
        loop = asyncio.get_running_loop()
        batching = self._batching
        sent = worked = 0.0
        while True:
            elapsed = monotonic() - sent
            if pause := batching.linger(number, (thread_time() - worked) / elapsed):
                await asyncio.sleep(pause)
            sent, worked = monotonic(), thread_time()
            batch, late = batching.next_batch(number, loop.time())
            _settle(late)
            if not batch:
                if batching.closed:
                    return
                self._idle[number] = idle = loop.create_future()
                await idle
                continue
            began = loop.time()
            try:
                commands = [ticket.command for ticket in batch]
                applied = await (self._apply_traced(batch, commands) if self._traced else self._commits.apply(commands))
                results = applied.results
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(results)} results for {len(batch)} commands")
            except StoreUnavailable as error:
                if error.locked:
                    _settle(batching.locked(number))
                    continue
                if error.divisible:
                    _settle(batching.failed(number, error, loop.time()))
                    continue
                delay, given_up = batching.unknown(number, loop.time())
                _settle(given_up)
                _settle(batching.expire(loop.time()))
                await asyncio.sleep(delay)
            except Exception as error:
                _settle(batching.failed(number, error, loop.time()))
            else:
                self._batches += 1
                self._batched += len(batch)
                ended = loop.time()
                self.batch_times.note(ended - began)
                _settle(batching.done(number, results, ended))


def _settle(answers: Iterable[tuple[Ticket[asyncio.Future[Answer]], Answer]]) -> None:
    for ticket, answer in answers:
        # A caller that was cancelled after its command was sent has cancelled its future.
        if not ticket.waiter.done():
            ticket.waiter.set_result(answer)
