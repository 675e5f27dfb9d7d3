"""`sessiond search rebuild`: builds the index of searches anew, while the service runs (docs/search.md)."""

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from sessiond_server import failpoints
from sessiond_server.app import database
from sessiond_server.auth import is_tenant
from sessiond_server.domain import ids
from sessiond_server.search import indexer
from sessiond_server.settings import SettingError, Settings
from sessiond_server.tasks import run_in_background

if TYPE_CHECKING:
    from sessiond_server.postgres.store import PostgresStore

SAY_SECONDS: Final = 1.0
"""Pause between two looks at the progress."""


def rebuild(settings: Settings, tenant_id: str) -> int:
    """Builds the indexes of a tenant, or of all ("") anew. What was begun before goes on where it was."""
    if tenant_id and not is_tenant(tenant_id):
        raise SettingError("a tenant has 1 to 128 characters of [A-Za-z0-9._:~-]")
    failpoints.arm(settings.failpoints)
    return asyncio.run(_rebuild(settings, tenant_id))


async def _rebuild(settings: Settings, tenant_id: str) -> int:
    from sessiond_server.postgres.store import PostgresStore

    if settings.store == "memory":
        print("the memory store has no index")
        return 1
    async with database.started(settings) as dsn:
        if dsn is None:
            print(f"there is no data in {settings.data_dir} yet")
            return 1
        for database_id in settings.database_ids:
            of_it = dsn if settings.databases is None else database.dsn_of(settings, database_id)
            assert of_it is not None
            prefix = "" if settings.databases is None else f"{database_id}: "
            async with PostgresStore(of_it, max_connections=3) as store:
                await _rebuilt(store, tenant_id, prefix)
    return 0


async def _rebuilt(store: "PostgresStore", tenant_id: str, prefix: str) -> None:
    """Returns once it is done. A server keeps the index meanwhile, or this process, if there is none."""
    upkeep = store.search_upkeep
    await upkeep.begin_rebuild(tenant_id)
    work = indexer.run(upkeep, f"rebuild-{ids.uuid7()}", indexer.Indexing(), asyncio.Event())
    indexing = run_in_background(work, "search")
    try:
        said, total = "", 0
        while True:
            left, done, entries = await upkeep.rebuilding(tenant_id)
            total = max(total, left)
            line = f"{left} of {total} tenants left, {done} of about {entries} messages and events of tools"
            if left == 0:
                break
            if line != said:
                said = line
                print(f"{prefix}{line}", flush=True)
            await asyncio.sleep(SAY_SECONDS)
        print(f"{prefix}the index of {total} tenants was built anew" if total else f"{prefix}there is nothing to build")
    except asyncio.CancelledError:
        print(
            "a running server with search on goes on with it, and so does this command when it is run again",
            file=sys.stderr,
        )
        raise
    finally:
        indexing.cancel()
        await asyncio.gather(indexing, return_exceptions=True)
