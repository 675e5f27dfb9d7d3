"""What callers of the HTTP port can take without a key, and what one of a valid key can."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import httpx
import pytest

from sessiond_server.cli import open_files
from sessiond_server.http.door import LARGEST_BODY
from sessiond_server.http.json_texts import MOST_ELEMENTS
from tests.support.hostile_target import Target, serving_two_tenants
from tests.support.waiting import PATIENCE
from tests.support.web import url_of

FLOOD = 2500
"""More refused requests than the gRPC port holds back, and more than one connection to it has streams."""
needs_files = pytest.mark.skipif(open_files.most() < 2 * FLOOD, reason=f"needs {2 * FLOOD} open files")


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    async with serving_two_tenants(tmp_path, "--http-listen", "127.0.0.1:0") as target:
        yield target


def client(target: Target) -> httpx.AsyncClient:
    """Of the tenant that does not misbehave."""
    headers = {"authorization": f"Bearer {target.other_key}"}
    return httpx.AsyncClient(base_url=url_of(target.server), headers=headers, timeout=PATIENCE, trust_env=False)


@pytest.fixture
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files.allow_most()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.long
@needs_files
@pytest.mark.usefixtures("many_files")
async def test_flood_without_keys_blocks_neither_calls_nor_streams_nor_health(target: Target) -> None:
    port = int(url_of(target.server).rpartition(":")[2])
    async with client(target) as quiet, AsyncExitStack() as stack:
        assert (await quiet.post("/v1/sessions", json={"session_id": "s"})).status_code == 201
        readers = []
        for number in range(FLOOD):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.enter_context(closing(writer))
            path = "/v1/events" if number % 10 == 0 else "/v1/sessions"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n".encode())
            readers.append(reader)
        for _ in range(5):
            health = await quiet.get("/healthz")
            assert (health.status_code, health.json()) == (200, {"status": "SERVING"})
            assert (await quiet.get("/v1/sessions/s")).status_code == 200
            async with quiet.stream("GET", "/v1/sessions/s/events") as events:
                assert events.status_code == 200
        async with asyncio.timeout(PATIENCE):
            heads = await asyncio.gather(*(reader.readuntil(b"\r\n") for reader in readers))
        assert set(heads) == {b"HTTP/1.1 401 Unauthorized\r\n"}
        await target.server.until_metric("sessiond_refused_calls_total wrong_key", FLOOD)


async def test_string_without_an_end_takes_no_time_of_others(target: Target) -> None:
    body = b"," * (MOST_ELEMENTS + 1) + b'"'
    body += b'\\"' * ((LARGEST_BODY - len(body)) // 2)
    async with client(target) as quiet, client(target) as loud:
        headers = {"authorization": f"Bearer {target.key}", "content-type": "application/json"}
        refused = asyncio.create_task(loud.post("/v1/sessions", content=body, headers=headers))
        while not refused.done():
            assert (await quiet.get("/healthz")).status_code == 200
        assert (await refused).status_code == 413
