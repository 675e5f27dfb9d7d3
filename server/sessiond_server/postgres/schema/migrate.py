"""Applies migrations to a database, and reports the state of its schema.

The files `migrations/NNNN_name.sql` are applied in order, each in its own transaction, under an advisory lock, so that
any number of servers may start at once. A database without pending migrations is not locked, and nothing waits. While a
migration runs, servers of the previous version must continue to work (expand, and contract in a later migration). A
migration must not contain BEGIN or COMMIT.

A file that begins with the line `-- outside a transaction` is applied statement by statement instead (see
`statements`). `create index concurrently`, which does not block writers, requires this. Such a migration may be
interrupted between any two statements, so it must be safe to apply again from its beginning.

A migration that needs a lock for which others would queue behind it sets a `lock_timeout` with `set local`, and is
retried after a timeout.

All this works through a pooler that gives each transaction another connection: the advisory lock belongs to a
transaction, and neither settings nor prepared statements have to outlive one.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files

import asyncpg

from sessiond_server.postgres import feed_order
from sessiond_server.postgres.causes import translating
from sessiond_server.postgres.connection import keep_alive
from sessiond_server.postgres.fitness import DatabaseUnfit, Fitness, examine, refuse_unsafe
from sessiond_server.postgres.sqlstates import lasts, meaning

_log = logging.getLogger("sessiond.migrate")

LOCK = 0x73657373696F6E64
"""Key of the advisory lock of migrations: "sessiond" in ASCII."""

LOCK_PAUSE = 0.2
"""Seconds between two attempts to take the lock. A statement that waits for it would hold a snapshot, and an index that
is built concurrently waits for every older snapshot: both would wait for each other."""

MAX_WAIT = 300.0
"""Default of the longest wait for another migrating process, in seconds. Starts again with each migration that it
completes."""

SAID_EVERY = 10.0
"""Seconds between two log records about the same wait."""

LOCK_ATTEMPTS = 200
"""Most attempts to apply a migration that reaches its own `lock_timeout`."""

_NO_LIMITS = "set local idle_in_transaction_session_timeout = 0; set local statement_timeout = 0"
"""Removes limits that the role may have for its other work."""

OUTSIDE = "-- outside a transaction\n"

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")


class MigrationError(DatabaseUnfit):
    """The schema cannot be migrated to what this code needs. The text tells the operator what to do."""


class SchemaTooNew(MigrationError):
    """A newer version of the server has migrated the database."""

    def __init__(self, version: int, latest: int) -> None:
        super().__init__(
            f"the database's schema is version {version}; this server knows versions up to {latest}. "
            "Run the server's version that migrated it, or a newer one."
        )


class MigrationLocked(MigrationError):
    """Another process has held the lock of migrations for longer than the caller waits."""

    def __init__(self, holder: "Holder | None", seconds: float) -> None:
        who = f"{holder} " if holder else "it "
        remedy = f": select pg_terminate_backend({holder.pid})" if holder else ""
        super().__init__(
            f"another process migrates this database: {who}has held the lock of migrations for {seconds:g} s.\n"
            f"  If it is working, start again once it has finished, or wait longer with --migration-wait. End it only "
            f"if it is stuck{remedy}"
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """A session of the database that holds the lock of migrations. Fields that this role may not see are empty."""

    pid: int
    application: str
    state: str

    def __str__(self) -> str:
        about = ", ".join(filter(None, (self.application, self.state)))
        return f"server process {self.pid}" + (f" ({about})" if about else "")


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    version: int
    """Version of the last migration that the database has; 0: it has none."""
    latest: int
    """Version of the last migration that this code knows."""
    pending: tuple[str, ...]
    """Names of the migrations to apply, in order, such as `0002_runs`."""
    restored: bool = False
    """Whether the database was restored from a dump into another cluster, and the order of feeds is not settled yet."""
    fitness: Fitness | None = None
    """Properties of the database; None until it has been examined."""

    @property
    def ready(self) -> bool:
        """Whether a server of this version can run on the database."""
        return self.version == self.latest

    @property
    def too_new(self) -> bool:
        return self.version > self.latest


def migrations() -> Sequence[Migration]:
    """All migrations, ascending. Raises ValueError unless they are numbered 1, 2, 3 ..."""
    names = ((_FILE.fullmatch(file.name), file) for file in files(__package__).joinpath("migrations").iterdir())
    found = [Migration(int(name["version"]), name["name"], file.read_text("utf-8")) for name, file in names if name]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 1, 2, 3 ...")
    return found


async def status(dsn: str, *, connect_timeout: float = 5.0) -> SchemaStatus:
    """The state of the database's schema. Raises StoreUnavailable, DatabaseUnfit."""
    async with connected(dsn, connect_timeout) as connection:
        fitness = await examine(connection)
        found = await _status(connection)
        if found.pending:
            fitness.check_may_create()
        order = await feed_order.look(connection)
        restored = order is not None and order.needed_shift != order.shift
        return replace(found, restored=restored, fitness=fitness)


