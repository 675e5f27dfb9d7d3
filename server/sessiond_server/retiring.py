"""Removes ended sessions that their tenant keeps no longer, in small steps.

Safe on any number of replicas at once: a session that another one has removed, or in which something has changed, is
left alone.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from sessiond_server import failpoints
from sessiond_server.domain import ids
from sessiond_server.domain.commands import ACTOR, INTERNAL_REQUEST_PREFIX, Command, DeleteSession, Scope
from sessiond_server.errors import QueueFull, SessionNotFound, Unavailable, UnderLegalHold, VersionMismatch
from sessiond_server.measures import Rounds
from sessiond_server.store.commits import Writer
from sessiond_server.store.retention import Retained, RetentionStore

_log = logging.getLogger("sessiond.retiring")

TENANTS: Final = 1000
"""Tenants that one read finds."""
SESSIONS: Final = 100
"""Ended sessions that one read looks at."""
SWEEPS: Final = 12
"""So many sweep intervals pass between two rounds: a minute by default."""


def counted() -> Rounds:
    """For `run`: counts the rounds, and the sessions that they removed."""
    return Rounds("retention", "retired_sessions")


async def run(
    retention: RetentionStore, writer: Writer, default_us: int, interval: float, rounds: Rounds | None = None
) -> None:
    """Removes what is due every `SWEEPS` intervals until cancelled. Logs errors, and goes on. `default_us`: for how
    long tenants without a policy keep ended sessions, in microseconds; 0: for good. `rounds` are those of `counted`."""
    rounds = rounds or counted()
    while True:
        began = rounds.begin()
        try:
            removed = await retire(retention, writer, default_us)
            rounds.end(began, removed)
            if removed:
                _log.info("removed %d ended sessions past their retention", removed)
        except (Unavailable, QueueFull) as error:
            rounds.fail()
            _log.warning("cannot remove ended sessions: %s", error)
        except Exception as error:
            rounds.fail()
            _log.error("removing ended sessions failed; trying again later", exc_info=error)
        await asyncio.sleep(interval * SWEEPS)


async def retire(
    retention: RetentionStore, writer: Writer, default_us: int, new_id: Callable[[], str] = ids.uuid7
) -> int:
    """Removes what is due of all tenants, and returns how many sessions. Cancelling loses nothing.

    `writer`: where callers' writes go too, so that caches, watchers and the index of searches learn of each deletion.
    """
    removed, after = 0, ""
    while tenants := await retention.retained_tenants(default_us, after=after, limit=TENANTS):
        for kept in tenants:
            removed += await _retire(retention, writer, kept, new_id)
        after = tenants[-1].tenant_id
    return removed


async def _retire(retention: RetentionStore, writer: Writer, kept: Retained, new_id: Callable[[], str]) -> int:
    removed = 0
    key: tuple[int, str] | None = None
    while True:
        page = await retention.ended_sessions(kept, after=key, limit=SESSIONS)
        for session_id, version in page.due:  # one after the other: callers' writes come first
            _ = failpoints.armed and await failpoints.reach("retiring")
            removed += await _delete(writer, kept.tenant_id, session_id, version, new_id)
        if (key := page.next_key) is None:
            return removed


async def _delete(writer: Writer, tenant_id: str, session_id: str, version: int, new_id: Callable[[], str]) -> bool:
    """Deletes the session if it is still at that version, and no other one that has its id by now."""
    request_id = INTERNAL_REQUEST_PREFIX + new_id()
    command = Command(Scope(tenant_id), session_id, DeleteSession(), ACTOR, request_id, expected_version=version)
    try:
        await writer.write(command)
    except (SessionNotFound, VersionMismatch, UnderLegalHold):
        return False
    return True
