"""The record of a tenant's move, which the default database keeps, and the lock of the process that works on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from sessiond_server.postgres.fitness import DatabaseUnfit
from sessiond_server.postgres.statements import MOVING

READ = MOVING["read"].text
LISTED = MOVING["listed"].text
BEGIN = MOVING["begin"].text
ADVANCE = MOVING["advance"].text
FORGET = MOVING["forget"].text
LOCK = MOVING["lock_move"].text


class Step(StrEnum):
    """The step of a move that has begun."""

    COPYING = "copying"
    CLOSING = "closing"
    SWITCHING = "switching"
    OPENING = "opening"
    REMOVING = "removing"
    DONE = "done"
    ABORTING = "aborting"

    @property
    def can_be_undone(self) -> bool:
        return self in (Step.COPYING, Step.CLOSING, Step.SWITCHING, Step.ABORTING)


@dataclass(frozen=True, slots=True)
class Move:
    """A move, under way or done."""

    tenant_id: str
    source_id: str
    target_id: str
    step: Step
    seconds: float
    """Since the step began, by the default database's clock."""

    @property
    def under_way(self) -> bool:
        return self.step is not Step.DONE


class MoveRefused(DatabaseUnfit):
    """The move cannot begin or go on. The text tells the operator why, and what to do."""


async def read(default: asyncpg.Connection, tenant_id: str) -> Move | None:
    """The tenant's last move."""
    row = await default.fetchrow(READ, tenant_id)
    return None if row is None else _move(row)


async def under_way(default: asyncpg.Connection) -> Sequence[Move]:
    """All moves that are not done."""
    return [_move(row) for row in await default.fetch(LISTED)]


async def lock(default: asyncpg.Connection, tenant_id: str) -> None:
    """Keeps other processes from working on the tenant's move while the connection lasts. Raises MoveRefused."""
    if not await default.fetchval(LOCK, tenant_id):
        raise MoveRefused(f"another process is moving the tenant {tenant_id}: wait until it has ended")


async def begin(default: asyncpg.Connection, tenant_id: str, source_id: str, target_id: str) -> None:
    """Notes a new move, which must be the only one of the tenant that is under way."""
    await default.execute(BEGIN, tenant_id, source_id, target_id, Step.COPYING)


async def advance(default: asyncpg.Connection, move: Move, step: Step) -> None:
    """Notes the next step. Raises MoveRefused if another process was faster."""
    if not await default.fetchval(ADVANCE, move.tenant_id, move.step, step):
        raise MoveRefused(f"another process is moving the tenant {move.tenant_id}: wait until it has ended")


async def forget(default: asyncpg.Connection, tenant_id: str) -> None:
    await default.execute(FORGET, tenant_id)


def _move(row: asyncpg.Record) -> Move:
    return Move(row["tenant_id"], row["source_id"], row["target_id"], Step(row["step"]), row["seconds"])
