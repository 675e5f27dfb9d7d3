"""Environment variables must not decide where a client sends its key."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from tests.support import open_transports
from tests.support.certificates import self_signed
from tests.support.scripted_server import QUIET, scripted_server
from tests.support.watch_frames import snapshot

KEY = "sd_not-a-key"

PROGRAM = """
import asyncio, sys
import sessiond

async def main(target, *tls):
    secured = sessiond.TLS(server_name="sessiond.example") if tls else None
    once = sessiond.Retry(max_attempts=1)
    key = sys.stdin.readline().strip()
    async with sessiond.Client(target, api_key=key, tls=secured, retry=once) as client:
        await client.get_session("s")
        async with asyncio.timeout(20), client.watch("s"):
            pass

asyncio.run(main(*sys.argv[1:]))
"""
"""Reads and watches with a key, in a process of its own: grpc reads the environment once."""


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[int, list[bytes]]]:
    """(port, what was sent to it): a proxy that answers nothing."""
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], received
    finally:
        await open_transports.close(server)


async def ran(environment: Mapping[str, str], *arguments: str) -> tuple[int, bytes]:
    """(exit code, stderr) of the program."""
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments,
        env={**inherited, **environment}, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate(f"{KEY}\n".encode())
    assert process.returncode is not None
    return process.returncode, errors


@pytest.mark.parametrize(
    "names",
    [
        ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
        ("GRPC_ADDRESS_HTTP_PROXY",),
    ],
)
async def test_loopback_traffic_never_goes_through_a_proxy(names: tuple[str, ...]) -> None:
    async with proxy() as (port, received), scripted_server() as server:
        server.always = [snapshot(1), QUIET]
        environment = dict.fromkeys(names, f"http://127.0.0.1:{port}")
        if "GRPC_ADDRESS_HTTP_PROXY" in names:
            environment = {names[0]: f"127.0.0.1:{port}", f"{names[0]}_ENABLED_ADDRESSES": "127.0.0.0/8"}
        code, errors = await ran(environment, server.target)
        assert (code, received) == (0, []), errors
        assert errors == b""
        assert [seen.metadata["authorization"] for seen in server.seen] == [f"Bearer {KEY}"] * 2


async def test_authorities_that_the_environment_names_are_not_trusted(tmp_path: Path) -> None:
    identity = self_signed(tmp_path)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(identity.certificate)
    async with scripted_server(credentials=grpc.ssl_server_credentials([identity])) as server:
        named = ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        environment = {**dict.fromkeys(named, str(roots)), "GRPC_USE_SYSTEM_ROOTS_OVER_LANGUAGE_CALLBACK": "true"}
        code, errors = await ran(environment, server.target, "tls")
        assert code
        assert b"Unavailable" in errors
        assert server.seen == []
