"""Blobs in rows: a row in the middle is missing."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from sessiond_server.blobs.contract import BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.postgres.blobs import ROW_BYTES, PostgresBlobs


@pytest.fixture
async def blobs(blobs_dsn: str) -> AsyncIterator[PostgresBlobs]:
    async with PostgresBlobs(blobs_dsn, max_connections=1) as blobs:
        yield blobs


@pytest.mark.parametrize("lost", [0, 1, 3, 4, 32, 33, 65])
@pytest.mark.parametrize("end", [1, ROW_BYTES, 4 * ROW_BYTES + 1, 34 * ROW_BYTES, 66 * ROW_BYTES])
async def test_bytes_without_a_row_are_missing(blobs: PostgresBlobs, blobs_dsn: str, lost: int, end: int) -> None:
    piece = Piece("acme", str(uuid4()))
    data = b"".join(bytes([number]) * ROW_BYTES for number in range(66))
    await blobs.append(piece, 0, [data])
    connection = await asyncpg.connect(blobs_dsn)
    await connection.execute("delete from blob_rows where piece_id = $1 and number = $2", UUID(piece.piece_id), lost)
    await connection.close()

    given = bytearray()
    if end <= lost * ROW_BYTES:
        await read(blobs, piece, end, given)
        assert given == data[:end]
    else:
        with pytest.raises(BytesMissing):
            await read(blobs, piece, end, given)
        assert len(given) <= lost * ROW_BYTES
        assert data.startswith(bytes(given))


async def read(blobs: PostgresBlobs, piece: Piece, end: int, given: bytearray) -> None:
    async for part in blobs.read(piece, 0, end):
        given += part
