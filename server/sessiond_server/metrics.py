"""What operators watch, for Prometheus to scrape: the figures that the parts keep, read when they are asked for.

No label and no value says anything of tenants, sessions or contents. The names are documented in docs/metrics.md.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    make_wsgi_app,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sessiond_server.events.hub import HubState
from sessiond_server.rpc.interceptors.call_metrics import BOUNDS, MethodMetrics
from sessiond_server.store.batcher import BatcherState
from sessiond_server.store.cached.store import CachedState
from sessiond_server.store.condition import StoreCondition


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures are asked for, from the thread that answers a scrape: each only reads plain numbers."""

    version: str
    calls: Callable[[], Sequence[MethodMetrics]]
    refused_calls: Callable[[], Mapping[str, int]]
    calls_in_progress: Callable[[], int]
    hub: Callable[[], HubState]
    writes: Callable[[], BatcherState]
    cache: Callable[[], CachedState] | None
    """None: the service has no cache, and no metrics of one."""
    store_reachable: Callable[[], bool]
    store: Callable[[], StoreCondition] | None
    """None: the store is in memory."""


@asynccontextmanager
async def serving(host: str, port: int, sources: Sources) -> AsyncIterator[int]:
    """Answers scrapes over HTTP, from threads of its own, while the context is open; gives the port, for 0 a free one.

    Raises OSError when the address cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(_Metrics(sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    # In a thread, since it looks up the name of the host.
    server = await asyncio.to_thread(_Server, host, port, registry)
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        # It notices within half a second, and whoever is being answered is not waited for.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


MOST_SCRAPES: Final = 16
"""Connections at once, each of which has a thread; one more ends the oldest."""
SCRAPE_SECONDS: Final = 5.0
"""That a peer may be silent."""


class _Scrape(WSGIRequestHandler):
    timeout = SCRAPE_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    """Anybody who reaches the port may connect and say nothing: such connections keep no one out, and end."""

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._open: dict[socket.socket, None] = {}
        """Oldest first."""
        self._lock = Lock()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Scrape)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MOST_SCRAPES:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Peers that leave, or are silent, are nothing to tell of."""


class _Metrics(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        build = GaugeMetricFamily("sessiond_build_info", "Always 1.", labels=["version"])
        build.add_metric([sources.version], 1)
        yield build
        yield from _calls(sources.calls())
        refused = CounterMetricFamily(
            "sessiond_refused_calls", "Calls refused to protect the service or other callers.", labels=["reason"]
        )
        for reason, count in sources.refused_calls().items():
            refused.add_metric([reason], count)
        yield refused
        yield _gauge(
            "calls_in_progress", "Calls whose answer is not sent yet, streams too.", sources.calls_in_progress()
        )
        yield _gauge("watchers", "Streams of events that are open.", sources.hub().streams)
        yield from _writes(sources.writes())
        yield _gauge("store_reachable", "1 while the store answers.", sources.store_reachable())
        if sources.store is not None:
            yield from _store(sources.store())
        if sources.cache is not None:
            yield from _cache(sources.cache())

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering it must not ask the parts."""
        return iter(())


def _calls(methods: Sequence[MethodMetrics]) -> Iterator[Metric]:
    ended = CounterMetricFamily("sessiond_calls", "Calls that ended, by gRPC code.", labels=["method", "code"])
    times = HistogramMetricFamily("sessiond_call_seconds", "Time that unary calls took.", labels=["method"])
    for method in methods:
        for code, count in method.codes.copy().items():
            ended.add_metric([method.method, code], count)
        if not method.streaming:
            below = list(accumulate(method.times))
            bounds = [*map(str, BOUNDS), "+Inf"]
            times.add_metric([method.method], list(zip(bounds, below, strict=True)), method.seconds)
    yield ended
    yield times


def _writes(state: BatcherState) -> Iterator[Metric]:
    yield _gauge("queue_commands", "Writes that wait for a transaction.", state.queued_commands)
    yield _gauge("queue_bytes", "Bytes of their requests.", state.queued_bytes)
    yield _gauge("writes_under_way", "Writes that were sent and have no answer yet.", state.under_way)
    yield _gauge("writes_stalled_seconds", "Time for which the oldest of them has had none.", state.stalled_seconds)
    yield _counter("batches", "Transactions of writes that the store answered.", state.batches)
    yield _counter("batched_commands", "Writes in these transactions.", state.batched_commands)


def _store(condition: StoreCondition) -> Iterator[Metric]:
    errors = CounterMetricFamily(
        "sessiond_store_errors", "Times that Postgres could not do its work, by SQLSTATE.", labels=["cause"]
    )
    for cause, count in condition.causes.items():
        errors.add_metric([cause], count)
    yield errors
    yield _counter("store_connections_given_up", "Connections that gave no answer.", condition.given_up)
    held = GaugeMetricFamily(
        "sessiond_feed_held_seconds",
        "Time for which an open transaction has held feeds back.",
        labels=["pid", "application", "state"],
    )
    if (holder := condition.feed_holder) is not None:
        held.add_metric([str(holder.pid), holder.application, holder.state], holder.seconds)
    yield held


def _cache(state: CachedState) -> Iterator[Metric]:
    yield _gauge("cache_usable", "1 while the cache can be used, each server of a cluster.", state.cache.ready)
    yield _counter("cache_hits", "Reads answered from the cache.", state.hits)
    yield _counter("cache_misses", "Reads that had to ask the store instead.", state.misses)
    yield _counter("cache_unreadable", "Reads that found no whole copy where one should be.", state.cache.unreadable)
    yield _counter("cache_epochs", "Times that all copies became void for this process.", state.cache.epochs)
    yield _gauge("cache_dirty_sessions", "Sessions whose changes the cache has still to hear of.", state.dirty)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sessiond_{name}", meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    """The library adds `_total` to the name."""
    return CounterMetricFamily(f"sessiond_{name}", meaning, value=value)
