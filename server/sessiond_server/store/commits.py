"""The contract of the write path. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.commands import Command, Outcome, Result
from sessiond_server.domain.rows import Writes


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect of a batch of commands."""

    results: Sequence[Result]
    """One result for each command, in order."""
    writes: Writes
    """The committed rows. Caches and subscribers get these bytes, without reading them back."""


class Commits(Protocol):
    """The write path of a store."""

    async def apply(self, commands: Sequence[Command]) -> Applied:
        """Decides and commits the commands in one transaction. Results are in the order of the commands.

        All or nothing: when it returns, the events, state and idempotency record of every accepted command are durable;
        when it raises, none are. The exception is `StoreUnavailable` during the commit, which leaves the outcome
        unknown. Applying the same commands again is then idempotent: a command that was committed returns its first
        outcome.

        Commands on one session see the effects of earlier ones in the sequence. Refusals are results and are not
        raised. A command whose `request_id` has a record in the session returns the first outcome, or `RequestIdReused`
        if the fingerprint differs. Records are kept for the store's `request_retention`. Concurrent calls, from any
        number of processes, serialise on each session (G2, G4).

        Raises other errors only for defects and for data that the database rejects; the caller then bisects.
        """
        ...

    async def expire_due(self, limit: int) -> Writes:
        """Ends sessions whose expire_time has passed, live runs whose lease has expired and tool calls whose approval
        did not come in time, with all consequences, one event each. Handles at most `limit` sessions of each kind and
        returns what was committed.

        The result has one row in `heads` for each changed session. Fewer than `limit` rows mean that no more are due.

        Safe on many replicas at once: sessions that another replica has locked are skipped.
        """
        ...


class Writer(Protocol):
    """Where the gRPC layer submits commands. The batcher gathers them for Commits.apply."""

    async def write(self, command: Command) -> Outcome:
        """Applies one command and returns its outcome once it is durable.

        Raises the refusal, QueueFull at once if too many commands are queued, StoreUnavailable if the outcome stays
        unknown. Cancelling withdraws a command that has not been sent to the store; one that was sent is still
        committed.
        """
        ...
