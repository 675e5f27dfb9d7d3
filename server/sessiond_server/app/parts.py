"""The parts behind the wire, opened in order in one stack and closed in reverse.

bundled servers -> for each database:
    store -> storage of attachments -> bus -> hub -> announced commits -> cache -> branches -> batcher
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sessiond_server import counting, retiring, sweeper
from sessiond_server.app import limits
from sessiond_server.app.blobs import opened_blobs
from sessiond_server.app.bundled import bundled
from sessiond_server.app.bus import opened_bus
from sessiond_server.app.cache import identity, opened_cache
from sessiond_server.app.database import dsn_of, opened_store, postgres, revealed
from sessiond_server.blobs import reaper
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.traced import TracedBlobs
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.domain import ids
from sessiond_server.domain.shares import Shares
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.encryption.cache import SealedCache
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Bus
from sessiond_server.events.hub import EventHub
from sessiond_server.exports.receiving import Imports
from sessiond_server.measures import Rounds
from sessiond_server.rpc.routing import Database, Reads
from sessiond_server.search.indexer import Indexing
from sessiond_server.settings import Settings
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.branches import BranchedCommits
from sessiond_server.store.cached.contract import Cache
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.cached.traced import TracedCache
from sessiond_server.store.commits import Commits
from sessiond_server.store.session_reads import SessionReads
from sessiond_server.store.write_spans import TracedCommits
from sessiond_server.summaries.worker import Summarising

if TYPE_CHECKING:
    from sessiond_server.memory.store import MemoryStore
    from sessiond_server.postgres.store import PostgresStore
    from sessiond_server.redis import RedisCache


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts of one database. Bus and cache are idle until `begin`."""

    database_id: str
    dsn: str | None
    """None for the memory store."""
    truth: "MemoryStore | PostgresStore"
    """The store itself, without cache and announcements."""
    blobs: BlobStore
    attachments: AttachmentAccess
    imports: Imports
    bus: Bus
    hub: EventHub
    commits: Commits
    """Commits, wrapped by the announcements, by the cache, if there is one, and by the branches."""
    sessions: SessionReads
    """Session reads, wrapped by the cache if there is one."""
    cache: "RedisCache | None"
    cached: CachedSessions | None
    """None without a cache."""
    batcher: Batcher
    begin_bus: Callable[[str], None]
    searches: bool
    """Whether search is switched on."""
    summarises: bool
    """Whether there is a summariser."""
    swept: Rounds = field(default_factory=sweeper.counted)
    retired: Rounds = field(default_factory=retiring.counted)
    reaped: Rounds = field(default_factory=reaper.counted)
    counted: Rounds = field(default_factory=counting.counted)
    indexing: Indexing = field(default_factory=Indexing)
    summarising: Summarising = field(default_factory=Summarising)

    def begin(self, token_key: bytes) -> None:
        """Channels and keys of the bus and the cache carry the identity of the database, which `token_key` tells."""
        prefix = f"sessiond:{identity(token_key)}:"
        self.begin_bus(prefix)
        if self.cache is not None:
            self.cache.begin(prefix)

    def serving(self) -> Database:
        """What the wire needs of them."""
        truth = self.truth
        search = truth.search if self.searches else None
        summaries = truth.summary_queue if self.summarises else None
        reads = Reads(
            sessions=self.sessions,
            queries=truth,
            history=truth,
            logs=truth,
            work=truth,
            documents=truth.documents,
            forks=truth.forks,
            erasures=truth.erasures,
            retention=truth.retention,
            usage=truth.usage,
            templates=truth.templates,
            search=search,
            summaries=summaries,
        )
        return Database(
            self.database_id, reads, self.batcher, self.hub, self.bus, self.attachments, self.imports, truth.homes
        )


@dataclass(frozen=True, slots=True)
class AllParts:
    """The parts of all databases, the default one first."""

    embedded: EmbeddedServers | None
    databases: Sequence[Parts]


