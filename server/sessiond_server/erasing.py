"""Carries out erasures of users, in small steps.

Safe on any number of replicas at once: each works on an erasure that no other one has claimed. A replica that is killed
leaves a claim that is over after CLAIM_SECONDS; the next one goes on, since what is removed is not found again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sessiond_server import failpoints
from sessiond_server.domain import ids
from sessiond_server.domain.commands import ACTOR, INTERNAL_REQUEST_PREFIX, Command, DeleteSession, Scope
from sessiond_server.domain.rows import Key
from sessiond_server.errors import QueueFull, SessionNotFound, Unavailable, UnderLegalHold
from sessiond_server.store.commits import Writer
from sessiond_server.store.erasures import ErasureClaim, ErasureStore

_log = logging.getLogger("sessiond.erasing")

SESSIONS: Final = 20
"""Sessions that one step deletes."""
ROWS: Final = 1000
"""Most documents of the user, and most records of requests, that one transaction removes."""
NAMED: Final = 100
"""Deleted sessions of which one transaction removes the names of documents."""
CLAIM_SECONDS: Final = 60.0
"""How long a claim holds without a step. A step of SESSIONS deletions takes a part of a second."""


ForgetDeleted = Callable[[Mapping[Key, int]], Awaitable[None]]
"""Takes deleted sessions, with the versions of their deletions, out of the cache."""


async def run(
    erasures: ErasureStore,
    writer: Writer,
    interval: float,
    forget: ForgetDeleted | None = None,
    new_id: Callable[[], str] = ids.uuid7,
) -> None:
    """Carries out what is under way every `interval` seconds until cancelled. Logs errors, and goes on. `forget` None:
    there is no cache."""
    while True:
        try:
            while await erase_one(erasures, writer, forget, new_id):
                pass
        except (Unavailable, QueueFull) as error:
            _log.warning("cannot erase: %s", error)
        except Exception as error:
            _log.error("erasing failed; trying again in %s s", interval, exc_info=error)
        await asyncio.sleep(interval)


async def erase_one(
    erasures: ErasureStore,
    writer: Writer,
    forget: ForgetDeleted | None = None,
    new_id: Callable[[], str] = ids.uuid7,
) -> bool:
    """Carries out one erasure to its end; returns False if none can be claimed. Cancelling loses nothing.

    `writer`: where callers' writes go too, so that caches, watchers and the index of searches learn of each deletion.
    """
    claim = await erasures.claim_erasure(CLAIM_SECONDS)
    if claim is None:
        return False
    if forget is not None:
        await _forget_noted(erasures, claim, forget)
    sessions, after = 0, ""
    while True:
        found = await erasures.sessions_to_erase(claim, SESSIONS)
        deleted = 0
        for session_id in found:  # one after the other: callers' writes come first
            deleted += await _delete(writer, claim, session_id, new_id)
        _ = failpoints.armed and await failpoints.reach("erasing")
        more, following = bool(found), None
        if not more:
            more = await erasures.erase_documents(claim, ROWS) > 0
        if not more:
            following = await erasures.erase_names(claim, after, NAMED)
        after = following or ""  # from the beginning, once more sessions or documents were found
        done = not more and following is None
        if done:
            await erasures.erase_usage(claim)
        if not await erasures.advance_erasure(claim, CLAIM_SECONDS, sessions=deleted, done=done):
            return True
        sessions += deleted
        if done:
            _log.info("went through what a user has: %d sessions deleted in this claim", sessions)
            return True


async def _forget_noted(erasures: ErasureStore, claim: ErasureClaim, forget: ForgetDeleted) -> None:
    """Tells the cache of deletions in earlier claims: the server may have been killed between commit and cache."""
    after = ""
    while gone := await erasures.noted_deletions(claim, after, NAMED):
        await forget({(claim.tenant_id, session_id): version for session_id, version in gone})
        after = gone[-1][0]


async def _delete(writer: Writer, claim: ErasureClaim, session_id: str, new_id: Callable[[], str]) -> bool:
    """Deletes the session; returns False if it was deleted or held meanwhile, or belongs to another user by now."""
    scope = Scope(claim.tenant_id, claim.user_id)
    command = Command(scope, session_id, DeleteSession(), ACTOR, INTERNAL_REQUEST_PREFIX + new_id())
    try:
        await writer.write(command)
    except (SessionNotFound, UnderLegalHold):
        return False
    return True
