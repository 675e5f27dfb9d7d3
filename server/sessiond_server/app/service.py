"""The whole service: starts its parts in this order, and stops them in reverse.

tracer -> parts -> metrics -> wire, refusing calls -> HTTP -> summariser -> databases with their background tasks
-> wire, serving
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from sessiond_server import auth, failpoints
from sessiond_server.app import limits
from sessiond_server.app.background import background_tasks
from sessiond_server.app.blobs import say_whether_reachable
from sessiond_server.app.credentials import expire_keys, reloaded, tls_files
from sessiond_server.app.databases import Group, Opening
from sessiond_server.app.door import opened_door, opened_way
from sessiond_server.app.errors import CannotListen
from sessiond_server.app.health import observed, watch_caches
from sessiond_server.app.metrics import opened_metrics, sources
from sessiond_server.app.parts import opened_parts
from sessiond_server.app.signals import Signals
from sessiond_server.app.summariser import opened_summariser
from sessiond_server.app.summary import Service
from sessiond_server.app.tracer import opened_tracer
from sessiond_server.metrics.sources import Sources
from sessiond_server.reloading import Reloader, look
from sessiond_server.rpc.server import RpcServer
from sessiond_server.rpc.tls import Certificates, Context
from sessiond_server.settings import Address, Settings, keys_in_the_clear, refuse_open_network, traces
from sessiond_server.store_watch import StoreWatch

_log = logging.getLogger("sessiond.app")


@dataclass(frozen=True, slots=True)
class Shared:
    """What a worker has from its supervisor, in place of what a process of its own opens."""

    http: socket.socket | None
    """Listens for HTTP already."""
    expose: Callable[[Sources], AbstractAsyncContextManager[None]]
    """Shows the metrics while the context is open."""
    stops_by: Callable[[Callable[[], None]], None]
    """Gets what begins a stop, as a signal does."""


async def serve(settings: Settings, announce: Callable[[Service], None], shared: Shared | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then stops gracefully. `announce` is called once calls are answered.

    A second signal ends the process at once; the bundled servers then shut down by themselves. Raises SettingError,
    EmbeddedError, KeysFileInvalid, CannotListen, OSError (of a file), StoreUnavailable and MigrationError, after it has
    closed everything.
    """
    stop = Signals()
    if shared is not None:
        shared.stops_by(stop.ask)
    try:
        await stop.serve(running(settings, stop.reload, shared), announce, settings.grace)
    finally:
        stop.close()


@asynccontextmanager
async def running(
    settings: Settings, reload: asyncio.Event | None = None, shared: Shared | None = None
) -> AsyncIterator[Service]:
    """Runs the whole service while the context is open. Errors as `serve`.

    When `reload` is set, it is cleared, and keys and certificates are read again, changed or not. `shared`: the process
    is one of several workers.
    """
    refuse_open_network(settings)
    if warning := keys_in_the_clear(settings):
        _log.warning("%s", warning)
    failpoints.arm(settings.failpoints)
    tls = tls_files(settings)
    began = look([*filter(None, (settings.keys_file,)), *(tls.paths if tls else ())])
    keys = auth.load_keys(settings.keys_file) if settings.keys_file else {}
    certificates = None if tls is None else Certificates(tls.read())
    # A port on loopback is reachable from there only, so each caller's address need not be checked.
    open_to_all = settings.allow_unauthenticated_network or settings.listen.loopback
    authenticator = auth.Authenticator(keys, open_to_all=open_to_all)
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(opened_tracer(traces()))
        opened = opened_parts(settings, authenticator.alone, traced=tracer is not None)
        parts = await stack.enter_async_context(opened)
        default = parts.databases[0]
        way = await stack.enter_async_context(opened_way(settings))
        http_tls = Context(tls) if tls is not None and way is not None else None
        wire = limits.wire(settings, certificates, tracer, way.socket.address if way is not None else "")
        wire = replace(wire, so_reuseport=shared is not None)
        server = RpcServer([each.serving() for each in parts.databases], authenticator, wire)
        default.truth.homes.on_change = server.rehome
        watches = {
            each.database_id: StoreWatch(
                each.truth,
                partial(server.set_serving, database_id=each.database_id),
                each.batcher.stalled,
                hurried=server.moves.under_way,
            )
            for each in parts.databases
        }
        stack.enter_context(observed(watches.values()))
        scraped = sources(parts.databases, server, watches)
        if shared is not None:
            await stack.enter_async_context(shared.expose(scraped))
        metrics_listening = await stack.enter_async_context(
            opened_metrics(settings.metrics_listen if shared is None else None, scraped)
        )
        stack.push_async_callback(server.stop)
        try:
            port = await server.start()
        except RuntimeError as error:
            raise CannotListen(settings.listen, "--listen") from error
        http = await stack.enter_async_context(
            opened_door(settings, way, authenticator, http_tls, server, shared.http if shared is not None else None)
        )
        summariser = await stack.enter_async_context(opened_summariser(settings))
        opening = Opening(settings, server, Group(settings), watches, parts.databases, summariser)
        token_key = await opening.open_default()
        background = await stack.enter_async_context(background_tasks())
        await opening.begin(background, token_key)
        if settings.blob_store is not None:
            background(say_whether_reachable(default.blobs, settings.blob_store), "blob-store")
        reloader = Reloader(reloaded(settings, authenticator, certificates, http_tls, server, began), reload)
        background(reloader.run(), "reloader")
        background(expire_keys(authenticator, server), "key-expiry")
        if caches := [each.cache for each in parts.databases if each.cache is not None]:
            await server.set_cache(all(cache.ready for cache in caches))
            background(watch_caches(caches, server), "cache-health")
        if parts.embedded:
            background(parts.embedded.keep_running(), "bundled-servers")
        await server.open(token_key)
        yield Service(
            settings,
            Address(settings.listen.host, port),
            parts.embedded,
            len(keys),
            metrics_listening,
            http,
            lambda: next((watch.failed for watch in watches.values() if watch.failed), None),
        )
