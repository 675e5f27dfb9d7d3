"""What `sessiond serve` prints once it serves."""

import os
from importlib.metadata import version

from sessiond_server.app.summary import Service


def announce(service: Service) -> None:
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
    if service.http and settings.serves_console:
        http += f"  console    {scheme}://{service.http}/\n"
    workers = f"  workers    {', '.join(map(str, service.workers))}\n" if service.workers else ""
    metrics = f"  metrics    http://{service.metrics}/metrics\n" if service.metrics else ""
    print(
        f"sessiond {version('sessiond')}\n"
        f"  data       {data}\n"
        f"  listening  {service.listening} ({guard}{tls})\n"
        f"{http}{metrics}{workers}"
        f"  stop       Ctrl-C, or kill {os.getpid()}\n"
        f"  next       in another shell: make demo",
        flush=True,
    )
