"""A client and the scripted server that it talks to."""

from collections.abc import AsyncIterator

import pytest

import sessiond
from tests.client.scripted import ScriptedServer, scripted_server

QUICK = sessiond.Retry(initial_backoff=0.01, max_backoff=0.01)
"""Retries that a test need not wait for."""


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as scripted:
        yield scripted


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[sessiond.Client]:
    async with sessiond.Client(server.target, retry=QUICK) as client:
        yield client
