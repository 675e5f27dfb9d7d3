"""Fixtures: a client of a scripted server, and a client of the whole service over the memory store.

SESSIOND_TEST_PIPE=on (auto, off) gives all clients of these tests that `pipe`, but for those that choose one.
"""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import sessiond
from tests.support.both_clients import connected
from tests.support.client_service import QUICK, RECONNECT, Service, serving
from tests.support.scripted_server import ScriptedServer, scripted_server


@pytest.fixture(autouse=True, scope="package")
def pipe_use() -> Iterator[None]:
    """Makes SESSIOND_TEST_PIPE the default of clients."""
    if not (use := os.environ.get("SESSIOND_TEST_PIPE")):
        yield
        return
    makers: list[Any] = [sessiond.Client.__init__, sessiond.SyncClient.__init__]
    before = [each.__kwdefaults__["pipe"] for each in makers]
    try:
        for each in makers:
            each.__kwdefaults__["pipe"] = use
        yield
    finally:
        for each, pipe in zip(makers, before, strict=True):
            each.__kwdefaults__["pipe"] = pipe


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as scripted:
        yield scripted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of a file with BOTH_CLIENTS = True are made for both clients."""
    both = getattr(metafunc.module, "BOTH_CLIENTS", False) and not hasattr(metafunc.function, "async_only")
    if both and "client_kind" in metafunc.fixturenames:
        metafunc.parametrize("client_kind", ["async", "sync"], indirect=True)


@pytest.fixture
def client_kind(request: pytest.FixtureRequest) -> str:
    """Which client a test has: "async" or "sync"."""
    return getattr(request, "param", "async")


@pytest.fixture
async def client(server: ScriptedServer, client_kind: str) -> AsyncIterator[sessiond.Client]:
    async with connected(client_kind, server.target, retry=QUICK, reconnect=RECONNECT) as client:
        yield client


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running


@pytest.fixture
async def sessions(service: Service, client_kind: str) -> AsyncIterator[sessiond.Client]:
    """A client of the service."""
    async with connected(client_kind, service.target) as client:
        yield client
