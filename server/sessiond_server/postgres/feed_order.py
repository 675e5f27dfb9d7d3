"""Keeps the order of feeds when a dump is restored into another cluster, whose transaction ids may be lower.

Feeds are ordered by `commit_xid`: the id of the transaction that wrote an event, plus `feed_order.shift`, which is 0 in
the cluster in which the database was created. A dump restored into another cluster brings ids that this cluster has not
assigned yet, so new events would be ordered before the restored ones. `settle` then raises the shift, once per such
restore, by whole epochs of 2^32 ids. After that, new events follow everything restored, and also everything that the
old cluster wrote after the dump, to which subscribers may hold positions. No position skips an event: a position within
the dump continues there, and a position after its end is detected because its event is missing (find_lost).

Every server settles the order at start, before it writes, and on each new connection, which may lead to another
cluster than the previous one. Where the order is settled, this reads a single row.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import asyncpg

from sessiond_server.errors import StoreUnavailable

_log = logging.getLogger("sessiond.feeds")

EPOCH: Final = 2**32
"""Ids by which the shift is raised. The old cluster would have to write this many transactions after the dump before a
position of it could be mistaken for one of the new cluster."""

LOCK_ATTEMPTS: Final = 40
LOCK_PAUSE: Final = 0.25
"""Seconds between two attempts to lock writers out, each of which waits for at most a second. With the lock, raising
the shift takes milliseconds; a transaction that never ends prevents the lock."""

_FIND: Final = """
select pg_is_in_recovery() as standby, to_regclass('feed_order') is not null as known,
  has_function_privilege('pg_control_system()', 'execute') as may_identify
"""
_IDENTITY: Final = "select system_identifier from pg_control_system()"
_ORDER: Final = """
select cluster, shift, pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next from feed_order
"""
# One probe of the index events_feed for each tenant: its last event.
_NEWEST: Final = """
with recursive ends as (
  (
    select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid::text::bigint as newest from events e
    order by e.tenant_id collate "POSIX" desc, e.commit_xid desc
    limit 1
  )
  union all
  select before.tenant_id, before.newest
  from ends
  cross join lateral (
    select e.tenant_id collate "POSIX" as tenant_id, e.commit_xid::text::bigint as newest from events e
    where e.tenant_id collate "POSIX" < ends.tenant_id
    order by e.tenant_id collate "POSIX" desc, e.commit_xid desc
    limit 1
  ) before
)
select max(newest) from ends
"""


@dataclass(frozen=True, slots=True)
class FeedOrder:
    """State of a database's feed order in its present cluster."""

    cluster: int | None
    """The cluster's system identifier; None if the role may not read it."""
    settled_for: int | None
    shift: int
    next: int
    """Lowest transaction id that is not assigned yet, without the shift."""
    newest: int | None
    """Highest commit_xid of any event; None without events."""

    @property
    def needed_shift(self) -> int:
        """The shift that new events need: the present one, unless existing events come from another cluster."""
        if self.newest is None:
            return self.shift
        moved = self.settled_for is not None and self.cluster is not None and self.settled_for != self.cluster
        if self.newest < self.next + self.shift and not moved:
            return self.shift
        missing = self.newest + EPOCH - (self.next + self.shift)
        return self.shift + max(0, -(-missing // EPOCH)) * EPOCH

    @property
    def settled(self) -> bool:
        return self.cluster in (None, self.settled_for) and self.needed_shift == self.shift


async def look(connection: asyncpg.Connection) -> FeedOrder | None:
    """The state of the order; None on a standby and before the schema has it. Reads one index entry per tenant."""
    return await _look(connection, thorough=True)


async def settle(connection: asyncpg.Connection, *, thorough: bool) -> None:
    """Raises the shift if the connection's cluster needs it, and records the cluster; does nothing on a standby.

    `thorough` also checks the events if the cluster is the recorded one, which detects a restore into an existing
    database. Raises StoreUnavailable if another transaction holds the lock for too long.
    """
    for _ in range(LOCK_ATTEMPTS):
        order = await _look(connection, thorough=thorough)
        if order is None or order.settled:
            return
        if order.needed_shift == order.shift:
            await _record(connection, order)
            return
        try:
            await _raise(connection, order)
        except asyncpg.LockNotAvailableError as error:
            failure = error
            _log.warning("the order of feeds must be raised after a restore; waiting for a transaction to end")
            await asyncio.sleep(LOCK_PAUSE)
    raise StoreUnavailable from failure


async def _look(connection: asyncpg.Connection, *, thorough: bool) -> FeedOrder | None:
    # One transaction, so that a pooler uses one server. Read committed: each statement sees the commits before it.
    async with connection.transaction(isolation="read_committed"):
        standby, known, may_identify = await connection.fetchrow(_FIND)
        if standby or not known:
            return None
        cluster = await connection.fetchval(_IDENTITY) if may_identify else None
        row = await connection.fetchrow(_ORDER)
        if row is None:
            raise RuntimeError("the table feed_order has lost its row: restore it with the shift of a backup")
        newest = None
        if thorough or row["cluster"] != cluster:
            newest = await connection.fetchval(_NEWEST)
            # Read again after the events, so that `next` is above the ids of all events that were read.
            row = await connection.fetchrow(_ORDER)
        return FeedOrder(cluster, row["cluster"], row["shift"], row["next"], newest)


async def _record(connection: asyncpg.Connection, order: FeedOrder) -> None:
    await connection.execute(
        "update feed_order set cluster = $1 where cluster is not distinct from $2 and shift = $3",
        order.cluster,
        order.settled_for,
        order.shift,
    )


async def _raise(connection: asyncpg.Connection, found: FeedOrder) -> None:
    """Raises the shift while no transaction writes: all writers have ended, and new ones read the new shift."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("set local lock_timeout = '1s'")
        # Every transaction that writes events locks heads first, so this lock keeps all writers out.
        await connection.execute("lock table session_heads in exclusive mode")
        shift = await connection.fetchval(
            "update feed_order set cluster = $1, shift = $2 where cluster is not distinct from $3 and shift = $4 "
            "returning shift",
            found.cluster,
            found.needed_shift,
            found.settled_for,
            found.shift,
        )
    if shift is not None:
        _log.warning(
            "the database was restored from a dump into another cluster: its feeds go on %d epochs of transaction ids "
            "later",
            (shift - found.shift) // EPOCH,
        )