@asynccontextmanager
async def opened_parts(
    settings: Settings, alone: Callable[[], bool], *, traced: bool = False
) -> AsyncIterator[AllParts]:
    """Opens the parts while the context is open. The databases need not be reachable yet. Raises SettingError,
    EmbeddedError.

    `alone` returns whether there is only one tenant, which then need not leave room for others. `traced`: what the
    parts do for traced calls has spans.
    """
    async with AsyncExitStack() as stack:
        embedded = None
        if settings.embedded:
            embedded = await stack.enter_async_context(bundled(settings, cache=settings.redis_url is None))
        redis_url = embedded.redis_url if embedded and settings.redis_url is None else revealed(settings.redis_url)
        streams = Shares(settings.watchers, alone=alone)
        databases = []
        for database_id in settings.database_ids:
            dsn = embedded.postgres_dsn if embedded else dsn_of(settings, database_id)
            opened = _opened(settings, database_id, dsn, redis_url, streams, alone, traced=traced)
            databases.append(await stack.enter_async_context(opened))
        yield AllParts(embedded, databases)


@asynccontextmanager
async def _opened(
    settings: Settings,
    database_id: str,
    dsn: str | None,
    redis_url: str | None,
    streams: Shares,
    alone: Callable[[], bool],
    *,
    traced: bool,
) -> AsyncIterator[Parts]:
    """The parts of one database. `streams`: places of the watchers of all databases."""
    async with AsyncExitStack() as stack:
        truth = await stack.enter_async_context(opened_store(settings, dsn))
        blobs = await stack.enter_async_context(opened_blobs(settings, dsn))
        store = postgres(truth)
        keyring, piece_id = None if store is None else store.keyring, ids.uuid7
        if keyring is not None:
            from sessiond_server.encryption.blobs import SealedBlobs, sealed_id

            blobs = SealedBlobs(blobs, keyring)
            piece_id = sealed_id(ids.uuid7) if keyring.seals else ids.uuid7
        if traced:
            blobs = TracedBlobs(blobs)
        uploads = await stack.enter_async_context(Uploads(truth.attachments, blobs, new_id=piece_id))
        attachments = AttachmentAccess(truth.attachments, uploads, Downloads(truth.attachments, blobs))
        bus, begin_bus = await stack.enter_async_context(opened_bus(settings, dsn, redis_url))
        hub = EventHub(truth, bus, limits.hub(settings), alone=alone, streams=streams)
        await stack.enter_async_context(hub)
        announcer = Announcer(hub, bus)
        imports = await stack.enter_async_context(
            Imports(truth.imports, truth, truth, blobs, announcer, limits.policy(settings), new_id=piece_id)
        )
        database = "postgresql" if settings.store == "postgres" else settings.store
        committed: Commits = TracedCommits(truth, database) if traced else truth
        commits: Commits = AnnouncedCommits(committed, announcer)
        sessions: SessionReads = truth
        cache = await stack.enter_async_context(opened_cache(settings, redis_url))
        cached = None
        if cache is not None:
            used: Cache = cache if keyring is None else SealedCache(cache, keyring)
            if traced:
                used = TracedCache(used)
            commits = sessions = cached = await stack.enter_async_context(CachedSessions(commits, truth, used))
        commits = BranchedCommits(commits, truth.forks)
        batcher = await stack.enter_async_context(
            Batcher(commits, limits.batcher(settings), alone=alone, traced=traced)
        )
        yield Parts(
            database_id=database_id,
            dsn=dsn,
            truth=truth,
            blobs=blobs,
            attachments=attachments,
            imports=imports,
            bus=bus,
            hub=hub,
            commits=commits,
            sessions=sessions,
            cache=cache,
            cached=cached,
            batcher=batcher,
            begin_bus=begin_bus,
            searches=settings.searches,
            summarises=settings.summarises,
        )
