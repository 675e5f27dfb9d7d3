"""Group commit without I/O: which commands go to the store together, when to retry, and how each caller is answered.

Commands queue in shards, chosen by a stable hash of (tenant, session). A shard has at most one batch in flight. The
commands that queue up meanwhile form the next batch, tenants by turns (`turns.py`), which is sent at once unless the
process is busy (`linger`). No tenant may fill a queue so far that another finds no room (`domain/shares.py`). A
batch that fails with an unforeseen error is bisected until the faulty command is alone. One that meets a locked table
is refused whole. A batch whose outcome is
unknown is applied again with the same commands, which the request ids make idempotent. In both cases the shard sends
nothing else before every command of the batch has its answer, so no command overtakes an earlier one of its session.

Nothing here awaits, sleeps or reads a clock: `batcher.py` runs it on asyncio, and a simulation in the tests runs it
from a seed. Times are seconds of any one monotonic clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random
from typing import Final, Generic, TypeVar
from zlib import crc32

from sessiond_server.domain.commands import Command, Outcome, Result
from sessiond_server.domain.shares import may_hold, one_tenant
from sessiond_server.errors import DeadlinePassed, Draining, QueueFull, StoreUnavailable, Unavailable
from sessiond_server.measures import Durations
from sessiond_server.store.turns import Turns
from sessiond_server.store.write_spans import QueuedWrite

Waiter = TypeVar("Waiter")
Answer = Outcome | Exception
"""What a caller gets: the outcome, or the exception to raise."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of queues, batches, retries and lingering. All bounds are inclusive."""

    shards: int = 1
    """Number of shards. Each has at most one batch in flight, on its own connection."""
    queue_commands: int = 2048
    """Most queued commands of one shard. Commands in flight do not count."""
    queue_bytes: int = 64 * 1024 * 1024
    """Most request bytes of the queued commands of one shard."""
    batch_commands: int = 128
    """Most commands of one batch."""
    batch_bytes: int = 4 * 1024 * 1024
    """Most request bytes of one batch. A larger command is sent alone."""
    outage: float = 10.0
    """Seconds for which a batch is retried, from when its shard first lost the database. After that, and until a batch
    gets an answer, each batch has only one attempt."""
    backoff_first: float = 0.05
    """Seconds before the second attempt. Doubles with each attempt; jitter multiplies it by 0.5 to 1.0."""
    backoff_most: float = 1.0
    """Longest backoff in seconds."""
    halving: float = 5.0
    """Seconds for which a batch is halved that the database cannot take for now. After that its remaining commands are
    refused: each half may wait as long as the whole did."""
    linger_from: int = 8
    """Fewest queued commands for which a batch lingers. With fewer callers, each would only wait for the others."""
    linger_each: float = 0.0002
    """Seconds of lingering for each queued command."""
    linger_most: float = 0.003
    """Longest lingering in seconds."""


BUSY: Final = 0.7
"""CPU share of the loop's thread, since the last batch was sent, from which on the next batch lingers. From there on
the CPU limits throughput, and fewer, larger batches cost less CPU for each command. Below it the database is the limit,
and lingering would keep it idle (docs/decisions/0019-batches-of-a-busy-process.md)."""


@dataclass(eq=False, slots=True)
class Ticket(Generic[Waiter]):
    """One submitted command with its caller's waiter."""

    command: Command
    waiter: Waiter
    deadline: float
    shard: int
    queued_at: float
    """When it was submitted; `inf` if that is unknown."""
    traced: QueuedWrite | None = None
    """Its spans; None if it has none."""


@dataclass(slots=True)
class _Shard(Generic[Waiter]):
    queue: Turns[Ticket[Waiter]] = field(default_factory=Turns)
    under_way: list[Ticket[Waiter]] | None = None
    """The batch in flight: sent and not answered yet."""
    again: list[list[Ticket[Waiter]]] = field(default_factory=list)
    """Stack of batches to send before the queue: halves of a bisected batch, or a batch whose outcome is unknown."""
    sent_at: float = 0.0
    seconds_each: float = 0.001
    """Running mean of a batch's time divided by its commands."""
    lost_at: float | None = None
    """When the database was first lost since the last answer; None while it answers."""
    attempts: int = 0
    since: float | None = None
    """When the batch that has no answer yet was first sent."""
    halved_since: float | None = None
    """When the batch of which parts are left in `again` was sent whole; None: none was halved."""


