"""`sessiond serve`: runs the service until a signal stops it."""

import asyncio
import gc

from sessiond_server import spans, telemetry
from sessiond_server.app import service as composed
from sessiond_server.app.summary import Service
from sessiond_server.cli import open_files
from sessiond_server.cli.announcement import announce
from sessiond_server.rpc.call import CALL_ID
from sessiond_server.settings import Settings

COLLECTED_AFTER = (5_000, 10, 10)
"""New objects after which the young ones are searched, and how many such searches make one of the next generation."""


def run(settings: Settings) -> int:
    with prepared(settings) as runner:
        runner.run(composed.serve(settings, started))
    print("stopped", flush=True)
    return 0


def prepared(settings: Settings, *, worker: int = 0) -> asyncio.Runner:
    """Prepares this process to serve, and returns what runs its event loop. `worker`: its id, if it is one of
    several."""
    telemetry.configure(settings.log_level, settings.log_format, CALL_ID.get, trace_id=spans.trace_id, worker=worker)
    open_files.allow_most()
    factory = None
    if settings.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    return asyncio.Runner(loop_factory=factory)


def started(service: Service) -> None:
    spare_the_collector()
    announce(service)


def spare_the_collector() -> None:
    """Takes what the start has made, which stays as long as the process, out of the garbage collector's sight.

    Every call leaves a few objects in cycles of gRPC's own, so that under load the collector searches all objects once
    a second. With the 130 000 of the start among them that stops the loop for a tenth of a second: decision 43.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)
