"""Opens the port of the metrics, and connects each metric with its source."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from sessiond_server.app import totals
from sessiond_server.app.database import postgres
from sessiond_server.app.errors import CannotListen
from sessiond_server.app.parts import Parts
from sessiond_server.metrics.port import serving
from sessiond_server.metrics.sources import Sources, registry
from sessiond_server.rpc.server import RpcServer
from sessiond_server.settings import Address
from sessiond_server.store_watch import StoreWatch


def sources(databases: Sequence[Parts], server: RpcServer, watches: Mapping[str, StoreWatch]) -> Sources:
    """Where the metrics come from: of several databases the totals, and for each whether it answers."""
    stores = [store for parts in databases if (store := postgres(parts.truth)) is not None]
    caches = [parts.cached for parts in databases if parts.cached is not None]
    batchers = [parts.batcher for parts in databases]
    summaries = databases[0].summarises
    searches = bool(stores) and databases[0].searches
    return Sources(
        version=version("sessiond"),
        calls=lambda: server.call_metrics,
        refused_calls=lambda: server.refused_calls,
        calls_in_progress=lambda: server.calls,
        hub=lambda: totals.of_hubs([parts.hub.state() for parts in databases]),
        pipes=lambda: server.open_pipes,
        transfers=server.transfers,
        writes=lambda: totals.of_batchers([batcher.state() for batcher in batchers]),
        write_waits=lambda: totals.of_durations([batcher.waits for batcher in batchers]),
        batch_times=lambda: totals.of_durations([batcher.batch_times for batcher in batchers]),
        cache=(lambda: totals.of_caches([cached.state() for cached in caches])) if caches else None,
        rounds=[
            [parts.swept for parts in databases],
            [parts.retired for parts in databases],
            [parts.reaped for parts in databases],
            [parts.counted for parts in databases],
            *([[parts.indexing.rounds for parts in databases]] if searches else []),
            *([[parts.summarising.rounds for parts in databases]] if summaries else []),
        ],
        search=(lambda: totals.of_indexes([parts.indexing.state() for parts in databases])) if searches else None,
        summaries=(
            (lambda: totals.of_summaries([parts.summarising.state for parts in databases])) if summaries else None
        ),
        loop_lag=lambda: max(watch.loop_lag for watch in watches.values()),
        store_reachable=lambda: all(watch.reachable for watch in watches.values()),
        databases_reachable=lambda: {each: watch.reachable for each, watch in watches.items()},
        store=(lambda: totals.of_stores([store.condition() for store in stores])) if stores else None,
    )


@asynccontextmanager
async def opened_metrics(address: Address | None, sources: Sources) -> AsyncIterator[Address | None]:
    """Serves metrics if the settings name an address. Raises CannotListen."""
    if address is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(serving(address.host, address.port, registry(sources)))
        except OSError as error:
            raise CannotListen(address, "--metrics-listen") from error
        yield Address(address.host, port)
