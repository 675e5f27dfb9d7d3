"""Announces commits: a listener is notified of every commit before the caller is acknowledged."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sessiond_server.domain import replay
from sessiond_server.domain.commands import Command
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.store.commits import Applied, Commits

_log = logging.getLogger("sessiond.events")

Repeated = tuple[Key, int]
"""(key, version): a session, and the version that an earlier application of a command gave it."""

Announce = Callable[[Writes, Sequence[Repeated]], Awaitable[None]]
"""Called with the writes that one transaction committed, and with the commands that had been applied before."""


class CommitListener(Protocol):
    """Is notified of commits. It must neither fail a write nor wait for subscribers."""

    def begun(self) -> Announce:
        """Called before a transaction begins. The returned function is called once after the commit, and never if the
        transaction failed."""
        ...


class AnnouncedCommits:
    """Commits (see commits.py) that wrap other Commits and announce them to a listener.

    A commit can go unannounced when the process ends or the connection breaks during the commit; the polls of the hubs
    find it. A command that had been applied before is announced again, since its first commit may be unannounced.
    """

    def __init__(self, commits: Commits, listener: CommitListener) -> None:
        self._commits = commits
        self._listener = listener

    async def apply(self, commands: Sequence[Command]) -> Applied:
        announce = self._listener.begun()
        applied = await self._commits.apply(commands)
        await self._announce(announce, applied.writes, _repeated(commands, applied))
        return applied

    async def expire_due(self, limit: int) -> Writes:
        announce = self._listener.begun()
        writes = await self._commits.expire_due(limit)
        await self._announce(announce, writes, [])
        return writes

    async def _announce(self, announce: Announce, writes: Writes, repeated: Sequence[Repeated]) -> None:
        if not writes.heads and not repeated:
            return
        try:
            await announce(writes, repeated)
        except Exception as error:
            _log.error("a commit could not be announced; the poll finds it", exc_info=error)


def _repeated(commands: Sequence[Command], applied: Applied) -> list[Repeated]:
    if len(applied.writes.heads) == len(commands):
        return []
    written = {row.key for row in applied.writes.heads}
    return [(command.key, outcome.version) for command, outcome in replay.repeated(commands, applied.results, written)]
