"""Fixtures: a client of a scripted server, and a client of the whole service over the memory store."""

from collections.abc import AsyncIterator

import pytest

import sessiond
from tests.support.client_service import QUICK, RECONNECT, Service, serving
from tests.support.scripted_server import ScriptedServer, scripted_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as scripted:
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[sessiond.Client]:
    async with sessiond.Client(server.target, retry=QUICK, reconnect=RECONNECT) as client:
        yield client


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running


@pytest.fixture
async def sessions(service: Service) -> AsyncIterator[sessiond.Client]:
    """A client of the service."""
    async with sessiond.Client(service.target) as client:
        yield client
