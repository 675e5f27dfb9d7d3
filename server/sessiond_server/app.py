"""The composition: what `sessiond serve` is made of, opened in order in one stack, closed in reverse.

    bundled servers -> store -> blobs -> bus -> hub -> announced commits -> cache -> batcher -> metrics
    -> wire, refusing calls -> schema -> background tasks -> wire, serving

The only place that knows all parts.
"""

import asyncio
import hashlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from sessiond_server import auth, failpoints, metrics, sweeper, tasks
from sessiond_server.blobs import reaper
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.domain.rows import Policy
from sessiond_server.embedded import EmbeddedServers, running_dsn
from sessiond_server.errors import StorageUnavailable, StoreUnavailable
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.bus import Bus
from sessiond_server.events.combined_bus import CombinedBus
from sessiond_server.events.hub import EventHub
from sessiond_server.events.limits import HubLimits
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.redis import RedisCache
from sessiond_server.redis.bus import RedisBus
from sessiond_server.reloading import Look, Reloaded, Reloader, look
from sessiond_server.rpc.server import Reads, RpcServer, WireSettings
from sessiond_server.rpc.tls import Certificates, TlsFiles, TlsInvalid
from sessiond_server.settings import (
    Address,
    SecretUrl,
    SettingError,
    Settings,
    keys_in_the_clear,
    refuse_open_network,
)
from sessiond_server.store.announcing import AnnouncedCommits
from sessiond_server.store.batcher import Batcher
from sessiond_server.store.batching import BatchLimits
from sessiond_server.store.cached.contract import CacheLimits as CacheLimits
from sessiond_server.store.cached.store import CachedSessions
from sessiond_server.store.commits import Commits
from sessiond_server.store.session_reads import SessionReads
from sessiond_server.store_watch import PING_PAUSE, StoreWatch

_log = logging.getLogger("sessiond.app")

OUTAGE_AT_START: Final = 30.0
"""Seconds that a Postgres which cannot be reached is waited for: containers start in any order."""
EXPIRY_PAUSE: Final = 1.0
"""Seconds between two looks for keys that have expired."""
BLOBS_SECONDS: Final = 10.0
"""That the storage of attachments has for an answer to the first question."""
_MICROSECOND: Final = 1_000_000

if TYPE_CHECKING:
    from sessiond_server.memory.store import MemoryStore
    from sessiond_server.postgres.store import PostgresStore


@dataclass(frozen=True, slots=True)
class Service:
    """A server that is up, as the operator needs to know it."""

    settings: Settings
    listening: Address
    embedded: EmbeddedServers | None
    keys: int
    """0: no keys are needed."""
    metrics: Address | None
    """Where they are served."""


class CannotListen(Exception):
    """The address is another process's, or not this machine's."""

    def __init__(self, address: Address, flag: str) -> None:
        super().__init__(
            f"cannot listen on {address}: it is taken, or not an address of this machine.\n"
            f"  Choose another one with {flag}; port 0 takes any free one"
        )


class CannotReachBlobs(Exception):
    """The storage of attachments does not answer, or not as it should."""

    def __init__(self, url: SecretUrl, why: str) -> None:
        super().__init__(
            f"the storage of attachments cannot be reached at {url}: {why}.\n"
            "  Uploads and downloads are refused until it can; all else works. Check --blob-store and its credentials"
        )


async def serve(settings: Settings, announce: Callable[[Service], None]) -> None:
    """Serves until SIGTERM or SIGINT, then stops in grace. `announce` is called once calls are being answered.

    A second signal ends the process at once; the bundled servers then shut down by themselves. Raises SettingError,
    EmbeddedError, KeysFileInvalid, CannotListen, OSError (a file), StoreUnavailable and MigrationError; all is closed
    then.
    """
    stop = _Signals()
    try:
        async with running(settings, stop.reload) as service:
            announce(service)
            await stop.asked()
            _log.info("stopping: calls under way have %g s to finish", settings.grace)
    except asyncio.CancelledError:
        if not stop.is_asked:
            raise
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        stop.close()


