"""Brings a database's schema up to what this code needs, and says where it stands.

`migrations/NNNN_name.sql` are applied in order, each in a transaction of its own, under an advisory lock, so that any
number of servers may start at once. A database with nothing to apply is neither locked nor waited for. A migration must
be safe for the previous version of the server to run beside (expand, then contract in a later one), and must not need a
transaction block of its own making.

One that begins with the line `-- outside a transaction` is applied line group by line group instead (see `statements`):
`create index concurrently`, which lets writers go on, runs in no other way. It may be cut off between any two of its
statements, and must then be fit to be applied from its beginning.

A migration that needs a lock for which others would queue behind it sets a `lock_timeout`, with `set local`, and is
then tried again.

All this works through a pooler that gives each transaction another connection: the advisory lock belongs to a
transaction, no setting outlives one, and no prepared statement is expected to.
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
from sessiond_server.postgres.causes import reaching
from sessiond_server.postgres.fitness import DatabaseUnfit, Fitness, examine, refuse_unsafe
from sessiond_server.postgres.sqlstates import meaning

_log = logging.getLogger("sessiond.migrate")

LOCK = 0x73657373696F6E64
"""Key of the advisory lock that migrating processes hold: "sessiond" in ASCII."""

LOCK_PAUSE = 0.2
"""Seconds between two attempts to take it. Waiting for it in a statement would hold a snapshot, and building an index
concurrently waits for every older snapshot: for those, that is, who wait for it."""

MAX_WAIT = 300.0
"""Seconds that another process which migrates is waited for, by default; they begin anew with all that it completes."""

SAID_EVERY = 10.0
"""Seconds between two records about the same wait."""

LOCK_ATTEMPTS = 200
"""Of a migration that waits for its own locks no longer than its `lock_timeout`."""

_NO_LIMITS = "set local idle_in_transaction_session_timeout = 0; set local statement_timeout = 0"
"""A role may have limits that suit its other work."""

OUTSIDE = "-- outside a transaction\n"

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.sql")


class MigrationError(DatabaseUnfit):
    """The schema is not as this code needs it, and cannot be made so. The text tells the operator what to do."""


class SchemaTooNew(MigrationError):
    """A newer version of the server has migrated the database."""

    def __init__(self, version: int, latest: int) -> None:
        super().__init__(
            f"the database's schema is version {version}; this server knows versions up to {latest}. "
            "Run the server's version that migrated it, or a newer one."
        )


class MigrationLocked(MigrationError):
    """Another process has held the lock of migrations for too long."""

    def __init__(self, holder: "Holder | None", seconds: float) -> None:
        who = f"{holder} " if holder else "it "
        remedy = f": select pg_terminate_backend({holder.pid})" if holder else ""
        super().__init__(
            f"another process migrates this database: {who}has held the lock of migrations for {seconds:g} s.\n"
            f"  If it is at work, start again when it is done, or wait longer with --migration-wait; end it only if it "
            f"is not{remedy}"
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """A session of the database that holds the lock of migrations. What may not be seen of it is empty."""

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
    """Of the last migration that the database has; 0: it has none."""
    latest: int
    """Of the last migration that this code knows."""
    pending: tuple[str, ...]
    """Names of the migrations to apply, in order, such as `0002_runs`."""
    restored: bool = False
    """Whether it was restored from a dump into another cluster, and the order of feeds is still to be settled."""
    fitness: Fitness | None = None
    """Of the database, once it was examined."""

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
    """Where the database stands. Raises StoreUnavailable, DatabaseUnfit."""
    async with _connected(dsn, connect_timeout) as connection:
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
    """Applies what is pending; the names of the migrations applied, none when there was nothing to do.

    While another process migrates it waits, and says so, for `max_wait` seconds; MigrationLocked after them. Raises
    DatabaseUnfit, MigrationError, StoreUnavailable; what was applied before the error stays applied. Cancelling undoes
    the migration that is under way, or of one outside a transaction the statement.
    """
    applied: list[str] = []
    wait = _Wait(max_wait)
    async with _connected(dsn, connect_timeout) as connection:
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
                async with _connected(dsn, connect_timeout) as holder:
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
    """For the lock that another process holds."""

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._clock = asyncio.get_running_loop().time
        self._version = -1
        self._since = self._clock()
        self._said = -SAID_EVERY

    def at(self, version: int) -> None:
        """A version that was not there before is progress."""
        if version != self._version:
            self._version = version
            self._since = self._clock()

    async def for_lock(self, holder: Holder | None) -> None:
        """A moment. Raises MigrationLocked when it was the last."""
        waited = self._clock() - self._since
        if waited >= self._max_wait:
            raise MigrationLocked(holder, round(waited, 1))
        if self._clock() - self._said >= SAID_EVERY:
            self._said = self._clock()
            _log.warning(
                "waits for another process that migrates the database, at most %g s more: %s",
                round(self._max_wait - waited, 1),
                holder or "it is gone by now",
            )
        await asyncio.sleep(LOCK_PAUSE)


async def _locked(
    connection: asyncpg.Connection, migration: Migration, apply: Callable[[], Awaitable[None]]
) -> bool | None:
    """Applies a migration in a transaction of `connection` that holds the lock.

    None: another process has the lock; False: another process has applied the migration meanwhile.
    """
    for _ in range(LOCK_ATTEMPTS):
        try:
            # Read committed, also where the role's default is another: nothing is to be seen as of before the lock.
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(_NO_LIMITS)
                if not await connection.fetchval(f"select pg_try_advisory_xact_lock({LOCK})"):
                    return None
                if await _version(connection) != migration.version - 1:
                    return False
                await apply()
                return True
        except asyncpg.LockNotAvailableError:
            _log.warning("migration %d (%s) waits for another transaction to end", migration.version, migration.name)
        except asyncpg.InsufficientPrivilegeError as error:
            raise MigrationError(
                f"migration {migration.version} ({migration.name}) needs a privilege that its user lacks: {error}. "
                "Migrate as the owner of the database, or grant the user CREATE on the schema."
            ) from error
        await asyncio.sleep(LOCK_PAUSE)
    raise MigrationError(
        f"migration {migration.version} ({migration.name}) waits for transactions that do not end: look for old ones "
        "in pg_stat_activity."
    )


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    """In the transaction that `connection` is in."""
    await connection.execute(migration.sql)
    await _record(connection, migration)


async def _apply_outside(connection: asyncpg.Connection, holder: asyncpg.Connection, migration: Migration) -> None:
    """In no transaction, while the one of `holder` has the lock: without a snapshot, which an index being built
    concurrently would wait for. Recorded in that one, so that it counts only if the lock was held to the end."""
    await holder.execute("select")  # The server keeps a fetched statement, and its snapshot, until the next one.
    for statement in statements(migration.sql):
        await connection.execute(statement)
    await _record(holder, migration)


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        f"insert into schema_versions (version, name) values ({migration.version}, '{migration.name}')"
    )


async def _holder(connection: asyncpg.Connection) -> Holder | None:
    """Who has the lock; None when nobody has it any more."""
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
    """Those of a migration outside a transaction, each of which ends with a semicolon at the end of a line.

    Several in one line are one: the server runs them in a transaction, where `set local` has its place.
    """
    return [statement for part in re.split(r";$", sql, flags=re.MULTILINE) if (statement := part.strip())]


@asynccontextmanager
async def _connected(dsn: str, connect_timeout: float) -> AsyncIterator[asyncpg.Connection]:
    with reaching():
        # Without cached statements: a pooler may give the next transaction another connection.
        try:
            connection = await asyncpg.connect(
                dsn,
                timeout=connect_timeout,
                command_timeout=None,
                statement_cache_size=0,
                server_settings={"application_name": "sessiond migrate"},
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            if meaning(error) is not None:
                raise
            raise DatabaseUnfit(f"no connection can be had with this DSN: {error}") from error
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
    """In a transaction: a statement outside of one is sent in two parts, which a pooler may part.

    Looks into pg_class: within a transaction to_regclass may miss a table that another one has just made.
    """
    exists = "select exists (select from pg_class where relname = 'schema_versions' and pg_table_is_visible(oid))"
    if not await connection.fetchval(exists):
        return 0
    version: int = await connection.fetchval("select coalesce(max(version), 0) from schema_versions")
    return version
