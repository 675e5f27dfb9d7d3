"""`sessiond migrate`: migrates the schema to this version, and does nothing else."""

import asyncio
from contextlib import AsyncExitStack

from sessiond_server.app import database
from sessiond_server.settings import Settings


def run(settings: Settings) -> int:
    return asyncio.run(_migrate(settings))


async def _migrate(settings: Settings) -> int:
    from sessiond_server.embedded import running_dsn

    if settings.store == "memory":
        print("the memory store has no schema")
        return 0
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.reveal() if settings.postgres_dsn else running_dsn(settings.data_dir)
        if dsn is None:
            dsn = (await stack.enter_async_context(database.bundled(settings, cache=False))).postgres_dsn
        applied = await database.migrated(dsn, settings)
    print(f"applied {', '.join(applied)}" if applied else "the schema already has this version")
    return 0
