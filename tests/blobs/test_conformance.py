"""Every sentence of blobs/contract.py, over every blob store."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from random import Random
from uuid import uuid4

import pytest

from sessiond_server.blobs.contract import READ_BYTES, BlobStore, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from tests.support.blob_backend import Backend


def noise(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


async def put(blobs: BlobStore, piece: Piece, data: bytes) -> None:
    """Appends the data segment by segment, each in several buffers."""
    for offset in range(0, len(data), blobs.segment):
        segment = memoryview(data)[offset : offset + blobs.segment]
        size, third = len(segment), len(segment) // 3
        cuts = sorted({min(cut, size) for cut in (0, 1, 7936, third, third + 7937, size)})
        await blobs.append(piece, offset, [segment[cut:end] for cut, end in pairwise(cuts)])
    await blobs.commit(piece)


async def get(blobs: BlobStore, piece: Piece, start: int, end: int) -> bytes:
    given = [data async for data in blobs.read(piece, start, end)]
    assert all(1 <= len(data) <= READ_BYTES for data in given)
    assert all(isinstance(data, bytes | memoryview) for data in given)
    return b"".join(given)


async def take(reading: AsyncIterator[Buffer], given: list[Buffer]) -> None:
    """All that comes, in `given` also when it ends with an error."""
    async for data in reading:
        given += [data]


async def test_appended_bytes_are_read_by_every_replica(backend: Backend) -> None:
    data = noise(2 * backend.blobs.segment + 70_001)
    piece = backend.piece()
    await put(backend.blobs, piece, data)
    assert await backend.other.length(piece) == len(data)
    assert await get(backend.other, piece, 0, len(data)) == data


@pytest.mark.parametrize("size", [1, 7935, 7936, 7937])
async def test_a_small_piece(backend: Backend, size: int) -> None:
    piece, data = backend.piece(), noise(size)
    await put(backend.blobs, piece, data)
    assert await backend.blobs.length(piece) == size
    assert await get(backend.blobs, piece, 0, size) == data


async def test_the_length_grows_with_each_append(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    assert await blobs.length(piece) == 0
    segment = noise(blobs.segment)
    await blobs.append(piece, 0, [segment])
    assert await backend.other.length(piece) == blobs.segment
    await blobs.append(piece, blobs.segment, [segment])
    assert await backend.other.length(piece) == 2 * blobs.segment
    await blobs.append(piece, 2 * blobs.segment, [b"end"])
    assert await backend.other.length(piece) == 2 * blobs.segment + 3


async def test_any_range_can_be_read(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    size = 2 * blobs.segment + 12_345
    data = noise(size)
    await put(blobs, piece, data)
    edges = [0, 1, 7935, 7936, 7937, READ_BYTES, blobs.segment - 1, blobs.segment, blobs.segment + 1, size - 1, size]
    random = Random(2)
    ranges = [(start, end) for start in edges for end in edges if start <= end][::3]
    ranges += [tuple(sorted((random.randrange(size), random.randrange(size)))) for _ in range(10)]  # type: ignore[misc]
    for start, end in ranges:
        assert await get(blobs, piece, start, end) == data[start:end], (start, end)


async def test_an_empty_range_is_empty_whatever_there_is(backend: Backend) -> None:
    assert await get(backend.blobs, backend.piece(), 5, 5) == b""


async def test_nothing_behind_the_end_can_be_read(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    data = noise(blobs.segment + 100)
    await put(blobs, piece, data)
    for start, end in [(0, len(data) + 1), (len(data), len(data) + 1), (3 * blobs.segment, 3 * blobs.segment + 1)]:
        given: list[Buffer] = []
        with pytest.raises(BytesMissing):
            await take(blobs.read(piece, start, end), given)
        assert data[start:].startswith(b"".join(given))


async def test_a_whole_last_segment_ends_where_it_ends(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    await put(blobs, piece, noise(blobs.segment))
    with pytest.raises(BytesMissing):
        await get(blobs, piece, 0, blobs.segment + 1)


async def test_pieces_are_apart(backend: Backend) -> None:
    blobs, piece_id = backend.blobs, str(uuid4())
    first, second = Piece("acme", piece_id), Piece("acme2", piece_id)
    await put(blobs, first, b"one")
    assert await blobs.length(second) == 0
    with pytest.raises(BytesMissing):
        await get(blobs, second, 0, 3)
    await put(blobs, second, b"other")
    await blobs.delete([second])
    assert await get(blobs, first, 0, 3) == b"one"


@pytest.mark.parametrize("tenant_id", [".", "..", "~", "a~b:c.d_e-F", "x" * 128, "~." * 64])
async def test_any_tenant_has_its_place(backend: Backend, tenant_id: str) -> None:
    piece = backend.piece(tenant_id)
    await put(backend.blobs, piece, b"here")
    assert await backend.blobs.length(piece) == 4
    assert await get(backend.blobs, piece, 1, 3) == b"er"
    assert piece in [found async for found in backend.blobs.pieces()]
    await backend.blobs.delete([piece])
    assert await backend.blobs.length(piece) == 0


async def test_deleted_piece_cannot_be_read(backend: Backend) -> None:
    blobs, pieces = backend.blobs, [backend.piece() for _ in range(3)]
    data = noise(blobs.segment + 5)
    for piece in pieces:
        await put(blobs, piece, data)
    await blobs.delete(pieces[:2])
    for piece in pieces[:2]:
        assert await backend.other.length(piece) == 0
        with pytest.raises(BytesMissing):
            await get(backend.other, piece, 0, 1)
    assert await get(backend.other, pieces[2], 0, len(data)) == data


async def test_delete_is_idempotent_and_accepts_unknown_pieces(backend: Backend) -> None:
    piece = backend.piece()
    await put(backend.blobs, piece, b"x")
    await backend.blobs.delete([piece, backend.piece()])
    await backend.other.delete([piece])
    await backend.other.delete([])
    assert await backend.blobs.length(piece) == 0


async def test_two_replicas_delete_at_once(backend: Backend) -> None:
    pieces = [backend.piece() for _ in range(4)]
    for piece in pieces:
        await put(backend.blobs, piece, noise(3 * 7936))
    await asyncio.gather(backend.blobs.delete(pieces), backend.other.delete(pieces[::-1]))
    assert [await backend.blobs.length(piece) for piece in pieces] == [0] * 4


async def test_a_reader_of_what_is_deleted_gets_the_right_bytes_or_none(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    data = noise(3 * blobs.segment)
    await put(blobs, piece, data)
    reading = blobs.read(piece, 0, len(data))
    given: list[Buffer] = [await anext(reading)]
    await backend.other.delete([piece])
    try:
        await take(reading, given)
    except BytesMissing:
        assert data.startswith(b"".join(given))
    else:
        assert b"".join(given) == data
    with pytest.raises(BytesMissing):
        await get(blobs, piece, 0, 1)


async def test_many_readers_at_once(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    data = noise(blobs.segment + 3)
    await put(blobs, piece, data)
    assert set(await asyncio.gather(*(get(blobs, piece, 0, len(data)) for _ in range(8)))) == {data}


async def test_a_reader_may_leave_early(backend: Backend) -> None:
    blobs, piece = backend.blobs, backend.piece()
    data = noise(2 * blobs.segment)
    await put(blobs, piece, data)
    for _ in range(6):
        reading = blobs.read(piece, 0, len(data))
        assert data.startswith(await anext(reading))
        await reading.aclose()  # type: ignore[attr-defined]
    assert await get(blobs, piece, 0, 10) == data[:10]


async def test_all_pieces_are_listed_once(backend: Backend) -> None:
    pieces = [backend.piece(f"tenant-{number % 2}") for number in range(5)]
    for piece in pieces:
        await put(backend.blobs, piece, noise(3 * 7936))
    found = [piece async for piece in backend.other.pieces()]
    assert len(found) == len(set(found))
    assert set(pieces) <= set(found)
    await backend.blobs.delete(pieces)
    assert not set(pieces) & {piece async for piece in backend.other.pieces()}


async def test_a_cancelled_append_leaves_nothing_or_a_beginning_of_the_segment(backend: Backend) -> None:
    blobs = backend.blobs
    data = noise(blobs.segment)
    for turns in range(6):
        piece = backend.piece()
        appending = asyncio.ensure_future(blobs.append(piece, 0, [data]))
        for _ in range(turns):
            await asyncio.sleep(0)
        appending.cancel()
        await asyncio.wait([appending])
        length = await backend.other.length(piece)
        assert await get(backend.other, piece, 0, length) == data[:length]
