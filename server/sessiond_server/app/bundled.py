"""The bundled servers, as the settings want them."""

from sessiond_server.embedded import EmbeddedServers
from sessiond_server.settings import Settings

OPERATORS = 20
"""Connections beside those of pools: for the operator's commands."""


def bundled(settings: Settings, *, cache: bool = True) -> EmbeddedServers:
    """The bundled servers for these settings, not started yet; `cache` False: only Postgres."""
    # While workers are replaced there is one more of them.
    pools = settings.workers + 1 if settings.workers > 1 else 1
    return EmbeddedServers(settings.data_dir, cache=cache, max_connections=settings.pool_size * pools + OPERATORS)