@asynccontextmanager
async def running(settings: Settings, reload: asyncio.Event | None = None) -> AsyncIterator[Service]:
    """The whole service, answering calls while the context is open. Errors as `serve`.

    `reload`: once set, keys and certificates are read again, changed or not; it is cleared then.
    """
    refuse_open_network(settings)
    if warning := keys_in_the_clear(settings):
        _log.warning("%s", warning)
    failpoints.arm(settings.failpoints)
    tls = tls_files(settings)
    began = look([*filter(None, (settings.keys_file,)), *(tls.paths if tls else ())])
    keys = auth.load_keys(settings.keys_file) if settings.keys_file else {}
    certificates = None if tls is None else Certificates(tls.read())
    # Only loopback can reach a port that listens there: no need to look at each caller's address.
    open_to_all = settings.allow_unauthenticated_network or settings.listen.loopback
    authenticator = auth.Authenticator(keys, open_to_all=open_to_all)
    async with AsyncExitStack() as stack:
        embedded = None
        if settings.embedded:
            embedded = await stack.enter_async_context(bundled(settings, cache=settings.redis_url is None))
        dsn = embedded.postgres_dsn if embedded else revealed(settings.postgres_dsn)
        truth = await stack.enter_async_context(opened_store(settings, dsn))
        blobs = await stack.enter_async_context(opened_blobs(settings, dsn))
        uploads = await stack.enter_async_context(Uploads(truth.attachments, blobs))
        files = AttachmentAccess(truth.attachments, uploads, Downloads(truth.attachments, blobs))
        redis_url = embedded.redis_url if embedded and settings.redis_url is None else revealed(settings.redis_url)
        bus, begin_bus = await stack.enter_async_context(_opened_bus(settings, dsn, redis_url))
        hub = await stack.enter_async_context(EventHub(truth, bus, _event_limits(settings), alone=authenticator.alone))
        commits: Commits = AnnouncedCommits(truth, Announcer(hub, bus))
        sessions: SessionReads = truth
        cache = await stack.enter_async_context(_opened_cache(settings, redis_url))
        cached = None
        if cache is not None:
            commits = sessions = cached = await stack.enter_async_context(CachedSessions(commits, truth, cache))
        batcher = await stack.enter_async_context(Batcher(commits, _limits(settings), alone=authenticator.alone))
        reads = Reads(sessions, truth, truth, truth)
        server = RpcServer(reads, batcher, hub, bus, files, authenticator, _wire(settings, certificates))
        watch = StoreWatch(truth, server.set_serving, batcher.stalled)
        stack.enter_context(_observed(watch))
        postgres = _postgres(truth)
        sources = metrics.Sources(
            version=version("sessiond"),
            calls=lambda: server.call_metrics,
            refused_calls=lambda: server.refused_calls,
            calls_in_progress=lambda: server.calls,
            hub=hub.state,
            writes=batcher.state,
            cache=cached.state if cached is not None else None,
            store_reachable=lambda: watch.reachable,
            store=postgres.condition if postgres is not None else None,
        )
        metrics_listening = await stack.enter_async_context(_opened_metrics(settings.metrics_listen, sources))
        stack.push_async_callback(server.stop)
        try:
            port = await server.start()
        except RuntimeError as error:
            raise CannotListen(settings.listen, "--listen") from error
        if settings.store == "postgres" and dsn is not None:
            await _bring_up_to_date(dsn, settings)
        await watch.begin()
        token_key = await truth.token_key()
        prefix = f"sessiond:{_database_id(token_key)}:"
        begin_bus(prefix)
        if cache is not None:
            cache.begin(prefix)
        background = await stack.enter_async_context(_background())
        background(sweeper.run(commits, truth, settings.sweep_interval), "sweeper")
        background(reaper.run(truth.attachments, blobs, settings.sweep_interval), "reaper")
        background(watch.run(), "health")
        if settings.blob_store is not None:
            background(_say_whether_reachable(blobs, settings.blob_store), "blob-store")
        if postgres is not None:
            background(postgres.watch_feeds(), "feed-holders")
        reloader = Reloader(_reloaded(settings, authenticator, certificates, server, began), reload)
        background(reloader.run(), "reloader")
        background(_expire_keys(authenticator, server), "key-expiry")
        if cache is not None:
            await server.set_cache(cache.ready)
            background(_watch_cache(cache, server), "cache-health")
        if embedded:
            background(embedded.keep_running(), "bundled-servers")
        await server.open(token_key)
        yield Service(settings, Address(settings.listen.host, port), embedded, len(keys), metrics_listening)


