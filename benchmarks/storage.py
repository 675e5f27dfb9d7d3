"""The throughput of a storage alone: the bytes of transfers are written to its BlobStore and read from it, without
gRPC, checksums and sessions. No service on it can be faster.

    python -m benchmarks.storage < {"place": DSN or folder, "streams": 4, "size": BYTES}

Prints {"upload": MiB per second, "download": MiB per second}.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

import uvloop

from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.postgres.blobs import PostgresBlobs

MIB: Final = 1024 * 1024


def alone(place: str, streams: int, size: int) -> dict[str, float]:
    """Measures in a process of its own, as the service is. `place`: a migrated database, or a folder."""
    plan = json.dumps({"place": place, "streams": streams, "size": size})
    command = [sys.executable, "-m", "benchmarks.storage"]
    done = subprocess.run(command, input=plan, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


async def _measured(place: str, streams: int, size: int) -> dict[str, float]:
    if place.startswith("postgres"):
        async with PostgresBlobs(place) as blobs:
            return await _moved(blobs, streams, size)
    return await _moved(FolderBlobs(Path(place)), streams, size)


async def _moved(blobs: BlobStore, streams: int, size: int) -> dict[str, float]:
    pieces = [Piece("benchmark", str(uuid4())) for _ in range(streams)]
    segment = os.urandom(blobs.segment)
    rates = {
        "upload": await _rate([_put(blobs, piece, segment, size) for piece in pieces], size),
        "download": await _rate([_got(blobs, piece, size) for piece in pieces], size),
    }
    await blobs.delete(pieces)
    return rates


async def _put(blobs: BlobStore, piece: Piece, segment: bytes, size: int) -> None:
    for offset in range(0, size, blobs.segment):
        await blobs.append(piece, offset, [memoryview(segment)[: size - offset]])
    await blobs.commit(piece)


async def _got(blobs: BlobStore, piece: Piece, size: int) -> None:
    async for _ in blobs.read(piece, 0, size):
        pass


async def _rate(moves: Sequence[Awaitable[None]], size: int) -> float:
    began = time.perf_counter()
    await asyncio.gather(*moves)
    return len(moves) * size / MIB / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_measured(**json.load(sys.stdin)))))  # noqa: T201 - for the benchmark that started it
