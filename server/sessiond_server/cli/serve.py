"""`sessiond serve`: runs the service until a signal stops it."""

import asyncio
import gc
import os
from importlib.metadata import version

from sessiond_server import spans, telemetry
from sessiond_server.app import service as composed
from sessiond_server.cli import open_files
from sessiond_server.rpc.call import CALL_ID
from sessiond_server.settings import Settings

COLLECTED_AFTER = (5_000, 10, 10)
"""New objects after which the young ones are searched, and how many such searches make one of the next generation."""


def run(settings: Settings) -> int:
    telemetry.configure(settings.log_level, settings.log_format, CALL_ID.get, trace_id=spans.trace_id)
    open_files.allow_most()
    factory = None
    if settings.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(composed.serve(settings, started))
    print("stopped", flush=True)
    return 0


def started(service: composed.Service) -> None:
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


def announce(service: composed.Service) -> None:
    """Prints in a few lines what runs, where the data is, and what to do next."""
    settings = service.settings
    if service.embedded:
        new, valkey = "new; " if service.embedded.created else "", "" if settings.redis_url else " and Valkey"
        data = f"{settings.data_dir} ({new}bundled Postgres{valkey})"
    elif settings.store == "memory":
        data = "in memory: lost when the service stops"
    elif settings.databases is not None:
        data = "\n             ".join(f"{each}: {settings.databases[each]}" for each in settings.database_ids)
    else:
        data = str(settings.postgres_dsn)
    if service.keys:
        guard = f"{service.keys} key{'s' if service.keys > 1 else ''}"
    elif settings.listen.loopback:
        guard = "without keys, from this machine only"
    else:
        guard = "WITHOUT KEYS, FROM THE WHOLE NETWORK"
    tls = ", mutual TLS" if settings.tls_client_ca_file else ", TLS" if settings.tls_cert_file else ""
    scheme = "https" if settings.tls_cert_file else "http"
    http = f"  http       {scheme}://{service.http}/v1\n" if service.http else ""
    metrics = f"  metrics    http://{service.metrics}/metrics\n" if service.metrics else ""
    print(
        f"sessiond {version('sessiond')}\n"
        f"  data       {data}\n"
        f"  listening  {service.listening} ({guard}{tls})\n"
        f"{http}{metrics}"
        f"  stop       Ctrl-C, or kill {os.getpid()}\n"
        f"  next       in another shell: make demo",
        flush=True,
    )