def tls_files(settings: Settings) -> TlsFiles | None:
    """Where the certificates lie; None without TLS."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return TlsFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def _reloaded(
    settings: Settings,
    authenticator: auth.Authenticator,
    certificates: Certificates | None,
    server: RpcServer,
    began: Look,
) -> Sequence[Reloaded]:
    """The files that are read again while the service runs. `began`: how they were before they were first read."""
    found = []
    if (keys_file := settings.keys_file) is not None:

        def load_keys() -> Callable[[], str]:
            keys = auth.load_keys(keys_file)

            def use() -> str:
                authenticator.use(keys)
                ended = server.revoke(authenticator.holds)
                return f"{len(keys)} in {keys_file}" + (f"; {ended} streams end" if ended else "")

            return use

        found.append(Reloaded("keys", (keys_file,), load_keys, (auth.KeysFileInvalid,), began[:1]))
    files = tls_files(settings)
    if files is not None and certificates is not None:

        def load_certificates() -> Callable[[], str]:
            material = files.read()

            def use() -> str:
                certificates.use(material)
                return f"{files.certificate}, for connections from now on"

            return use

        found.append(
            Reloaded("certificates", files.paths, load_certificates, (TlsInvalid,), began[-len(files.paths) :])
        )
    return found


async def _expire_keys(authenticator: auth.Authenticator, server: RpcServer) -> None:
    """Ends the streams of keys that expire, until cancelled. Calls are refused without it."""
    while True:
        await asyncio.sleep(EXPIRY_PAUSE)
        if authenticator.some_expired() and (ended := server.revoke(authenticator.holds)):
            _log.info("a key has expired: %d streams end", ended)


def revealed(url: SecretUrl | None) -> str | None:
    """For what connects: a URL with its secrets."""
    return None if url is None else url.reveal()


def _postgres(truth: "MemoryStore | PostgresStore") -> "PostgresStore | None":
    from sessiond_server.postgres.store import PostgresStore

    return truth if isinstance(truth, PostgresStore) else None


def bundled(settings: Settings, *, cache: bool = True) -> EmbeddedServers:
    """The bundled servers of these settings, not yet started; `cache` False: Postgres alone."""
    # Beside the pool: room for the operator's commands.
    return EmbeddedServers(settings.data_dir, cache=cache, max_connections=settings.pool_size + 20)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str | None]:
    """For commands beside the service: the DSN of its database, for which the bundled Postgres is started if need be.

    None when there is no data yet. Raises EmbeddedError.
    """
    running = revealed(settings.postgres_dsn) or running_dsn(settings.data_dir)
    if running is not None:
        yield running
    elif (settings.data_dir / "postgres").is_dir():
        async with bundled(settings, cache=False) as servers:
            yield servers.postgres_dsn
    else:
        yield None


@asynccontextmanager
async def opened_store(settings: Settings, dsn: str | None) -> AsyncIterator["MemoryStore | PostgresStore"]:
    """The store: in the database of `dsn`, which need not be there yet, or in memory."""
    policy = Policy(
        default_ttl_us=round(settings.default_ttl * _MICROSECOND),
        max_live_sessions=settings.max_live_sessions,
        max_attachment_bytes=settings.max_attachment_size,
        max_session_attachment_bytes=settings.max_session_attachments_size,
    )
    request_retention = timedelta(seconds=settings.request_retention)
    tombstone_retention = timedelta(seconds=settings.tombstone_retention)
    upload_retention = timedelta(seconds=settings.upload_retention)
    if settings.store == "memory":
        from sessiond_server.memory.store import MemoryStore

        yield MemoryStore(
            policy=policy,
            request_retention=request_retention,
            tombstone_retention=tombstone_retention,
            upload_retention=upload_retention,
        )
        return
    from sessiond_server.postgres.store import PostgresStore

    assert dsn is not None
    async with PostgresStore(
        dsn,
        policy=policy,
        request_retention=request_retention,
        tombstone_retention=tombstone_retention,
        upload_retention=upload_retention,
        max_connections=settings.store_connections,
    ) as store:
        yield store


@asynccontextmanager
async def opened_blobs(settings: Settings, dsn: str | None) -> AsyncIterator[BlobStore]:
    """Where the bytes of attachments are kept. Raises SettingError."""
    if settings.blob_store is not None:
        yield _object_store(settings.blob_store.reveal())
    elif settings.store == "memory":
        yield MemoryBlobs()
    else:
        from sessiond_server.postgres.blobs import PostgresBlobs

        assert dsn is not None
        async with PostgresBlobs(dsn, max_connections=settings.blob_connections) as blobs:
            yield blobs


async def reach_blobs(blobs: BlobStore, url: SecretUrl) -> None:
    """Asks the storage of attachments something. Raises CannotReachBlobs."""
    try:
        async with asyncio.timeout(BLOBS_SECONDS):
            async for _ in blobs.pieces():
                break
    except (StorageUnavailable, TimeoutError) as error:
        why = f"no answer within {BLOBS_SECONDS:g} s"
        if isinstance(error, StorageUnavailable):
            why = type(error.__cause__).__name__
        raise CannotReachBlobs(url, why) from error


async def _say_whether_reachable(blobs: BlobStore, url: SecretUrl) -> None:
    try:
        await reach_blobs(blobs, url)
    except CannotReachBlobs as error:
        _log.error("%s", error)


def _object_store(url: str) -> BlobStore:
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            return FolderBlobs(Path(unquote(parts.path)))
        except ValueError as error:
            raise SettingError(f"--blob-store: {error}") from error
    try:
        from sessiond_server.blobs.objects import opened
    except ImportError as error:
        raise SettingError("--blob-store needs obstore: install sessiond[objects]") from error
    try:
        return opened(url)
    except ValueError as error:
        raise SettingError(f"--blob-store: {error}") from error


async def _bring_up_to_date(dsn: str, settings: Settings) -> None:
    """Gives the database the schema of this version, once it can be reached."""
    await _once_reachable(lambda: migrated(dsn, settings))


async def migrated(dsn: str, settings: Settings) -> Sequence[str]:
    """The migrations that were applied, by `serve` and `migrate` alike."""
    from sessiond_server.postgres.schema.migrate import migrate

    return await migrate(dsn, max_wait=settings.migration_wait, require_durable=settings.require_durable)


def why(error: StoreUnavailable) -> str:
    """Why the database cannot be reached, in the server's words or the system's."""
    cause = error.__cause__
    return str(cause) or ("it does not answer" if isinstance(cause, TimeoutError) else type(cause).__name__)


async def _once_reachable(attempt: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Makes the attempt until the database can be reached; StoreUnavailable after OUTAGE_AT_START seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + OUTAGE_AT_START
    pause = 0.1
    while True:
        try:
            await attempt()
            return
        except StoreUnavailable as error:
            if loop.time() + pause > until:
                raise
            _log.warning("waiting for Postgres", exc_info=error)
        await asyncio.sleep(pause * (0.5 + Random().random() / 2))
        pause = min(2 * pause, 3.0)


@asynccontextmanager
async def _opened_bus(
    settings: Settings, dsn: str | None, redis_url: str | None
) -> AsyncIterator[tuple[Bus, Callable[[str], None]]]:
    """The bell between replicas, and what begins it: its channels need the database's id."""
    if settings.store == "memory":
        yield MemoryBus(), lambda prefix: None
        return
    from sessiond_server.postgres.bus import NotifyBus

    assert dsn is not None
    async with NotifyBus(dsn) as notify:
        if redis_url is None:
            yield notify, notify.begin
            return
        async with RedisBus(redis_url) as redis:

            def begin(prefix: str) -> None:
                notify.begin(prefix)
                redis.begin(prefix)

            yield CombinedBus(redis, notify), begin


