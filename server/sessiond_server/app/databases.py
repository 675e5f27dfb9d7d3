"""Brings databases into use: up to date, checked to be the right ones, and with their background tasks."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sessiond_server import counting, erasing, retiring, sweeper
from sessiond_server.app import summariser
from sessiond_server.app.background import Background
from sessiond_server.app.cache import identity
from sessiond_server.app.database import bring_up_to_date, migrated, postgres, why
from sessiond_server.app.encryption import check_keys
from sessiond_server.app.parts import Parts
from sessiond_server.blobs import reaper
from sessiond_server.domain import ids
from sessiond_server.errors import StoreUnavailable
from sessiond_server.postgres.fitness import DatabaseUnfit
from sessiond_server.postgres.placement import Claimed, Placement
from sessiond_server.rpc.server import RpcServer
from sessiond_server.search import indexer
from sessiond_server.settings import Settings
from sessiond_server.store_watch import StoreWatch
from sessiond_server.summaries.contract import Summariser

if TYPE_CHECKING:
    from sessiond_server.postgres.store import PostgresStore

_log = logging.getLogger("sessiond.databases")

OTHERS_SECONDS: Final = 10.0
"""Longest time that the start waits for databases other than the default one. Their tenants are served once they are
there."""
RETRY_SECONDS: Final = 1.0
UNFIT_SECONDS: Final = 30.0
"""Pauses before another attempt to bring a database into use that cannot be reached, or is not fit."""


class WrongDatabase(DatabaseUnfit):
    """The database is not the one that the settings take it for."""


@dataclass(slots=True)
class Group:
    """What has been found out about the databases of the settings."""

    settings: Settings
    default: str = ""
    """Identity of the default database."""
    ids: dict[str, str] = field(default_factory=dict)
    """Identity -> database id."""

    def distinct(self, database_id: str, token_key: bytes) -> str:
        """Notes the database's identity, and returns it. Raises WrongDatabase if another one has it."""
        own = identity(token_key)
        if (twin := self.ids.setdefault(own, database_id)) != database_id:
            raise WrongDatabase(
                f"the DSNs of {twin} and {database_id} lead to the same database, or to copies of one, whose sessions "
                "would be mixed up in the cache"
            )
        self.default = self.default or own
        return own

    async def check(self, store: "PostgresStore", database_id: str, token_key: bytes, *, claim: bool = True) -> None:
        """Checks that the database is the one that its id means. The first one is the default one, which with `claim`
        gets its id if it has none. Raises WrongDatabase, StoreUnavailable."""
        own = self.distinct(database_id, token_key)
        found = await store.placement()
        if self.settings.databases is None:
            if found.group_id not in ("", own):
                raise WrongDatabase(
                    f"this is the database {found.database_id} of several: name all of them with --databases"
                )
        elif database_id == self.settings.default_database and claim:
            try:
                await store.claim(database_id, own, empty=False)
            except Claimed:
                raise self.wrong(database_id, found) from None
        elif not found.database_id and database_id == self.settings.default_database:
            return  # the next server that starts makes it the default one
        elif not found.database_id:
            raise WrongDatabase(f"the database {database_id} is new: add it with: sessiond databases add {database_id}")
        elif found.database_id != database_id or (self.default and found.group_id != self.default):
            raise self.wrong(database_id, found)

    @staticmethod
    def wrong(database_id: str, found: Placement) -> WrongDatabase:
        if found.database_id != database_id:
            return WrongDatabase(
                f"the DSN of {database_id} leads to the database {found.database_id}: is it there twice, or are two "
                "DSNs swapped?"
            )
        return WrongDatabase(
            f"the database {database_id} was added to databases with another default one: set --default-database as "
            "it was then"
        )


