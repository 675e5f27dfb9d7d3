"""Commits: how commands become durable. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.commands import Command, Outcome, Result
from sessiond_server.domain.rows import Writes


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch of commands came to."""

    results: Sequence[Result]
    """One for each command, in order."""
    writes: Writes
    """What was committed: the bytes that caches and subscribers get, without reading them back."""


class Commits(Protocol):
    """The write path of a store."""

    async def apply(self, commands: Sequence[Command]) -> Applied:
        """Decides and commits the commands in one transaction; results in the same order.

        All or nothing: when it returns, every accepted command's events, state and idempotency record are durable; when
        it raises, none is, with one exception: `StoreUnavailable` while the commit was under way leaves the outcome
        unknown. Applying the same commands again is then exact: what has happened gives its first outcome.

        Commands on one session see the effects of those before them in the sequence. Refusals are results, not raised.
        A command whose `request_id` the session knows gives the first outcome, or `RequestIdReused` when the
        fingerprint differs; records live for the store's `request_retention`. Concurrent calls, through any number of
        processes, serialise on each session (G2, G4).

        Raises anything else only on defects or on data that the database cannot take; the caller then bisects.
        """
        ...

    async def expire_due(self, limit: int) -> Writes:
        """Ends at most `limit` sessions whose expire_time has passed, and live runs whose lease has, with all that
        follows, one event each; what was committed.

        One row of `heads` for each session that it changed; fewer than `limit`: no more are due.

        Safe on many replicas at once: sessions that another one is working on are skipped, not waited for.
        """
        ...


class Writer(Protocol):
    """Where the wire puts commands. The batcher gathers them for Commits.apply."""

    async def write(self, command: Command) -> Outcome:
        """Applies one command and answers with what it did, once it is durable.

        Raises what refused it, QueueFull at once when too many wait, StoreUnavailable when the outcome stays unknown.
        Cancelling withdraws a command that has not been sent to the store; one that was is committed all the same.
        """
        ...
