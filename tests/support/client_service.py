"""The whole service in this process over the memory store, for tests of the client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import sessiond
from sessiond_server import settings
from sessiond_server.app.service import running

QUICK = sessiond.Retry(initial_backoff=0.01, max_backoff=0.01)
"""Retries that a test need not wait for."""


RECONNECT = sessiond.Reconnect(initial_backoff=0.01, max_backoff=0.01)


@dataclass(frozen=True, slots=True)
class Service:
    """The service, as `sessiond serve` composes it."""

    target: str


@asynccontextmanager
async def serving(flags: Mapping[str, str] | None = None) -> AsyncIterator[Service]:
    """`flags` are settings beside the memory store and a free port."""
    loaded = settings.load({"store": "memory", "listen": "127.0.0.1:0", **(flags or {})}, {})
    async with running(loaded) as served:
        yield Service(str(served.listening))
