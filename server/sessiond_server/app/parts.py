"""The parts behind the wire, opened in order in one stack and closed in reverse.

bundled servers -> store -> storage of attachments -> bus -> hub -> announced commits -> cache -> batcher
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sessiond_server.app import limits
from sessiond_server.app.blobs import opened_blobs
from sessiond_server.app.bus import opened_bus
from sessiond_server.app.cache import database_id, opened_cache
from sessiond_server.app.database import bundled, opened_store, revealed
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.traced import TracedBlobs
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.embedded import EmbeddedServers
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Bus
from sessiond_server.events.hub import EventHub
from sessiond_server.redis import RedisCache
from sessiond_server.settings import Settings
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.cached.traced import TracedCache
from sessiond_server.store.commits import Commits
from sessiond_server.store.session_reads import SessionReads
from sessiond_server.store.write_spans import TracedCommits

if TYPE_CHECKING:
    from sessiond_server.memory.store import MemoryStore
    from sessiond_server.postgres.store import PostgresStore


@dataclass(frozen=True, slots=True)
class Parts:
    """All parts behind the wire. Bus and cache are idle until `begin`."""

    embedded: EmbeddedServers | None
    dsn: str | None
    """Attributes of the database; None for the memory store."""
    truth: "MemoryStore | PostgresStore"
    """The store itself, without cache and announcements."""
    blobs: BlobStore
    attachments: AttachmentAccess
    bus: Bus
    hub: EventHub
    commits: Commits
    """Commits, wrapped by the announcements and, if there is one, by the cache."""
    sessions: SessionReads
    """Session reads, wrapped by the cache if there is one."""
    cache: RedisCache | None
    cached: CachedSessions | None
    """None without a cache."""
    batcher: Batcher
    begin_bus: Callable[[str], None]

    def begin(self, token_key: bytes) -> None:
        """Channels and keys of the bus and the cache carry the id of the database, which `token_key` tells."""
        prefix = f"sessiond:{database_id(token_key)}:"
        self.begin_bus(prefix)
        if self.cache is not None:
            self.cache.begin(prefix)


@asynccontextmanager
async def opened_parts(settings: Settings, alone: Callable[[], bool], *, traced: bool = False) -> AsyncIterator[Parts]:
    """Opens the parts while the context is open. The database need not be reachable yet. Raises SettingError,
    EmbeddedError.

    `alone` returns whether there is only one tenant, which then need not leave room for others. `traced`: what the
    parts do for traced calls has spans.
    """
    async with AsyncExitStack() as stack:
        embedded = None
        if settings.embedded:
            embedded = await stack.enter_async_context(bundled(settings, cache=settings.redis_url is None))
        dsn = embedded.postgres_dsn if embedded else revealed(settings.postgres_dsn)
        truth = await stack.enter_async_context(opened_store(settings, dsn))
        blobs = await stack.enter_async_context(opened_blobs(settings, dsn))
        if traced:
            blobs = TracedBlobs(blobs)
        uploads = await stack.enter_async_context(Uploads(truth.attachments, blobs))
        attachments = AttachmentAccess(truth.attachments, uploads, Downloads(truth.attachments, blobs))
        redis_url = embedded.redis_url if embedded and settings.redis_url is None else revealed(settings.redis_url)
        bus, begin_bus = await stack.enter_async_context(opened_bus(settings, dsn, redis_url))
        hub = await stack.enter_async_context(EventHub(truth, bus, limits.hub(settings), alone=alone))
        database = "postgresql" if settings.store == "postgres" else settings.store
        committed: Commits = TracedCommits(truth, database) if traced else truth
        commits: Commits = AnnouncedCommits(committed, Announcer(hub, bus))
        sessions: SessionReads = truth
        cache = await stack.enter_async_context(opened_cache(settings, redis_url))
        cached = None
        if cache is not None:
            used = TracedCache(cache) if traced else cache
            commits = sessions = cached = await stack.enter_async_context(CachedSessions(commits, truth, used))
        batcher = await stack.enter_async_context(
            Batcher(commits, limits.batcher(settings), alone=alone, traced=traced)
        )
        yield Parts(
            embedded=embedded,
            dsn=dsn,
            truth=truth,
            blobs=blobs,
            attachments=attachments,
            bus=bus,
            hub=hub,
            commits=commits,
            sessions=sessions,
            cache=cache,
            cached=cached,
            batcher=batcher,
            begin_bus=begin_bus,
        )
