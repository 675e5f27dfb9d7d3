"""Commits of sessions that share events: forks, and redactions that reach every session which shows a message."""

import logging
from collections.abc import Iterator, Sequence
from typing import Final

from sessiond_server.domain.commands import (
    Command,
    DeleteSession,
    ForkSession,
    MessageRedacted,
    RedactMessage,
    Result,
    RewindSession,
    Scope,
    SessionDeleted,
)
from sessiond_server.domain.rows import Key, Writes
from sessiond_server.errors import SessiondError, SessionNotFound, StoreUnavailable
from sessiond_server.store.commits import Applied, Commits
from sessiond_server.store.forks import ForkStore, Untold

_log = logging.getLogger("sessiond.store")

TOLD_AT_ONCE: Final = 100
"""Most sessions that one transaction tells of redactions."""


class BranchedCommits:
    """Commits (see commits.py) that wrap those of a store, its cache and its announcements.

    A fork is applied in a transaction of its own: it needs its parent as the commands before it left it. So is a
    rewind, which looks for a place in what the commands before it left. A redaction of a message that several sessions
    show removes its content in its own transaction, which also records that the others are to be told. Each of these
    then gets the redaction as a command of its own, so that its log, its cached copy and its watchers are served as by
    any redaction, before the caller is acknowledged. If the process ends in between, the next sweep of any server tells
    the others, as a retry of the caller does. In the same way a large part of a deleted session that forks show is
    moved out of its log, in steps.
    """

    def __init__(self, commits: Commits, forks: ForkStore) -> None:
        self._commits = commits
        self._forks = forks

    async def apply(self, commands: Sequence[Command]) -> Applied:
        parts = list(_parts(commands))
        applied = await self._commits.apply(parts[0])
        if len(parts) > 1:
            results, writes = [*applied.results], Writes()
            writes.extend(applied.writes)
            for part in parts[1:]:
                applied = await self._commits.apply(part)
                results += applied.results
                writes.extend(applied.writes)
            applied = Applied(results, writes)
        for tenant_id in sorted(_hiding(commands, applied)):
            await self._hide(tenant_id)
        for tenant_id in sorted(_spread(commands, applied.results, applied.writes)):
            await self._tell(tenant_id)
        return applied

    async def expire_due(self, limit: int) -> Writes:
        try:
            await self._hide("")
            await self._tell("")
        except StoreUnavailable as error:
            _log.warning("a redaction or deletion has yet to be finished where sessions share events", exc_info=error)
        return await self._commits.expire_due(limit)

    async def _hide(self, tenant_id: str) -> None:
        """Moves what forks show of deleted sessions to hidden logs, of the tenant, or of all tenants for ""."""
        while not await self._forks.hide(tenant_id):
            continue

    async def _tell(self, tenant_id: str) -> None:
        """Tells all sessions of the tenant, or of all tenants for "", of the redactions that they have not been told
        of."""
        while not await self._forks.end_spreads(tenant_id):
            while untold := await self._forks.untold(tenant_id, TOLD_AT_ONCE):
                applied = await self._commits.apply([_telling(one) for one in untold])
                for result in applied.results:
                    if isinstance(result, SessiondError) and not isinstance(result, SessionNotFound):
                        raise StoreUnavailable from result


def _parts(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """The commands in their order, each fork and each rewind apart, and the deletion of a session apart from a
    redaction before it: what a deleted session shared stays, without what was redacted."""
    start = 0
    redacted: set[Key] = set()
    for place, command in enumerate(commands):
        action = command.action
        if isinstance(action, RedactMessage):
            redacted.add(command.key)
        elif isinstance(action, ForkSession | RewindSession) or (
            isinstance(action, DeleteSession) and command.key in redacted
        ):
            if start < place:
                yield commands[start:place]
            start = place
            redacted.clear()
            if isinstance(action, ForkSession | RewindSession):
                yield commands[place : place + 1]
                start = place + 1
    if start < len(commands) or not commands:
        yield commands[start:]


def _spread(commands: Sequence[Command], results: Sequence[Result], writes: Writes) -> set[str]:
    """The tenants of which sessions may have to be told. An earlier attempt of a redaction may have ended too early."""
    tenants = {spread.tenant_id for spread in writes.spreads}
    written = {row.key for row in writes.heads}
    for command, result in zip(commands, results, strict=True):
        redacted = isinstance(command.action, RedactMessage) and isinstance(result, MessageRedacted)
        if redacted and command.key not in written:
            tenants.add(command.scope.tenant_id)
    return tenants


def _hiding(commands: Sequence[Command], applied: Applied) -> set[str]:
    """As _spread, for deletions of which something is yet to be moved."""
    tenants = {deletion.key[0] for deletion in applied.writes.deletions if deletion.kept_seq}
    gone = {deletion.key for deletion in applied.writes.deletions}
    for command, result in zip(commands, applied.results, strict=True):
        if isinstance(result, SessionDeleted) and command.key not in gone:
            tenants.add(command.scope.tenant_id)
    return tenants


def _telling(untold: Untold) -> Command:
    action = RedactMessage(untold.message_id, untold.reason, untold.title, spread=True)
    return Command(Scope(untold.tenant_id), untold.session_id, action, untold.actor, untold.request_id)
