"""Undoes a move: first at the source, then, once it can be reached, at the target."""

from sessiond_server import failpoints
from sessiond_server.postgres.causes import translating
from sessiond_server.postgres.moving import copying, record, removal, switching
from sessiond_server.postgres.moving.conditions import End
from sessiond_server.postgres.moving.mover import Named, Say
from sessiond_server.postgres.moving.record import Move, MoveRefused, Step
from sessiond_server.postgres.schema.migrate import connected


async def reopen(default: End, source: Named, tenant_id: str) -> Move:
    """Lets the source take writes of the tenant again, and ends the replication there. Needs no target. Safe to repeat.

    `default`: locked. Raises MoveRefused if no move is under way or the target has been opened, and StoreUnavailable.
    """
    with translating():
        async with connected(source[1]) as connection:
            move = await _undone(default, tenant_id)
            _ = failpoints.armed and await failpoints.reach("move_aborting")
            await switching.write_home(connection, tenant_id, move.source_id)
            await copying.release(move, End(source[0], connection, source[1]))
            return move


async def clear(default: End, source: Named, target: Named, move: Move, say: Say) -> None:
    """Removes subscription and copied rows from the target, and forgets the move. Safe to repeat.

    Comes after `reopen`. Raises StoreUnavailable.
    """
    with translating():
        async with connected(source[1]) as left, connected(target[1]) as right:
            old, new = End(source[0], left, source[1]), End(target[0], right, target[1])
            await copying.end(move, old, new)
            if await switching.home(right, move.tenant_id) == move.source_id:
                await removal.removed(new, move.tenant_id, say)
            await left.execute("delete from move_marks where tenant_id = $1", move.tenant_id)
            await record.forget(default.connection, move.tenant_id)


async def _undone(default: End, tenant_id: str) -> Move:
    """The move, which from now on can only be undone."""
    move = await record.read(default.connection, tenant_id)
    if move is None or not move.under_way:
        raise MoveRefused(f"no move of the tenant {tenant_id} is under way")
    if not move.step.can_be_undone:
        raise MoveRefused(
            f"the tenant {tenant_id} lives in {move.target_id} already: let the move end, and move it back"
        )
    if move.step is not Step.ABORTING:
        await record.advance(default.connection, move, Step.ABORTING)
    return move
