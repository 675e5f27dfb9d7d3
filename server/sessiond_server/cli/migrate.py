"""`sessiond migrate`: migrates the schema to this version, and does nothing else."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from sessiond_server.app import database
from sessiond_server.app.bundled import bundled
from sessiond_server.settings import SecretUrl, Settings, scrub


def run(settings: Settings) -> int:
    return asyncio.run(_migrate(settings))


async def _migrate(settings: Settings) -> int:
    from sessiond_server.embedded import running_dsn

    if settings.store == "memory":
        print("the memory store has no schema")
        return 0
    if settings.databases is not None:
        return await _migrate_all(settings, settings.databases)
    async with AsyncExitStack() as stack:
        dsn = settings.postgres_dsn.reveal() if settings.postgres_dsn else running_dsn(settings.data_dir)
        if dsn is None:
            dsn = (await stack.enter_async_context(bundled(settings, cache=False))).postgres_dsn
        applied = await database.migrated(dsn, settings)
    print(_done(applied))
    return 0


async def _migrate_all(settings: Settings, databases: Mapping[str, SecretUrl]) -> int:
    """One database after the other, the default one first. A failure does not keep the others from their turn."""
    from sessiond_server.app.errors import message_for_operator

    failed = False
    for database_id in settings.database_ids:
        try:
            applied = await database.migrated(databases[database_id].reveal(), settings)
        except Exception as error:
            if (text := message_for_operator(error)) is None:
                raise
            failed = True
            print(f"{database_id}: FAILED: {scrub(settings, text)}")
        else:
            print(f"{database_id}: {_done(applied)}")
    return 1 if failed else 0


def _done(applied: Sequence[str]) -> str:
    return f"applied {', '.join(applied)}" if applied else "the schema already has this version"
