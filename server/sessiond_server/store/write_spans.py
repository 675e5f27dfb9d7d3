"""Spans of writes: how long each waits in the queue, and the transaction of its batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sessiond_server.domain.commands import Command
from sessiond_server.domain.rows import Writes
from sessiond_server.spans import CURRENT, Span, recorded, within
from sessiond_server.store.commits import Applied, Commits


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    """A write whose call is traced."""

    call: Span
    wait: Span
    """From its arrival to the first transaction."""


def queued() -> QueuedWrite | None:
    """Begins the wait of the current task's write; None if its call is not traced."""
    call = recorded()
    return None if call is None else QueuedWrite(call, call.child("sessiond.queue", {}))


@contextmanager
def of_batch(writes: Sequence[QueuedWrite], commands: int) -> Iterator[None]:
    """Makes the block the transaction of a batch: ends the waits, and is a span if any of its calls is traced.

    The span is part of the trace of the first of these calls, and has links to all of them; the others have a link to
    it.
    """
    for write in writes:
        write.wait.end()
    calls = [write.call for write in writes if write.call.recording]
    # The batcher's task was begun by a call, whose span is not this batch's.
    CURRENT.set(None)
    if not calls:
        yield
        return
    span = calls[0].child("sessiond.batch", {"sessiond.batch.commands": commands}, links=calls)
    for call in calls[1:]:
        call.link(span)
    CURRENT.set(span)
    error = ""
    try:
        yield
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        CURRENT.set(None)
        span.end(error)


class TracedCommits:
    """Commits (see commits.py) that wrap those of a store, with a span for each transaction."""

    def __init__(self, commits: Commits, system: str) -> None:
        """`system`: name of the database."""
        self._commits = commits
        self._attributes = {"db.system.name": system, "db.operation.name": "commit"}

    async def apply(self, commands: Sequence[Command]) -> Applied:
        with within("commit", self._attributes, client=True) as span:
            if span is not None:
                span.set({"db.operation.batch.size": len(commands)})
            return await self._commits.apply(commands)

    async def expire_due(self, limit: int) -> Writes:
        return await self._commits.expire_due(limit)
