"""Commits that are announced: a listener learns what was committed, before the caller is acknowledged."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sessiond_server.domain import replay
from sessiond_server.domain.commands import Command
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.store.commits import Applied, Commits

_log = logging.getLogger("sessiond.events")

Repeated = tuple[Key, int]
"""A session, and the version that a command had brought it to before."""

Announce = Callable[[Writes, Sequence[Repeated]], Awaitable[None]]
"""Takes what one transaction committed, and the commands of it that had been done before."""


class CommitListener(Protocol):
    """Learns of commits. It never fails a write and never waits for anybody."""

    def begun(self) -> Announce:
        """Called before a transaction begins. The answer is called once, after the commit; never where it failed."""
        ...


class AnnouncedCommits:
    """Commits (see commits.py) over others, announced to a listener.

    What goes unannounced (the process ends, the connection breaks while the commit is under way) is found by the polls
    of the hubs. A command that had been done before is announced once more: it is unknown whether the first time was.
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