async def migrate(
    dsn: str, *, connect_timeout: float = 5.0, max_wait: float = MAX_WAIT, require_durable: bool = False
) -> Sequence[str]:
    """Applies pending migrations and returns the names of those applied.

    While another process migrates, it waits and logs that it does; after `max_wait` seconds it raises MigrationLocked.
    Also raises DatabaseUnfit, MigrationError and StoreUnavailable; migrations applied before the error stay applied.
    Cancelling undoes the migration in progress, or, for one outside a transaction, its current statement.
    """
    applied: list[str] = []
    wait = _Wait(max_wait)
    async with connected(dsn, connect_timeout) as connection:
        fitness = await examine(connection)
        if (await _status(connection)).pending:
            fitness.check_may_create()
        if require_durable:
            refuse_unsafe(fitness)
        for warning in fitness.warnings():
            _log.warning("%s", warning)
        while (found := await _status(connection)).pending:
            migration = migrations()[found.version]
            wait.at(found.version)
            if migration.sql.startswith(OUTSIDE):
                async with connected(dsn, connect_timeout) as holder:
                    done = await _locked(holder, migration, partial(_apply_outside, connection, holder, migration))
            else:
                done = await _locked(connection, migration, partial(_apply, connection, migration))
            if done is None:
                await wait.for_lock(await _holder(connection))
            elif done:
                applied.append(found.pending[0])
        if found.too_new:
            raise SchemaTooNew(found.version, found.latest)
        await feed_order.settle(connection, thorough=True)
        return tuple(applied)


class _Wait:
    """Waits for the lock that another process holds, for a limited time without progress."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._clock = asyncio.get_running_loop().time
        self._version = -1
        self._since = self._clock()
        self._said = -SAID_EVERY

    def at(self, version: int) -> None:
        """Restarts the time limit if the schema's version has changed, which is progress."""
        if version != self._version:
            self._version = version
            self._since = self._clock()

    async def for_lock(self, holder: Holder | None) -> None:
        """Sleeps for LOCK_PAUSE. Raises MigrationLocked if the time limit has passed."""
        waited = self._clock() - self._since
        if waited >= self._max_wait:
            raise MigrationLocked(holder, round(waited, 1))
        if self._clock() - self._said >= SAID_EVERY:
            self._said = self._clock()
            _log.warning(
                "waiting for another process that migrates the database, at most %g s more: %s",
                round(self._max_wait - waited, 1),
                holder or "it has just finished",
            )
        await asyncio.sleep(LOCK_PAUSE)


