"""The rows of the HTTP interface: GetSession beside the same call by gRPC, and the cost of idle streams of events."""

import asyncio
import resource
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.load import Load, Pressure, Script, Step
from benchmarks.measure import Measured, checked, lone
from benchmarks.processes import Descendants, resident_bytes
from benchmarks.rows import get_session
from benchmarks.site import free_port, serving
from benchmarks.watching import IDLE_SECONDS, Watched

GET: Final = "http_get_session"
IDLE: Final = "idle_sse"
NAMES: Final = (GET, IDLE)

SESSIONS: Final = 64
STREAMS: Final = 5_000
OPENING: Final = 100
"""Streams that are opened at the same time."""
PATIENCE: Final = 120.0


def gets(
    dsn: str, folder: Path, postgres: Descendants, redis: str, load: Load, pressure: Pressure, rounds: int
) -> Measured:
    """GetSession by HTTP; the ceiling is the same call of the same server by gRPC, in the same rounds."""
    port = free_port()
    result = Measured(GET, "GetSession over HTTP", [], [], target=0.5)
    with serving(dsn, folder, postgres, redis, {"SESSIOND_HTTP_LISTEN": f"127.0.0.1:{port}"}) as site:
        ids = site.fresh("http", SESSIONS, messages=2)
        called: list[Script] = [[get_session(one)] for one in ids]
        asked: list[Script] = [[Step(f"GET /v1/sessions/{one}", b"")] for one in ids]
        by_http = replace(pressure, protocol="http")
        for _ in range(rounds):
            result.ceilings.append(checked(GET, load.measure(site.port, called, pressure, site.server, postgres)))
            result.samples.append(checked(GET, load.measure(port, asked, by_http, site.server, postgres)))
        result.lone = load.measure(port, asked, replace(lone(pressure), protocol="http"), site.server, postgres)
    return result


def idle(
    dsn: str, folder: Path, postgres: Descendants, redis: str, streams: int = STREAMS, seconds: float = IDLE_SECONDS
) -> Watched:
    """Streams of a session each, on a server and a database of their own, while nothing happens."""
    _allow_files(streams + 1024)
    subprocess.run([sys.executable, "-m", "benchmarks.seeding", dsn, str(streams)], check=True)
    port = free_port()
    with serving(dsn, folder, postgres, redis, {"SESSIOND_HTTP_LISTEN": f"127.0.0.1:{port}"}) as site:
        before, after = asyncio.run(_hold(port, streams, seconds, site.server.pid))
    return Watched(
        IDLE,
        f"one of {streams:,} idle streams over HTTP",
        (after - before) / streams / 1024,
        "KiB of the server",
        target=60,
        at_least=False,
        figures={"resident_mib_before": round(before / 2**20, 1), "resident_mib": round(after / 2**20, 1)},
    )


async def _hold(port: int, streams: int, seconds: float, server: int) -> tuple[int, int]:
    """(resident bytes of the server with one stream, with all of them for a while)."""
    async with AsyncExitStack() as stack:
        # The first stream pays for what all share.
        await _open(port, 0, stack)
        before = resident_bytes(server)
        for start in range(1, streams, OPENING):
            numbers = range(start, min(start + OPENING, streams))
            await asyncio.gather(*(_open(port, number, stack) for number in numbers))
        await asyncio.sleep(seconds)
        return before, resident_bytes(server)


async def _open(port: int, number: int, stack: AsyncExitStack) -> None:
    """Opens a stream, and waits for its snapshot. What follows stays in the network."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    stack.callback(writer.close)
    writer.write(f"GET /v1/sessions/seeded-{number}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"event: snapshot")


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise SystemExit(f"{IDLE} needs {count} open files; the limit is {hard}")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
