"""Keeps the order of feeds when a dump is restored into another cluster, whose transaction ids may be lower.

Feeds are ordered by `commit_xid`: the id of the transaction that wrote an event, plus `feed_order.shift`, which is 0 in
the cluster that the database was made in. A dump restored into another cluster brings ids that the cluster has not
given out yet, so what is written next would come to stand before what is there. `settle` then raises the shift, once
for each such restore, by whole epochs of 2^32 ids: what is written from then on comes behind everything restored, and
behind whatever the old cluster wrote after the dump, of which somebody may hold a position. No position skips an event:
one within the dump goes on there; one behind its end is found out by its event, which is not there (find_lost).

Every server settles at start, before it writes, and on each new connection, which may lead to another cluster than the
one before. One that has been settled costs a look at one row.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import asyncpg

from sessiond_server.errors import StoreUnavailable

_log = logging.getLogger("sessiond.feeds")

EPOCH: Final = 2**32
"""Ids by which the order is raised. A position of the old cluster would have to be so many transactions behind the dump
to be mistaken."""

LOCK_ATTEMPTS: Final = 40
LOCK_PAUSE: Final = 0.25
"""Seconds between two attempts to keep writers out, each of which waits a second at most. Raising the order takes
milliseconds once it has the lock; a transaction that ends never would keep it from it."""

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
    """Where a database's order stands, in the cluster that it is in."""

    cluster: int | None
    """The cluster's system identifier; None where the role may not read it."""
    settled_for: int | None
    shift: int
    next: int
    """Lowest transaction id that has not been given out, before the shift."""
    newest: int | None
    """Highest commit_xid of any event; None without events."""

    @property
    def needed_shift(self) -> int:
        """The shift with which the order goes on: the present one, unless the events are another cluster's."""
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
    """The order as it stands; None on a standby, and in a database that has none yet. Reads an index entry a tenant."""
    return await _look(connection, thorough=True)


async def settle(connection: asyncpg.Connection, *, thorough: bool) -> None:
    """Makes the order go on in the cluster that the connection leads to; does nothing on a standby.

    `thorough` also looks at the events where the cluster is the one that was settled for, which finds what was restored
    into a database that was there. Raises StoreUnavailable when a transaction elsewhere keeps the lock from it.
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
            _log.warning("the order of feeds must be raised after a restore, and waits for a transaction to end")
            await asyncio.sleep(LOCK_PAUSE)
    raise StoreUnavailable from failure


async def _look(connection: asyncpg.Connection, *, thorough: bool) -> FeedOrder | None:
    # One transaction: a pooler must not spread it over servers. Each statement sees what was committed before it.
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
            # After the events were read: what they have has been given out by then.
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
    """Takes no writer's events along: all have ended, and whoever begins reads the new shift."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("set local lock_timeout = '1s'")
        # Every transaction that writes events locks heads first.
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
