"""Replicates a tenant's rows: a publication with a row filter, a slot, and a subscription that copies and follows."""

import asyncio
import hashlib
import uuid
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from sessiond_server.postgres.moving.conditions import End
from sessiond_server.postgres.moving.record import Move, MoveRefused
from sessiond_server.postgres.schema.tables import UNMOVED
from sessiond_server.postgres.statements import MOVING

TABLES = MOVING["tables"].text
TABLES_STATE = MOVING["tables_state"].text
LAG = MOVING["lag"].text
MARK = MOVING["mark"].text
HAS_MARK = MOVING["has_mark"].text
TABLE_SLOTS = MOVING["table_slots"].text
END_SENDERS = MOVING["end_senders"].text
DROP_SLOTS = MOVING["drop_slots"].text

POLL: Final = 0.01
"""Seconds between two looks for a mark at the target."""
RELEASE_SECONDS: Final = 20.0
"""Longest wait until the processes of the source's server that send from a slot have ended."""

_LIBPQ: Final = frozenset({
    "host", "hostaddr", "port", "user", "password", "passfile", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey",
    "sslcrl", "sslpassword", "target_session_attrs", "connect_timeout", "channel_binding", "krbsrvname", "gsslib",
    "options",
})  # fmt: skip
"""What libpq takes of a DSN. asyncpg takes other names as settings of the session, such as search_path."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the copy is."""

    tables: int
    ready: int
    """How many of the tables are copied."""
    copying: str
    """Names of the tables that are being copied, of which `rows` and `bytes` have been."""
    rows: int
    bytes: int
    lag_bytes: int
    """Of the source's log, of all tenants, that the target has not confirmed."""

    @property
    def copied(self) -> bool:
        return self.tables == self.ready > 0


def name_of(move: Move) -> str:
    """The name of publication, slot and subscription. Slots are known to a whole server, so it names the databases."""
    digest = hashlib.sha256("\n".join((move.tenant_id, move.source_id, move.target_id)).encode()).hexdigest()
    return f"sessiond_move_{digest[:20]}"


def libpq(dsn: str) -> str:
    """The DSN for a Postgres server that connects to it."""
    parts = urlsplit(dsn)
    words = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name in _LIBPQ]
    return urlunsplit(parts._replace(query=urlencode([*words, ("application_name", "sessiond_move")])))


async def tables(connection: asyncpg.Connection) -> list[str]:
    """The tables whose rows go with a tenant."""
    return [row[0] for row in await connection.fetch(TABLES, list(UNMOVED))]


async def begin(move: Move, source: End, target: End) -> None:
    """Publication, slot and subscription, each unless it is there. Raises MoveRefused if the target's server cannot use
    the source, and asyncpg's errors."""
    name = name_of(move)
    if not await source.connection.fetchval("select exists (select from pg_publication where pubname = $1)", name):
        literal = await source.connection.fetchval("select quote_literal($1::text)", move.tenant_id)
        rows = ", ".join(f"{table} where (tenant_id = {literal})" for table in await tables(source.connection))
        await source.connection.execute(f"create publication {name} for table {rows}")
    if not await source.connection.fetchval(
        "select exists (select from pg_replication_slots where slot_name = $1)", name
    ):
        # A subscription that made it itself would wait for itself if both databases are on one server.
        await source.connection.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", name)
    if not await subscribed(move, target):
        literal = await target.connection.fetchval("select quote_literal($1::text)", libpq(source.dsn))
        try:
            await target.connection.execute(
                f"create subscription {name} connection {literal} publication {name} "
                f"with (create_slot = false, slot_name = '{name}', synchronous_commit = 'on')"
            )
        except (asyncpg.ConnectionFailureError, asyncpg.InsufficientPrivilegeError) as error:
            raise MoveRefused(f"the server of {target.id} cannot subscribe to {source.id}: {error}") from error


async def subscribed(move: Move, target: End) -> bool:
    """Whether the subscription is there."""
    found: bool = await target.connection.fetchval(
        "select exists (select from pg_subscription where subname = $1 and subdbid = "
        "(select oid from pg_database where datname = current_database()))",
        name_of(move),
    )
    return found


async def progress(move: Move, source: End, target: End) -> Progress:
    """Raises MoveRefused if the source has removed log that the copy needs."""
    name = name_of(move)
    state = await target.connection.fetchrow(TABLES_STATE, name)
    lag = await source.connection.fetchrow(LAG, name)
    if lag is None or lag["lost"]:
        raise MoveRefused(
            f"the server of {source.id} has removed log that the copy needs (max_slot_wal_keep_size): abort the move, "
            "raise that setting, and move again"
        )
    return Progress(
        state["all"], state["ready"], state["names"], state["rows"], state["bytes"], max(0, lag["bytes"] or 0)
    )


async def set_mark(source: asyncpg.Connection, tenant_id: str) -> uuid.UUID:
    """Marks the present end of the source's log, in the transaction of the connection if it has one."""
    mark = uuid.uuid4()
    await source.execute(MARK, tenant_id, mark)
    return mark


async def arrived(target: asyncpg.Connection, tenant_id: str, mark: uuid.UUID, seconds: float) -> bool:
    """Whether the target has everything that was committed before the mark; waits `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            while not await target.fetchval(HAS_MARK, tenant_id, mark):  # noqa: ASYNC110  another server's state
                await asyncio.sleep(POLL)
    except TimeoutError:
        return False
    return True


async def end(move: Move, source: End, target: End) -> None:
    """Removes subscription, slots and publication, as far as they are there. Nothing is replicated from then on."""
    name = name_of(move)
    # Read first: once the subscription is gone, nothing tells which slots at the source were those of its tables.
    prefix_and_suffix = await target.connection.fetchrow(TABLE_SLOTS, name)
    if prefix_and_suffix is not None:
        await target.connection.execute(f"alter subscription {name} disable")
        await _drop_slots(source.connection, name, *prefix_and_suffix)
        # Without its slot, a subscription is removed even if the source cannot be reached from there.
        await target.connection.execute(f"alter subscription {name} set (slot_name = none)")
        await target.connection.execute(f"drop subscription {name}")
        # Again: until then, a worker may have begun with another table.
        await _drop_slots(source.connection, name, *prefix_and_suffix)
    await release(move, source)


async def release(move: Move, source: End) -> None:
    """Removes slot and publication at the source, as far as they are there, also while the target uses them."""
    await _drop_slots(source.connection, name_of(move))
    await source.connection.execute(f"drop publication if exists {name_of(move)}")


async def _drop_slots(source: asyncpg.Connection, name: str, prefix: str = "", suffix: str = "") -> None:
    """Drops the slot of this name, and with `prefix` those of single tables. Ends the connections that use them."""
    until = asyncio.get_running_loop().time() + RELEASE_SECONDS
    while True:
        try:
            await source.execute(END_SENDERS, name, prefix, suffix)
            await source.execute(DROP_SLOTS, name, prefix, suffix)
            return
        except asyncpg.ObjectInUseError:
            if asyncio.get_running_loop().time() >= until:
                raise
            await asyncio.sleep(10 * POLL)
