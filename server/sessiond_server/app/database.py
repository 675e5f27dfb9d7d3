"""Opens the database, bundled or another one, migrates its schema, and opens the store on it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sessiond_server.app.bundled import bundled
from sessiond_server.app.encryption import encryption_of
from sessiond_server.app.limits import policy
from sessiond_server.embedded import running_dsn
from sessiond_server.errors import StoreUnavailable
from sessiond_server.settings import SecretUrl, SettingError, Settings

if TYPE_CHECKING:
    from sessiond_server.memory.store import MemoryStore
    from sessiond_server.postgres.store import PostgresStore

_log = logging.getLogger("sessiond.app")

OUTAGE_AT_START: Final = 30.0
"""Seconds to wait for a Postgres that cannot be reached yet, because containers start in any order."""


def revealed(url: SecretUrl | None) -> str | None:
    """A URL with its secrets, for code that connects."""
    return None if url is None else url.reveal()


def dsn_of(settings: Settings, database_id: str) -> str | None:
    """The DSN of one of several databases, or of the only one; None: that is bundled, or in memory. Raises SettingError
    for an id that the map does not have."""
    if settings.databases is None:
        return revealed(settings.postgres_dsn)
    if database_id not in settings.databases:
        raise SettingError(f"--databases has none with the id {database_id}")
    return revealed(settings.databases[database_id])


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[str | None]:
    """The DSN of the database, for commands that may run without the service. Starts the bundled Postgres if necessary.

    None if there is no data yet. Raises EmbeddedError.
    """
    running = revealed(settings.postgres_dsn) or running_dsn(settings.data_dir)
    if running is not None:
        yield running
    elif (settings.data_dir / "postgres").is_dir():
        async with bundled(settings, cache=False) as servers:
            yield servers.postgres_dsn
    else:
        yield None


@asynccontextmanager
async def opened_store(settings: Settings, dsn: str | None) -> AsyncIterator["MemoryStore | PostgresStore"]:
    """The store: in the database of `dsn`, which need not be reachable yet, or in memory."""
    request_retention = timedelta(seconds=settings.request_retention)
    tombstone_retention = timedelta(seconds=settings.tombstone_retention)
    upload_retention = timedelta(seconds=settings.upload_retention)
    if settings.store == "memory":
        from sessiond_server.memory.store import MemoryStore

        yield MemoryStore(
            policy=policy(settings),
            request_retention=request_retention,
            tombstone_retention=tombstone_retention,
            upload_retention=upload_retention,
        )
        return
    from sessiond_server.postgres.store import PostgresStore

    assert dsn is not None
    async with PostgresStore(
        dsn,
        policy=policy(settings),
        request_retention=request_retention,
        tombstone_retention=tombstone_retention,
        upload_retention=upload_retention,
        max_connections=settings.store_connections,
        optimistic="on" if settings.optimistic_writes else "off",
        encryption=encryption_of(settings),
    ) as store:
        yield store


def postgres(truth: "MemoryStore | PostgresStore") -> "PostgresStore | None":
    """The store if it is in Postgres; else None."""
    from sessiond_server.postgres.store import PostgresStore

    return truth if isinstance(truth, PostgresStore) else None


async def bring_up_to_date(dsn: str, settings: Settings) -> None:
    """Migrates the database to this version's schema, once it can be reached."""
    await _once_reachable(lambda: migrated(dsn, settings))


async def migrated(dsn: str, settings: Settings) -> Sequence[str]:
    """Migrates the database, for `serve` and `migrate`; returns the names of the applied migrations."""
    from sessiond_server.postgres.schema.migrate import migrate

    return await migrate(dsn, max_wait=settings.migration_wait, require_durable=settings.require_durable)


def why(error: StoreUnavailable) -> str:
    """Why the database cannot be reached, in the words of the server or the system."""
    cause = error.__cause__
    return str(cause) or ("it does not answer" if isinstance(cause, TimeoutError) else type(cause).__name__)


async def _once_reachable(attempt: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Makes the attempt until the database can be reached, and logs what it waits for whenever that changes.

    Raises StoreUnavailable after OUTAGE_AT_START seconds.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + OUTAGE_AT_START
    pause, logged = 0.1, ""
    while True:
        try:
            await attempt()
            return
        except StoreUnavailable as error:
            if loop.time() + pause > until:
                raise
            if (cause := why(error)) != logged:
                logged = cause
                _log.warning("waits for Postgres, at most %.0f s more: %s", until - loop.time(), cause)
        await asyncio.sleep(pause * (0.5 + Random().random() / 2))
        pause = min(2 * pause, 3.0)
