"""`sessiond databases move`: moves a tenant to another database while the service runs (docs/databases.md)."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from sessiond_server import failpoints
from sessiond_server.app import database
from sessiond_server.app.databases import Group
from sessiond_server.auth import is_tenant
from sessiond_server.cli.databases import dsn_in, several
from sessiond_server.errors import StoreUnavailable
from sessiond_server.settings import SettingError, Settings

if TYPE_CHECKING:
    from sessiond_server.postgres.moving.conditions import End
    from sessiond_server.postgres.moving.mover import Named

PATIENCE: Final = 300.0
RETRY_SECONDS: Final = 0.5
"""How long the command waits in one outage of databases, and the pause between two attempts."""


def run(settings: Settings, tenant_id: str, target_id: str | None, *, abort: bool) -> int:
    """Begins the move of a tenant, or goes on with it; with `abort`, undoes it."""
    if not is_tenant(tenant_id):
        raise SettingError("a tenant has 1 to 128 characters of [A-Za-z0-9._:~-]")
    if abort == (target_id is not None):
        raise SettingError("needs --to ID or --abort")
    settings = several(settings)
    if target_id is not None:
        dsn_in(settings, target_id)
    failpoints.arm(settings.failpoints)
    return asyncio.run(persist(partial(_attempt, settings, tenant_id, target_id)))


class Outage:
    """An outage of databases, as the attempts see it: it begins with one that fails, and is over once one connects."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self._since: float | None = None
        self._locked_out = False
        self._said = ""

    def over(self) -> None:
        """An attempt has connected. If the last one only waited for a lock, that says nothing of the lock."""
        if not self._locked_out:
            self._since, self._said = None, ""

    def failed(self, error: StoreUnavailable) -> float:
        """Says why on stderr, if that has changed; seconds since the outage began."""
        from sessiond_server.postgres.causes import waited_for_lock

        self._locked_out = waited_for_lock(error)
        if self._since is None:
            self._since = self._clock()
        if (problem := database.why(error)) != self._said:
            self._said = problem
            print(f"waits for a database: {problem}", file=sys.stderr)
        return self._clock() - self._since


async def persist(
    attempt: Callable[[Outage], Awaitable[int]],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> int:
    """Makes the attempt until it succeeds. Raises StoreUnavailable once an outage has lasted for PATIENCE."""
    outage = Outage(clock)
    while True:
        try:
            return await attempt(outage)
        except StoreUnavailable as error:
            if outage.failed(error) >= PATIENCE:
                raise
        await pause(RETRY_SECONDS)


async def _attempt(settings: Settings, tenant_id: str, target_id: str | None, outage: Outage) -> int:
    from sessiond_server.postgres.moving import record
    from sessiond_server.postgres.moving.mover import locked, opened
    from sessiond_server.postgres.moving.record import MoveRefused
    from sessiond_server.postgres.moving.switching import home

    def named(database_id: str) -> tuple[str, str]:
        return database_id, dsn_in(settings, database_id)

    async with locked(named(settings.database_ids[0]), tenant_id) as default:
        # Read behind the lock: nothing changes it from here on but this process.
        found = await record.read(default.connection, tenant_id)
        lives = await home(default.connection, tenant_id) or default.id
        if found is not None and found.under_way:
            if target_id not in (None, found.target_id):
                raise MoveRefused(f"the tenant {tenant_id} is moving to {found.target_id}: end that move, or abort it")
            source_id, goes_to = found.source_id, found.target_id
        elif target_id is None:
            raise MoveRefused(f"no move of the tenant {tenant_id} is under way")
        elif lives == target_id:
            print(f"{tenant_id} lives in {target_id}")
            return 0
        else:
            source_id, goes_to = lives, target_id
        source, target = named(source_id), named(goes_to)
        if target_id is None:
            await _abort(settings, default, source, target, tenant_id, outage)
            print(f"{tenant_id} stays in {source_id}")
            return 0
        await _check(Group(settings), default.id, source_id, goes_to)
        async with opened(default, source, target, tenant_id, _say) as mover:
            outage.over()
            if found is None or not found.under_way:
                await mover.begin()
            await mover.go_on()
    print(f"{tenant_id} has moved from {source_id} to {goes_to}")
    return 0


async def _abort(
    settings: Settings, default: "End", source: "Named", target: "Named", tenant_id: str, outage: Outage
) -> None:
    """Undoes the move at both ends. Raises MoveRefused, with what is left, if the target cannot be reached."""
    from sessiond_server.postgres.fitness import DatabaseUnfit
    from sessiond_server.postgres.moving import undoing
    from sessiond_server.postgres.moving.copying import name_of
    from sessiond_server.postgres.moving.record import MoveRefused

    group = Group(settings)
    await _check(group, default.id, source[0])
    move = await undoing.reopen(default, source, tenant_id)
    outage.over()
    _say(f"{source[0]} takes writes of {tenant_id} again; slot and publication of the move are dropped there")
    try:
        await _check(group, target[0])
    except (StoreUnavailable, DatabaseUnfit) as error:
        problem = database.why(error) if isinstance(error, StoreUnavailable) else str(error)
        raise MoveRefused(
            f"{target[0]} cannot be used ({problem}).\n  Left there: the subscription {name_of(move)} and the copied "
            f"rows of {tenant_id}. Left at {source[0]}, if tables were being copied: their slots, pg_…_sync_…\n"
            "  Run this command again once it can be used. If it is lost, add an empty database with its id, run this "
            "command again, and drop those slots"
        ) from error
    await undoing.clear(default, source, target, move, _say)


def _say(line: str) -> None:
    print(line, flush=True)


async def _check(group: Group, *database_ids: str) -> None:
    """Raises WrongDatabase unless the databases, the default one first, are those of their ids."""
    from sessiond_server.postgres.store import PostgresStore

    for each in dict.fromkeys(database_ids):
        async with PostgresStore(dsn_in(group.settings, each), max_connections=2) as store:
            await group.check(store, each, await store.token_key(), claim=False)