@dataclass(slots=True)
class Opening:
    """Opens the databases of a service, and keeps trying where one cannot be reached."""

    settings: Settings
    server: RpcServer
    group: Group
    watches: dict[str, StoreWatch]
    databases: Sequence[Parts]
    summariser: Summariser | None = None
    """None: no summaries are made."""

    async def open_default(self) -> bytes:
        """Brings the default database up to date and checks it; returns its token key. Raises StoreUnavailable,
        DatabaseUnfit."""
        parts = self.databases[0]
        if self.settings.store == "postgres" and parts.dsn is not None:
            await bring_up_to_date(parts.dsn, self.settings)
        return await self._check(parts)

    async def begin(self, background: Background, token_key: bytes) -> None:
        """Starts the work on the default database, which is open, and begins to open the others.

        Returns once each is open or has failed to answer, after OTHERS_SECONDS at most. One that is not fit ends the
        service, unless that turns out later.
        """
        self._start(self.databases[0], background, token_key)
        attempts = []
        for parts in self.databases[1:]:
            attempted = asyncio.Event()
            background(self._open(parts, background, attempted), f"open-{parts.database_id}")
            attempts.append(attempted)
        try:
            async with asyncio.timeout(OTHERS_SECONDS):
                for attempted in attempts:
                    await attempted.wait()
        except TimeoutError:
            _log.warning("serving without the databases that do not answer yet")

    async def _open(self, parts: Parts, background: Background, attempted: asyncio.Event) -> None:
        logged, name = "", parts.database_id
        while True:
            try:
                assert parts.dsn is not None
                await migrated(parts.dsn, self.settings)
                token_key = await self._check(parts)
            except StoreUnavailable as error:
                problem, pause = why(error), RETRY_SECONDS
            except DatabaseUnfit as error:
                if not attempted.is_set():
                    raise
                problem, pause = str(error), UNFIT_SECONDS
            else:
                break
            if problem != logged:
                logged = problem
                _log.error("the database %r cannot be used: %s", name, problem)
            attempted.set()
            await asyncio.sleep(pause)
        self._start(parts, background, token_key)
        await self.server.open_database(parts.database_id, token_key)
        if logged:
            _log.info("the database %r can be used", name)
        attempted.set()

    async def _check(self, parts: Parts) -> bytes:
        await self.watches[parts.database_id].begin()
        token_key = await parts.truth.token_key()
        store = postgres(parts.truth)
        if store is not None:
            await self.group.check(store, parts.database_id, token_key)
            await check_keys(store)
        return token_key

    def _start(self, parts: Parts, background: Background, token_key: bytes) -> None:
        """Starts all that works on a database."""
        parts.begin(token_key)
        interval, truth = self.settings.sweep_interval, parts.truth
        background(sweeper.run(parts.commits, truth, interval, parts.swept), "sweeper")
        background(
            reaper.run(truth.attachments, parts.blobs, interval, parts.reaped, sharing=self._sharing(parts)), "reaper"
        )
        forget = parts.cached.forget_deleted if parts.cached is not None else None
        background(erasing.run(truth.erasures, parts.batcher, interval, forget), "erasures")
        background(counting.run(truth.usage, ids.uuid7(), parts.counted), "usage")
        kept_us = round(self.settings.ended_retention * 1_000_000)
        background(retiring.run(truth.retention, parts.batcher, kept_us, interval, parts.retired), "retention")
        background(self.watches[parts.database_id].run(), "health")
        if self.summariser is not None:
            background(summariser.worker(parts, self.summariser, self.settings).run(), "summaries")
        store = postgres(truth)
        if store is not None:
            if self.settings.searches:
                indexing = indexer.run(store.search_upkeep, ids.uuid7(), parts.indexing, store.search.news)
                background(indexing, "search")
            background(store.watch_feeds(), "feed-holders")
            background(store.watch_replication(), "replication")
            background(store.watch_growth(), "growth")

    def _sharing(self, parts: Parts) -> Sequence[Any] | None:
        """The other stores whose bytes are in the same storage; None if another one of them looks for orphans."""
        if self.settings.blob_store is None:
            return ()
        if parts is not self.databases[0]:
            return None
        return [other.truth.attachments for other in self.databases[1:]]