class Batching(Generic[Waiter]):
    """The state of all shards. Each ticket that `submit` returns is answered exactly once, by `next_batch`, `expire`,
    `done`, `failed`, `unknown` or `abandon`, unless it is withdrawn."""

    def __init__(self, limits: BatchLimits, chance: Random, *, alone: Callable[[], bool] = one_tenant) -> None:
        """`alone`: whether there is only one tenant, which may then fill the queues."""
        self.limits = limits
        self.closed = False
        self.waits: Final = Durations()
        """How long each command was queued before it was first sent."""
        self._chance = chance
        self._alone = alone
        self._shards: list[_Shard[Waiter]] = [_Shard() for _ in range(limits.shards)]

    def submit(
        self, command: Command, waiter: Waiter, deadline: float = inf, now: float | None = None
    ) -> Ticket[Waiter]:
        """Queues the command, which is not sent after `deadline`. Raises QueueFull, also where
        only the tenant's share is full, and Draining once closed.

        Raises StoreUnavailable if at `now` the database has been lost for longer than `outage` and a command is probing
        it: each attempt may take seconds, in which another replica could answer.
        """
        if self.closed:
            raise Draining
        tenant_id, session_id = command.key
        number = crc32(f"{tenant_id}\0{session_id}".encode()) % self.limits.shards
        shard = self._shards[number]
        if self._out(shard, now) and (shard.under_way is not None or shard.queue):
            raise StoreUnavailable
        # An empty queue accepts a command of any size: the gRPC layer has bounded it.
        if shard.queue and not self._has_room(shard.queue, tenant_id, command.size):
            raise QueueFull(self._retry_after(shard))
        ticket = Ticket(command, waiter, deadline, number, inf if now is None else now)
        shard.queue.append(ticket)
        return ticket

    def _has_room(self, queue: Turns[Ticket[Waiter]], tenant_id: str, size: int) -> bool:
        limits = self.limits
        left, bytes_left = limits.queue_commands - len(queue) - 1, limits.queue_bytes - queue.size - size
        if left < 0 or bytes_left < 0:
            return False
        if 4 * left >= limits.queue_commands and 4 * bytes_left >= limits.queue_bytes:
            return True  # a quarter is left: no tenant has more than its share
        held, held_bytes = queue.held(tenant_id)
        return (may_hold(held, 1, left) and may_hold(held_bytes, size, bytes_left)) or self._alone()

    def withdraw(self, ticket: Ticket[Waiter]) -> bool:
        """Removes a command from the queue. False if it was sent or answered already."""
        shard = self._shards[ticket.shard]
        if ticket not in shard.queue:
            return False
        shard.queue.remove(ticket)
        return True

    def expire(self, now: float) -> list[tuple[Ticket[Waiter], Answer]]:
        """Drops the queued commands whose deadline has passed, and returns their answers."""
        late = [ticket for shard in self._shards for ticket in shard.queue if ticket.deadline < now]
        for ticket in late:
            self.withdraw(ticket)
        return [(ticket, DeadlinePassed()) for ticket in late]

    def linger(self, number: int, busy: float) -> float:
        """Seconds to wait for more commands before `next_batch`; 0: send at once. `busy`: CPU share of the loop's
        thread since the last batch was sent, 0 to 1."""
        shard, limits = self._shards[number], self.limits
        waiting = len(shard.queue)
        if self.closed or shard.again or busy < BUSY or not limits.linger_from <= waiting < limits.batch_commands:
            return 0.0
        return min(limits.linger_most, limits.linger_each * waiting)

    def next_batch(
        self, number: int, now: float
    ) -> tuple[Sequence[Ticket[Waiter]], Sequence[tuple[Ticket[Waiter], Answer]]]:
        """Returns (the batch to send now, answers of commands whose deadline has passed).

        An empty batch means that the shard has nothing to send. Must only be called for a shard with no batch in
        flight. A batch that is not empty is in flight until `done`, `failed` or `unknown`.
        """
        shard = self._shards[number]
        assert shard.under_way is None
        late: list[tuple[Ticket[Waiter], Answer]] = []
        if shard.again:
            batch = shard.again.pop()
        else:
            shard.halved_since = None
            batch = self._take(shard, now, late)
        if batch:
            shard.under_way = batch
            shard.sent_at = now
            if shard.since is None:
                shard.since = now
        return batch, late

    def done(self, number: int, results: Sequence[Result], now: float) -> Iterable[tuple[Ticket[Waiter], Answer]]:
        """The batch in flight was committed. Returns the answers."""
        shard, batch = self._answered(number)
        shard.seconds_each += ((now - shard.sent_at) / len(batch) - shard.seconds_each) / 8
        return zip(batch, results, strict=True)

    def failed(self, number: int, error: Exception, now: float) -> Sequence[tuple[Ticket[Waiter], Answer]]:
        """The batch in flight was not committed, perhaps because of one command. Bisects it; returns the answer if it
        was a single command, and the answers of all that is left of the batch once `halving` is over."""
        shard, batch = self._answered(number)
        answers: list[tuple[Ticket[Waiter], Answer]] = []
        if shard.halved_since is None:
            shard.halved_since = shard.sent_at
        if len(batch) == 1:
            answers.append((batch[0], error))
        else:
            middle = len(batch) // 2
            shard.again += (batch[middle:], batch[:middle])
        if isinstance(error, Unavailable) and now - shard.halved_since > self.limits.halving:
            answers += self._give_up(shard, StoreUnavailable)
        return answers

    def locked(self, number: int) -> Sequence[tuple[Ticket[Waiter], Answer]]:
        """The batch in flight was not committed, and no part of it can be for now. Returns the answers of it and of all
        that is left of the batch that it is a part of."""
        shard, batch = self._answered(number)
        shard.again.append(batch)
        return self._give_up(shard, partial(StoreUnavailable, locked=True))

    def unknown(self, number: int, now: float) -> tuple[float, Sequence[tuple[Ticket[Waiter], Answer]]]:
        """The database was lost, and whether the batch in flight was committed is unknown.

        Returns (seconds to wait before the next `next_batch`, answers of commands that are not retried any more).
        """
        shard = self._shards[number]
        assert shard.under_way is not None
        batch, shard.under_way = shard.under_way, None
        if shard.lost_at is None:
            # A silent database counts as lost since the batch was sent, not only since the timeout.
            shard.lost_at = now if shard.since is None else shard.since
        delay = min(self.limits.backoff_most, self.limits.backoff_first * 2.0 ** min(shard.attempts, 16))
        delay *= self._chance.uniform(0.5, 1.0)
        shard.attempts += 1
        shard.again.append(batch)
        if not self._out(shard, now + delay):
            return delay, ()
        # Those that wait too: the next try has nothing to do with them, and may take as long.
        shard.again.insert(0, list(shard.queue))
        shard.queue.clear()
        return delay, self._give_up(shard, StoreUnavailable)

    def _out(self, shard: _Shard[Waiter], now: float | None) -> bool:
        return now is not None and shard.lost_at is not None and now - shard.lost_at > self.limits.outage

    def close(self) -> None:
        """Refuses commands from now on. Queued ones are still sent."""
        self.closed = True

    def abandon(self, number: int | None = None) -> list[tuple[Ticket[Waiter], Answer]]:
        """Answers all remaining commands, of one shard or of all, with StoreUnavailable. Once closed, commands that
        were never sent get Draining instead."""
        answers: list[tuple[Ticket[Waiter], Answer]] = []
        for shard in self._shards if number is None else [self._shards[number]]:
            if shard.under_way is not None:
                shard.again.append(shard.under_way)
                shard.under_way = None
            answers += self._give_up(shard, StoreUnavailable)
            shard.again.append(list(shard.queue))
            shard.queue.clear()
            answers += self._give_up(shard, Draining if self.closed else StoreUnavailable)
        return answers

    def under_way(self) -> int:
        """Commands that were sent and have no answer yet, in all shards."""
        return sum(len(shard.under_way or ()) + sum(map(len, shard.again)) for shard in self._shards)

    def stalled(self, now: float) -> float:
        """Seconds for which the shard that waits longest for the store has had no answer; 0: none waits."""
        return max((now - shard.since for shard in self._shards if shard.since is not None), default=0.0)

    def oldest(self, now: float) -> float:
        """Seconds for which the command that waits longest in a queue has waited; 0: none waits. Any thread may call
        it."""
        firsts = (ticket.queued_at for shard in self._shards for ticket in shard.queue.firsts())
        return max(0.0, now - min(firsts, default=now))

    def queued(self) -> tuple[int, int]:
        """(number, request bytes) of the queued commands of all shards."""
        return sum(len(shard.queue) for shard in self._shards), sum(shard.queue.size for shard in self._shards)

    def _take(
        self, shard: _Shard[Waiter], now: float, late: list[tuple[Ticket[Waiter], Answer]]
    ) -> list[Ticket[Waiter]]:
        batch: list[Ticket[Waiter]] = []
        size = 0
        queue = shard.queue
        while queue and len(batch) < self.limits.batch_commands:
            ticket = queue.take(self.limits.batch_bytes - size if batch else inf)
            if ticket is None:
                break
            if ticket.deadline < now:
                late.append((ticket, DeadlinePassed()))
                continue
            size += ticket.command.size
            batch.append(ticket)
            self.waits.note(max(0.0, now - ticket.queued_at))
        return batch

    def _answered(self, number: int) -> tuple[_Shard[Waiter], list[Ticket[Waiter]]]:
        shard = self._shards[number]
        assert shard.under_way is not None
        batch, shard.under_way = shard.under_way, None
        shard.lost_at = shard.since = None
        shard.attempts = 0
        return shard, batch

    def _give_up(self, shard: _Shard[Waiter], error: Callable[[], Exception]) -> list[tuple[Ticket[Waiter], Answer]]:
        given_up: list[tuple[Ticket[Waiter], Answer]] = [
            (ticket, error()) for batch in reversed(shard.again) for ticket in batch
        ]
        shard.again.clear()
        shard.since = None
        return given_up

    def _retry_after(self, shard: _Shard[Waiter]) -> float:
        if shard.lost_at is not None:
            return self.limits.backoff_most
        return min(5.0, max(0.02, len(shard.queue) * shard.seconds_each))