async def _locked(
    connection: asyncpg.Connection, migration: Migration, apply: Callable[[], Awaitable[None]]
) -> bool | None:
    """Applies a migration in a transaction of `connection` that holds the lock. Returns True if it was applied here.

    None: another process has the lock. False: another process has applied the migration meanwhile.
    """
    for _ in range(LOCK_ATTEMPTS):
        try:
            # Read committed, whatever the default is: each statement must see all that was committed before the lock.
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(_NO_LIMITS)
                if not await connection.fetchval(f"select pg_try_advisory_xact_lock({LOCK})"):
                    return None
                if await _version(connection) != migration.version - 1:
                    return False
                await apply()
                return True
        except asyncpg.LockNotAvailableError:
            _log.warning("migration %d (%s) is waiting for another transaction", migration.version, migration.name)
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"migration {migration.version} ({migration.name}) needs a privilege that the role lacks: {error}. "
                "Migrate as the owner of the database, or grant the role CREATE on the schema."
            ) from error
        await asyncio.sleep(LOCK_PAUSE)
    raise MigrationError(
        f"migration {migration.version} ({migration.name}) waited for transactions that did not end: look for old ones "
        "in pg_stat_activity."
    )


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    """Applies and records a migration in the current transaction of `connection`."""
    await connection.execute(migration.sql)
    await _record(connection, migration)


async def _apply_outside(connection: asyncpg.Connection, holder: asyncpg.Connection, migration: Migration) -> None:
    """Applies a migration outside a transaction, while a transaction of `holder` has the lock.

    That transaction must hold no snapshot, because an index that is built concurrently would wait for it. It also
    records the migration, so that the migration counts only if the lock was held to the end.
    """
    await holder.execute("select")  # Releases the snapshot of the previous fetch, which the server keeps until then.
    for statement in statements(migration.sql):
        await connection.execute(statement)
    await _record(holder, migration)


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        f"insert into schema_versions (version, name) values ({migration.version}, '{migration.name}')"
    )


async def _holder(connection: asyncpg.Connection) -> Holder | None:
    """The session that holds the lock; None if no session holds it any more."""
    async with connection.transaction():
        row = await connection.fetchrow(
            "select l.pid, coalesce(a.application_name, ''), coalesce(a.state, '') from pg_locks l"
            " left join pg_stat_activity a on a.pid = l.pid"
            " where l.locktype = 'advisory' and l.granted and l.objsubid = 1"
            f" and l.classid = {LOCK >> 32} and l.objid = {LOCK & 0xFFFFFFFF}"
            " and l.database = (select oid from pg_database where datname = current_database())"
        )
    return None if row is None else Holder(*row)


def statements(sql: str) -> Sequence[str]:
    """The statements of a migration outside a transaction; each ends with a semicolon at the end of a line, outside of
    `$$` quotes.

    Several statements in one line count as one: the server runs them in one transaction, which `set local` needs.
    """
    found = [""]
    for part in re.split(r"(;)$", sql, flags=re.MULTILINE):
        if part == ";" and found[-1].count("$$") % 2 == 0:
            found.append("")
        else:
            found[-1] += part
    return [statement for each in found if (statement := each.strip())]


@asynccontextmanager
async def connected(dsn: str, connect_timeout: float = 5.0) -> AsyncIterator[asyncpg.Connection]:
    """A connection outside of any pool. Raises StoreUnavailable, DatabaseUnfit."""
    with translating():
        # Statements are not cached, because a pooler may give the next transaction another connection.
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=connect_timeout,
                command_timeout=None,
                statement_cache_size=0,
                server_settings={"application_name": "sessiond migrate"},
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            if meaning(error) is not None and not lasts(error):
                raise
            raise DatabaseUnfit(f"cannot connect with this DSN: {error}") from error
        keep_alive(connection)
        try:
            yield connection
        finally:
            await connection.close(timeout=connect_timeout)


async def _status(connection: asyncpg.Connection) -> SchemaStatus:
    async with connection.transaction():
        version = await _version(connection)
    known = migrations()
    return SchemaStatus(version, known[-1].version, tuple(f"{m.version:04}_{m.name}" for m in known[version:]))


async def _version(connection: asyncpg.Connection) -> int:
    """The schema's version; 0 without a schema. Call it in a transaction: outside one, a statement is sent in two
    parts, which a pooler may separate.

    It reads pg_class, because to_regclass may miss a table that another transaction has just created.
    """
    exists = "select exists (select from pg_class where relname = 'schema_versions' and pg_table_is_visible(oid))"
    if not await connection.fetchval(exists):
        return 0
    version: int = await connection.fetchval("select coalesce(max(version), 0) from schema_versions")
    return version
