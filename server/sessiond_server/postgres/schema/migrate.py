"""Brings a database's schema up to what this code needs, and says where it stands.

`migrations/NNNN_name.sql` are applied in order, each in a transaction of its own, under an advisory lock, so that any
number of servers may start at once. A migration must be safe for the previous version of the server to run beside
(expand, then contract in a later one), and must not need a transaction block of its own making.

One that begins with the line `-- outside a transaction` is applied statement by statement instead: `create index
concurrently`, which lets writers go on, runs in no other way. It may be cut off between any two of its statements, and
must then be fit to be applied from its beginning.

A migration that needs a lock for which others would queue behind it sets a `lock_timeout`, and is then tried again.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from sessiond_server.postgres.connection import reaching

_log = logging.getLogger("sessiond.migrate")

LOCK = 0x73657373696F6E64
"""Key of the advisory lock that migrating processes hold: "sessiond" in ASCII."""

LOCK_PAUSE = 0.2
"""Seconds between two attempts to take it. Waiting for it in a statement would hold a snapshot, and building an index
concurrently waits for every older snapshot: for those, that is, who wait for it."""

LOCK_ATTEMPTS = 200
"""Of a migration that waits for its own locks no longer than its `lock_timeout`."""

OUTSIDE = "-- outside a transaction\n"

OLDEST_SERVER = 140000
"""PostgreSQL 14, as server_version_num: the oldest whose features the statements keep to."""

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")


class MigrationError(Exception):
    """The schema is not as this code needs it, and cannot be made so. The text tells the operator what to do."""


class SchemaTooNew(MigrationError):
    """A newer version of the server has migrated the database."""

    def __init__(self, version: int, latest: int) -> None:
        super().__init__(
            f"the database's schema is version {version}; this server knows versions up to {latest}. "
            "Run the server's version that migrated it, or a newer one."
        )


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    version: int
    """Of the last migration that the database has; 0: it has none."""
    latest: int
    """Of the last migration that this code knows."""
    pending: tuple[str, ...]
    """Names of the migrations to apply, in order, such as `0002_runs`."""

    @property
    def ready(self) -> bool:
        """Whether a server can run on it."""
        return self.version == self.latest

    @property
    def too_new(self) -> bool:
        return self.version > self.latest


def migrations() -> Sequence[Migration]:
    """All of them, ascending. Raises ValueError unless they are numbered 1, 2, 3 ..."""
    names = ((_FILE.fullmatch(file.name), file) for file in files(__package__).joinpath("migrations").iterdir())
    found = [Migration(int(name["version"]), name["name"], file.read_text("utf-8")) for name, file in names if name]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 ...")
    return found


async def status(dsn: str, *, connect_timeout: float = 5.0) -> SchemaStatus:
    """Where the database stands. Raises StoreUnavailable."""
    async with _connected(dsn, connect_timeout) as connection:
        return _status(await _version(connection), migrations())


async def migrate(dsn: str, *, connect_timeout: float = 5.0) -> Sequence[str]:
    """Applies what is pending; the names of the migrations applied, none when there was nothing to do.

    Waits while another process migrates. Raises SchemaTooNew, MigrationError, StoreUnavailable; what was applied before
    the error stays applied. Cancelling undoes the migration that is under way, or of one outside a transaction the
    statement.
    """
    known = migrations()
    async with _connected(dsn, connect_timeout) as connection:
        await _check_server(connection)
        # Held until the connection ends.
        while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110  # a server
            await asyncio.sleep(LOCK_PAUSE)
        found = _status(await _version(connection), known)
        if found.too_new:
            raise SchemaTooNew(found.version, found.latest)
        for migration in known[found.version :]:
            await _apply(connection, migration)
        return found.pending


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    for _ in range(LOCK_ATTEMPTS):
        with suppress(asyncpg.LockNotAvailableError):
            await _attempt(connection, migration)
            return
        _log.warning("migration %d (%s) waits for another transaction to end", migration.version, migration.name)
        await asyncio.sleep(LOCK_PAUSE)
    raise MigrationError(
        f"migration {migration.version} ({migration.name}) waits for transactions that do not end: look for old ones "
        "in pg_stat_activity."
    )


async def _attempt(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        if migration.sql.startswith(OUTSIDE):
            for statement in statements(migration.sql):
                await connection.execute(statement)
            await _record(connection, migration)
        else:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await _record(connection, migration)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"migration {migration.version} ({migration.name}) needs a privilege that its user lacks: {error}. "
            "Migrate as the owner of the database, or grant the user CREATE on the schema."
        ) from error


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "insert into schema_versions (version, name) values ($1, $2)", migration.version, migration.name
    )


def statements(sql: str) -> Sequence[str]:
    """Those of a migration outside a transaction, each of which ends with a semicolon at the end of a line."""
    return [statement for part in re.split(r";$", sql, flags=re.MULTILINE) if (statement := part.strip())]


@asynccontextmanager
async def _connected(dsn: str, connect_timeout: float) -> AsyncIterator[asyncpg.Connection]:
    with reaching():
        connection = await asyncpg.connect(dsn, timeout=connect_timeout, command_timeout=None)
        try:
            yield connection
        finally:
            await connection.close(timeout=connect_timeout)


async def _check_server(connection: asyncpg.Connection) -> None:
    number, encoding, standby = await _settings(connection)
    if standby:
        raise MigrationError("the database is a standby: migrate the primary.")
    if number < OLDEST_SERVER:
        raise MigrationError(
            f"the server is PostgreSQL {number // 10000}; {OLDEST_SERVER // 10000} or newer is needed."
        )
    if encoding != "UTF8":
        raise MigrationError(f"the database's encoding is {encoding}; create it with ENCODING 'UTF8'.")


async def _settings(connection: asyncpg.Connection) -> tuple[int, str, bool]:
    row = await connection.fetchrow(
        "select current_setting('server_version_num')::integer, current_setting('server_encoding'), pg_is_in_recovery()"
    )
    assert row is not None
    return row[0], row[1], row[2]


async def _version(connection: asyncpg.Connection) -> int:
    if await connection.fetchval("select to_regclass('schema_versions') is null"):
        return 0
    version: int = await connection.fetchval("select coalesce(max(version), 0) from schema_versions")
    return version


def _status(version: int, known: Sequence[Migration]) -> SchemaStatus:
    pending = tuple(f"{m.version:04}_{m.name}" for m in known[version:])
    return SchemaStatus(version, known[-1].version, pending)