@asynccontextmanager
async def _opened_cache(settings: Settings, url: str | None) -> AsyncIterator[RedisCache | None]:
    """The cache, not begun yet: its keys need the database's id. None without one, and for the store in memory."""
    if url is None or settings.store == "memory":
        yield None
        return
    limits = CacheLimits(
        # What is left of a deleted session must be gone before its id can be taken anew, with versions from 1.
        ttl=min(settings.cache_ttl, settings.tombstone_retention / 2),
        window=settings.cache_window + 1,
    )
    async with RedisCache(url, limits=limits) as cache:
        yield cache


@asynccontextmanager
async def _opened_metrics(address: Address | None, sources: metrics.Sources) -> AsyncIterator[Address | None]:
    """Metrics, where they are wanted. Raises CannotListen."""
    if address is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(metrics.serving(address.host, address.port, sources))
        except OSError as error:
            raise CannotListen(address, "--metrics-listen") from error
        yield Address(address.host, port)


def _database_id(token_key: bytes) -> str:
    """Tells one database from another, and nothing about its secret."""
    return hashlib.blake2b(token_key, digest_size=6, person=b"sessiond cache").hexdigest()


async def _watch_cache(cache: RedisCache, server: RpcServer) -> None:
    """Keeps what health says of the cache at what the cache says, until cancelled. The cache itself logs it."""
    used = cache.ready
    while True:
        await asyncio.sleep(PING_PAUSE)
        if cache.ready != used:
            used = cache.ready
            await server.set_cache(used)


