"""Opens the port of the metrics, and connects each metric with its source."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from sessiond_server import metrics
from sessiond_server.app.database import postgres
from sessiond_server.app.errors import CannotListen
from sessiond_server.app.parts import Parts
from sessiond_server.measures import Rounds
from sessiond_server.rpc.server import RpcServer
from sessiond_server.settings import Address
from sessiond_server.store_watch import StoreWatch


def sources(parts: Parts, server: RpcServer, watch: StoreWatch, rounds: Sequence[Rounds]) -> metrics.Sources:
    store = postgres(parts.truth)
    return metrics.Sources(
        version=version("sessiond"),
        calls=lambda: server.call_metrics,
        refused_calls=lambda: server.refused_calls,
        calls_in_progress=lambda: server.calls,
        hub=parts.hub.state,
        transfers=server.transfers,
        writes=parts.batcher.state,
        write_waits=parts.batcher.waits,
        batch_times=parts.batcher.batch_times,
        cache=parts.cached.state if parts.cached is not None else None,
        rounds=rounds,
        loop_lag=lambda: watch.loop_lag,
        store_reachable=lambda: watch.reachable,
        store=store.condition if store is not None else None,
    )


@asynccontextmanager
async def opened_metrics(address: Address | None, sources: metrics.Sources) -> AsyncIterator[Address | None]:
    """Serves metrics if the settings name an address. Raises CannotListen."""
    if address is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(metrics.serving(address.host, address.port, sources))
        except OSError as error:
            raise CannotListen(address, "--metrics-listen") from error
        yield Address(address.host, port)
