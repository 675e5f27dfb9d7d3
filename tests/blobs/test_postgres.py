"""Attachments whose bytes are in Postgres."""

import asyncio
import gc
from typing import Any
from uuid import uuid4

import pytest

from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable
from sessiond_server.postgres.blobs import ROW_BYTES, PostgresBlobs

FAREWELL = b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"


async def test_lost_connection_raises_in_the_caller_and_reports_nothing_else(postgres_dsn: str) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    piece = Piece("a", str(uuid4()))
    async with PostgresBlobs(postgres_dsn, max_connections=1) as blobs:
        await blobs.append(piece, 0, [bytes(ROW_BYTES)])
        async with blobs._connections._pool.acquire() as connection:
            # As if the server ended the idle connection, and its end were not seen yet.
            connection._con._protocol.data_received(b"E" + (len(FAREWELL) + 4).to_bytes(4) + FAREWELL)
        with pytest.raises(StorageUnavailable):
            await blobs.append(piece, ROW_BYTES, [b"more"])
        await blobs.append(piece, ROW_BYTES, [b"more"])
        assert await blobs.length(piece) == ROW_BYTES + 4
        gc.collect()
        assert not reported
        future = asyncio.get_running_loop().create_future()
        future.set_exception(RuntimeError("of another kind"))
        del future
        assert len(reported) == 1
