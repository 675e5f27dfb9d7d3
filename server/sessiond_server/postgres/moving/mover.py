"""Carries a move through its steps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from sessiond_server import failpoints
from sessiond_server.postgres.causes import translating
from sessiond_server.postgres.moving import copying, record, removal, switching
from sessiond_server.postgres.moving.conditions import End, check
from sessiond_server.postgres.moving.record import Move, MoveRefused, Step
from sessiond_server.postgres.schema.migrate import connected
from sessiond_server.store.homes import LEASE

POLL: Final = 0.5
"""Seconds between two looks at the progress of the copy."""
NOTICE_SECONDS: Final = 3.5
"""Time in which every server that answers learns that the tenant is about to leave: it looks every second, and gives up
a look after two."""
CLOSE_ENOUGH: Final = 0.15
"""Longest time, in seconds, that a mark may take to the target before the tenant leaves the source."""
LAST_ROWS_SECONDS: Final = 0.6
"""Longest wait for the last rows. After it, the source takes writes again, and the copy goes on."""
STALE_SECONDS: Final = 120.0
"""Time after a move until the tenant may move again. No cache has an entry of it then from where it was before: entries
live a minute, and slow readers write late."""
KEEP_SECONDS: Final = 5.0
"""How long the old rows stay for calls that have begun to read them."""

Say = Callable[[str], None]


Named = tuple[str, str]
"""(id, DSN) of a database."""


@asynccontextmanager
async def locked(default: Named, tenant_id: str) -> AsyncIterator[End]:
    """The default database, with a connection that keeps other processes from working on the tenant's move.

    Raises StoreUnavailable if it cannot be reached or the connection is lost, and MoveRefused if another process works
    on the move.
    """
    with translating():
        async with connected(default[1]) as connection:
            await record.lock(connection, tenant_id)
            yield End(default[0], connection, default[1])


@asynccontextmanager
async def opened(default: End, source: Named, target: Named, tenant_id: str, say: Say) -> AsyncIterator["Mover"]:
    """A mover with connections of its own to source and target. `default`: locked. `say`: takes lines for the operator.

    Raises StoreUnavailable if a database cannot be reached or a connection is lost.
    """
    with translating():
        async with connected(source[1]) as left, connected(target[1]) as right:
            yield Mover(default, End(source[0], left, source[1]), End(target[0], right, target[1]), tenant_id, say)


class Mover:
    """Works on the move of one tenant. Safe to kill at any moment: another one goes on."""

    def __init__(self, default: End, source: End, target: End, tenant_id: str, say: Say) -> None:
        """`default`: the default database, whose connection is its own. `say`: takes lines for the operator."""
        self._default = default
        self._source = source
        self._target = target
        self._tenant_id = tenant_id
        self._say = say

    async def begin(self) -> None:
        """Begins a new move. Raises MoveRefused, and asyncpg's errors."""
        await check(self._source, self._target)
        last = await record.read(self._default.connection, self._tenant_id)
        if last is not None and last.seconds < STALE_SECONDS:
            raise MoveRefused(
                f"the tenant {self._tenant_id} has moved just now, and caches may have entries of it from before: wait "
                f"{round(STALE_SECONDS - last.seconds) + 1} s"
            )
        await record.begin(self._default.connection, self._tenant_id, self._source.id, self._target.id)

    async def go_on(self) -> None:
        """Carries the move to its end, from the step at which it is: returns once the tenant has moved.

        Raises MoveRefused, also if the move is being undone, and asyncpg's errors: the move stays at its step then.
        """
        steps = {
            Step.COPYING: self._copy,
            Step.CLOSING: self._close,
            Step.SWITCHING: self._switch,
            Step.OPENING: self._open,
            Step.REMOVING: self._remove,
        }
        while (move := await record.read(self._default.connection, self._tenant_id)) is None or move.under_way:
            if move is None:
                raise MoveRefused(f"no move of the tenant {self._tenant_id} is under way")
            if move.step is Step.ABORTING:
                raise MoveRefused(
                    f"the move of {move.tenant_id} to {move.target_id} is being undone: finish that with --abort"
                )
            _ = failpoints.armed and await failpoints.reach(f"move_{move.step}")
            await steps[move.step](move)

    async def _copy(self, move: Move) -> None:
        source, target = self._source.connection, self._target.connection
        if not await copying.subscribed(move, self._target):
            key = await switching.token_key(source, move.tenant_id)
            tables = await copying.tables(target)
            try:
                await switching.shut_target(target, move.tenant_id, move.source_id, key, tables)
            except MoveRefused:
                await record.forget(self._default.connection, move.tenant_id)
                raise
            _ = failpoints.armed and await failpoints.reach("move_shut")
            await switching.put_feed_behind(target, await source.fetchval(switching.NEXT), switching.AHEAD)
            await copying.begin(move, self._source, self._target)
            _ = failpoints.armed and await failpoints.reach("move_subscribed")
        while not (found := await copying.progress(move, self._source, self._target)).copied:
            self._say(_of(found))
            await asyncio.sleep(POLL)
        await self._follow(move)
        self._say(f"copied: {found.tables} tables; following {move.source_id}")
        await record.advance(self._default.connection, move, Step.CLOSING)

    async def _follow(self, move: Move) -> None:
        """Returns once the target is close behind the source."""
        source, target = self._source.connection, self._target.connection
        while not await copying.arrived(
            target, move.tenant_id, await copying.set_mark(source, move.tenant_id), CLOSE_ENOUGH
        ):
            found = await copying.progress(move, self._source, self._target)
            self._say(f"following {move.source_id}: {_size(found.lag_bytes)} behind")
            await asyncio.sleep(POLL)

    async def _close(self, move: Move) -> None:
        await switching.write_home(self._source.connection, move.tenant_id, move.source_id, leaving=True)
        await asyncio.sleep(NOTICE_SECONDS)
        await self._follow(move)
        await record.advance(self._default.connection, move, Step.SWITCHING)

    async def _switch(self, move: Move) -> None:
        source, target = self._source.connection, self._target.connection
        clock = asyncio.get_running_loop().time
        fenced = await switching.home(source, move.tenant_id) == move.target_id
        if fenced:
            mark = await copying.set_mark(source, move.tenant_id)
        else:
            mark = await switching.leave_source(source, move.tenant_id, move.target_id)
        since = clock()
        _ = failpoints.armed and await failpoints.reach("move_fenced")
        if not await copying.arrived(target, move.tenant_id, mark, LAST_ROWS_SECONDS):
            self._say(f"{move.target_id} has fallen behind: {move.source_id} takes writes again meanwhile")
            await switching.write_home(source, move.tenant_id, move.source_id, leaving=True)
            await self._follow(move)
            return
        newest = await target.fetchval(switching.NEWEST, move.tenant_id)
        await switching.put_feed_behind(target, newest or 0, 0)
        # Until then, a server that has not learnt of the fence may answer from the source.
        await asyncio.sleep(max(0.0, since + 1.2 * LEASE - clock()))
        await record.advance(self._default.connection, move, Step.OPENING)

    async def _open(self, move: Move) -> None:
        default, target = self._default.connection, self._target.connection
        await switching.write_home(target, move.tenant_id, move.target_id)
        _ = failpoints.armed and await failpoints.reach("move_opened")
        async with default.transaction(isolation="read_committed"):
            await switching.write_home(default, move.tenant_id, move.target_id)
            await record.advance(default, move, Step.REMOVING)
        self._say(f"{move.tenant_id} lives in {move.target_id}")

    async def _remove(self, move: Move) -> None:
        await copying.end(move, self._source, self._target)
        await asyncio.sleep(max(0.0, KEEP_SECONDS - move.seconds))
        await removal.removed(self._source, move.tenant_id, self._say)
        await self._target.connection.execute("delete from move_marks where tenant_id = $1", move.tenant_id)
        await record.advance(self._default.connection, move, Step.DONE)


def _of(found: copying.Progress) -> str:
    copying_now = f"; {found.copying}: {found.rows} rows, {_size(found.bytes)}" if found.copying else ""
    return f"copied {found.ready} of {found.tables} tables{copying_now}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