@asynccontextmanager
async def _background() -> AsyncIterator[Callable[[Coroutine[Any, Any, None], str], None]]:
    """Gives a function that starts tasks, all cancelled when the context closes. One that fails closes the context."""
    async with asyncio.TaskGroup() as group:
        started: list[asyncio.Task[None]] = []

        def start(work: Coroutine[Any, Any, None], name: str) -> None:
            started.append(group.create_task(work, name=name))

        try:
            yield start
        finally:
            for task in started:
                task.cancel()


@contextmanager
def _observed(watch: StoreWatch) -> Iterator[None]:
    """The running loop logs what a task or a callback has left unhandled; a background task takes health along."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if tasks.FAILED in context:
            watch.failed = context[tasks.FAILED]
            _log.critical("%s: the service is of no use any more", context["message"], exc_info=context["exception"])
        elif before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


def _limits(settings: Settings) -> BatchLimits:
    return BatchLimits(
        shards=settings.shards,
        queue_commands=settings.queue_commands,
        queue_bytes=settings.queue_bytes,
        batch_commands=settings.batch_commands,
        batch_bytes=settings.batch_bytes,
        outage=settings.outage,
    )


def _event_limits(settings: Settings) -> HubLimits:
    return HubLimits(
        bookmark=settings.bookmark_interval,
        watchers=settings.watchers,
        tombstone_retention=settings.tombstone_retention,
    )


def _wire(settings: Settings, certificates: Certificates | None) -> WireSettings:
    reflection = settings.reflection
    if reflection is None:
        reflection = settings.embedded or settings.store == "memory"
    return WireSettings(
        listen=str(settings.listen),
        certificates=certificates,
        longest_deadline=settings.longest_deadline,
        log_successes=settings.access_log == "all",
        call_metrics=settings.metrics_listen is not None,
        reflection=reflection,
        bookmark_interval=settings.bookmark_interval,
        watch_write_timeout=settings.watch_write_timeout,
        watch_age=settings.watch_age,
        drain_pause=settings.drain_pause,
        grace=settings.grace,
        most_searches=max(1, settings.pool_size // 2),
        most_request_bytes=settings.queue_bytes,
        most_transfers=settings.transfers,
        transfer_idle=settings.transfer_idle,
        upload_retention=settings.upload_retention,
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """A task's failure arrives as a group of one."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


class _Signals:
    """The operator's wish to stop, by SIGTERM or SIGINT, or to read files again, by SIGHUP. Belongs to the task that
    makes it."""

    def __init__(self) -> None:
        self.is_asked = False
        self.reload = asyncio.Event()
        self._waiter: asyncio.Event | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    async def asked(self) -> None:
        """Returns when a stop is wished."""
        self._waiter = asyncio.Event()
        if not self.is_asked:
            await self._waiter.wait()

    def _signalled(self, number: int) -> None:
        if self.is_asked:
            # Nothing may get in the way: no clean-up. The kernel tells the bundled servers (see embedded/child.py).
            os._exit(128 + number)
        self.is_asked = True
        if self._waiter is not None:
            self._waiter.set()
        elif self._task is not None:
            self._task.cancel()  # still starting
