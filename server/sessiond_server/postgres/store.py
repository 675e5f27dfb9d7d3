"""The store on Postgres, which holds the authoritative data. Its reads are in read.py and work_reads.py."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import asyncpg

from sessiond_server.domain import ids
from sessiond_server.domain.commands import Command
from sessiond_server.domain.log import FeedPlace
from sessiond_server.domain.rows import Head, Key, Policy, Writes
from sessiond_server.encryption.keyring import Encryption, Keyring, StoredKey
from sessiond_server.postgres import feed_order, log, placement, read, sweep, write
from sessiond_server.postgres.attachments import PostgresAttachments
from sessiond_server.postgres.connection import Connections, PooledConnection
from sessiond_server.postgres.database_clock import DatabaseClock
from sessiond_server.postgres.documents import PostgresDocuments
from sessiond_server.postgres.erasures import PostgresErasures
from sessiond_server.postgres.feed_holder import FeedHolders
from sessiond_server.postgres.forks import PostgresForks
from sessiond_server.postgres.growth import GrowthWatch
from sessiond_server.postgres.history import PostgresHistory
from sessiond_server.postgres.imports import PostgresImports
from sessiond_server.postgres.locked import LockedRows
from sessiond_server.postgres.optimistic import Mode, OptimisticWrites
from sessiond_server.postgres.replication import ReplicationWatch
from sessiond_server.postgres.retention import PostgresRetention
from sessiond_server.postgres.sealing import sealed_connections
from sessiond_server.postgres.search import PostgresSearch
from sessiond_server.postgres.search_index import PostgresSearchUpkeep
from sessiond_server.postgres.summaries import PostgresSummaryQueue
from sessiond_server.postgres.templates import PostgresTemplates
from sessiond_server.postgres.tenant_keys import PostgresKeys, one_of_each
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.postgres.usage import PostgresUsage
from sessiond_server.postgres.work_reads import PostgresWorkReads
from sessiond_server.store.commits import Applied
from sessiond_server.store.condition import StoreCondition
from sessiond_server.store.homes import Homes
from sessiond_server.store.log_reads import FeedPage, LogHeads, LogPage

T = TypeVar("T")


class PostgresStore(PostgresHistory, PostgresWorkReads):
    """Implements `store.contract.Store` on a migrated database. Use as `async with PostgresStore(dsn) as store`.

    Entering the context does not connect; `ping` checks that the database can be used. Leaving it waits for the
    transactions in progress. `dsn` may name several hosts, of which `target_session_attrs=read-write` selects the
    primary.
    """

    def __init__(
        self,
        dsn: str,
        *,
        policy: Policy | None = None,
        request_retention: timedelta = timedelta(hours=24),
        tombstone_retention: timedelta = timedelta(days=30),
        upload_retention: timedelta = timedelta(hours=24),
        max_connections: int = 10,
        connect_timeout: float = 5.0,
        optimistic: Mode = "on",
        new_id: Callable[[], str] = ids.uuid7,
        encryption: Encryption | None = None,
    ) -> None:
        """`connect_timeout` is in seconds, for each new connection. `optimistic`: whether appends are written in one
        statement where that is possible (optimistic.py). `encryption`: contents are encrypted."""
        self._policy = policy or Policy()
        self._request_retention = request_retention
        self._tombstone_retention = tombstone_retention
        self._new_id = new_id
        # Health checks have a pool of their own, so that they never wait for a connection that callers hold.
        self._probing = Connections(dsn, max_connections=1, connect_timeout=connect_timeout)
        self._probes = Transactions(self._probing)
        self.keyring: Keyring | None = None
        """The data keys of tenants, if contents are encrypted. It reads them beside the callers' connections, too."""
        connection_class = PooledConnection
        if encryption is not None:
            self.keyring = Keyring(PostgresKeys(self._probes), encryption.keks, seals=encryption.seals)
            connection_class = sealed_connections(self.keyring)
        self._connections = Connections(
            dsn,
            max_connections=max(1, max_connections - 1),
            connect_timeout=connect_timeout,
            connection_class=connection_class,
        )
        self._transactions = Transactions(self._connections, beside=self._probes)
        self._read_only = False
        """Whether the last ping found a database that was made read-only."""
        self._locked = LockedRows(self._transactions)
        self._clock = DatabaseClock()
        self._exits = AsyncExitStack()
        self.homes = Homes()
        """Where tenants live, as this database says; at most a second old while it answers pings."""
        self._optimistic = OptimisticWrites(
            self._transactions,
            self._apply_locked,
            self._clock,
            self.homes,
            self._policy,
            new_id,
            optimistic,
            self.keyring,
        )
        self.causes = self._transactions.causes
        """Causes for which the database could not be used, with their counts."""
        self._feed_holders = FeedHolders(self._transactions.fetch)
        self._replication = ReplicationWatch(self._transactions.fetch)
        self._growth = GrowthWatch(self._transactions.fetch)
        self.documents = PostgresDocuments(self._transactions)
        self.erasures = PostgresErasures(self._transactions, new_id)
        self.templates = PostgresTemplates(self._transactions, tombstone_retention)
        self.usage = PostgresUsage(self._transactions)
        self.retention = PostgresRetention(self._transactions, new_id)
        self.forks = PostgresForks(self._transactions, self.keyring)
        self.search = PostgresSearch(self._transactions)
        self.search_upkeep = PostgresSearchUpkeep(self._transactions)
        self.summary_queue = PostgresSummaryQueue(self._transactions)
        self.attachments = PostgresAttachments(self._transactions, self._policy, new_id, upload_retention)
        self.imports = PostgresImports(self._transactions, self._policy, new_id, upload_retention)

    async def __aenter__(self) -> "PostgresStore":
        await self._connections.open()
        await self._probing.open()
        if self.keyring is not None:
            await self._exits.enter_async_context(self.keyring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()
        await self._transactions.close()
        await self._probes.close()
        await asyncio.gather(self._connections.close(), self._probing.close())

    async def apply(self, commands: Sequence[Command]) -> Applied:
        if not commands:
            return Applied((), Writes())
        if self.keyring is None:
            return await self._optimistic.apply(commands)
        refused = await self.keyring.refusals({command.scope.tenant_id for command in commands})
        if not refused:
            return await self._optimistic.apply(commands)
        mine = [command for command in commands if command.scope.tenant_id not in refused]
        applied = await self._optimistic.apply(mine) if mine else Applied((), Writes())
        answers = iter(applied.results)
        results = [refused.get(command.scope.tenant_id) or next(answers) for command in commands]
        return Applied(results, applied.writes)

    async def _apply_locked(self, commands: Sequence[Command]) -> Applied:
        async def work(
            connection: asyncpg.Connection, commands: Sequence[Command], heads: Mapping[Key, Head]
        ) -> Applied:
            return await write.apply(connection, commands, heads, self._policy, self._new_id, self.homes, self._clock)

        return await self._locked.run(commands, work)

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        return await log.heads(self._transactions, keys)

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        return await log.page(self._transactions, key, after_seq, limit)

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        return await self._in_order(lambda: log.feed(self._transactions, tenant_id, after, limit))

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        return await self._in_order(lambda: log.feed_end(self._transactions, tenant_id))

    async def find_lost(self, tenant_id: str, anchors: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        return await log.find_lost(self._transactions, tenant_id, anchors, self._tombstone_retention)

    async def expire_due(self, limit: int) -> Writes:
        closed = () if self.keyring is None else self.keyring.closed()
        ended = await sweep.expire_due(self._transactions, limit, self._policy, self._new_id, closed)
        self._optimistic.learn(ended)
        return ended

    async def purge(self, limit: int) -> int:
        purged = await sweep.purge(self._transactions, limit, self._request_retention, self._tombstone_retention)
        return purged + await self.imports.purge_imports(limit) + await self.templates.purge_templates(limit)

    async def token_key(self) -> bytes:
        key: bytes = (await self._transactions.fetch(read.TOKEN_KEY))[0][0]
        return key

    async def _in_order(self, read: Callable[[], Awaitable[T]]) -> T:
        """Returns what `read` returns. If the order of feeds is not settled after a restore, settles it and reads
        again."""
        try:
            return await read()
        except log.RestoredFromDump:
            await self._transactions.use(lambda connection: feed_order.settle(connection, thorough=True))
        return await read()

    async def ping(self) -> None:
        asked = time.monotonic()
        rows = await self._probes.fetch(read.PING)
        # A connection keeps the default_transaction_read_only that it began with. While the database is read-only, each
        # ping uses a new connection; once the database accepts writes again, all other connections are replaced.
        was_read_only, self._read_only = self._read_only, rows[0][1]
        if self._read_only:
            await self._probing.renew()
        elif was_read_only:
            await self._connections.renew()
        read.check_primary(rows)
        if rows[0][2] != self.homes.version:
            await placement.load(self._probes.fetch, self.homes)
        self.homes.confirm(asked)

    async def placement(self) -> placement.Placement:
        """Which database this is. Also brings `homes` up to date."""
        await placement.load(self._probes.fetch, self.homes)
        return await placement.read(self._probes.fetch)

    async def keys_in_use(self) -> Sequence[StoredKey]:
        """A data key for each key-encryption key that contents depend on, or depended on."""
        return await one_of_each(self._probes.fetch)

    @property
    def unopened(self) -> Transactions:
        """Transactions that open nothing that is encrypted, for work on keys and on encrypted bytes themselves."""
        return self._probes

    async def claim(self, database_id: str, group_id: str, *, empty: bool) -> None:
        """See placement.claim. Raises StoreUnavailable too."""
        await self._probes.use(lambda connection: placement.claim(connection, database_id, group_id, empty=empty))
        await placement.load(self._probes.fetch, self.homes)

    def condition(self) -> StoreCondition:
        """See `Store.condition`. Reads plain numbers only, so any thread may call it."""
        connections = self._connections
        return StoreCondition(
            self.causes.counts.copy(),
            connections.given_up,
            self._feed_holders.holder,
            connections.pool(),
            self._replication.found,
            self._growth.found,
            self._optimistic.counts,
        )

    async def watch_feeds(self) -> None:
        """Reports, in the log and in `condition`, which transaction holds feeds back. Runs until cancelled."""
        await self._feed_holders.run()

    async def watch_replication(self) -> None:
        """Keeps the replication in `condition` up to date. Runs until cancelled."""
        await self._replication.run()

    async def watch_growth(self) -> None:
        """Keeps the sizes of tables in `condition` up to date. Runs until cancelled."""
        await self._growth.run()
