"""A client, and what it talks to: the scripted server, or the whole service over the memory store."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

import sessiond
from sessiond_server import app, settings
from tests.support.scripted_server import ScriptedServer, scripted_server

QUICK = sessiond.Retry(initial_backoff=0.01, max_backoff=0.01)
"""Retries that a test need not wait for."""

RECONNECT = sessiond.Reconnect(initial_backoff=0.01, max_backoff=0.01)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as scripted:
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[sessiond.Client]:
    async with sessiond.Client(server.target, retry=QUICK, reconnect=RECONNECT) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Service:
    """The service, as `sessiond serve` composes it."""

    target: str


@asynccontextmanager
async def serving(flags: Mapping[str, str] | None = None) -> AsyncIterator[Service]:
    """`flags` are settings beside the memory store and a free port."""
    loaded = settings.load({"store": "memory", "listen": "127.0.0.1:0", **(flags or {})}, {})
    async with app.running(loaded) as running:
        yield Service(str(running.listening))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running


@pytest.fixture
async def sessions(service: Service) -> AsyncIterator[sessiond.Client]:
    """A client of the service."""
    async with sessiond.Client(service.target) as client:
        yield client
