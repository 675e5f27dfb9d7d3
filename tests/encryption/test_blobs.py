"""Encrypted pieces: any range of them, and what is refused."""

from pathlib import Path

import pytest

from sessiond_server.blobs.contract import BytesMissing
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.domain import ids
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.encryption.blobs import SealedBlobs, sealed_id
from sessiond_server.errors import TenantKeyDestroyed
from tests.support.encryption import MemoryKeys, keyring
from tests.support.rows import table

new_sealed_id = sealed_id(ids.uuid7)


class Small(FolderBlobs):
    segment = 1000


async def written(blobs: SealedBlobs, piece: Piece, data: bytes) -> None:
    for start in range(0, len(data), blobs.segment):
        await blobs.append(piece, start, [data[start : start + 7], data[start + 7 : start + blobs.segment]])


async def read(blobs: SealedBlobs, piece: Piece, start: int, end: int) -> bytes:
    return b"".join([bytes(part) async for part in blobs.read(piece, start, end)])


async def test_every_range_is_read(tmp_path: Path) -> None:
    blobs = SealedBlobs(Small(tmp_path), keyring())
    size = blobs.segment
    data = bytes(n % 251 for n in range(3 * size + 17))
    piece = Piece("acme", new_sealed_id())
    await written(blobs, piece, data)
    assert await blobs.length(piece) == len(data)
    places = (0, 1, size - 1, size, size + 1, 2 * size, 3 * size, len(data) - 1, len(data))
    with table() as rows:
        for start in places:
            for end in places:
                if start < end:
                    with rows.row(f"{start} to {end}"):
                        assert await read(blobs, piece, start, end) == data[start:end]
    with pytest.raises(BytesMissing):
        await read(blobs, piece, 0, len(data) + 1)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert data[:50] not in stored


async def test_whole_segments_end_where_they_end(tmp_path: Path) -> None:
    blobs = SealedBlobs(Small(tmp_path), keyring())
    piece = Piece("acme", new_sealed_id())
    data = bytes(2 * blobs.segment)
    await written(blobs, piece, data)
    assert await blobs.length(piece) == len(data)
    assert await read(blobs, piece, 0, len(data)) == data
    with pytest.raises(BytesMissing):
        await read(blobs, piece, 0, len(data) + 1)


async def test_what_a_crash_has_cut_does_not_count(tmp_path: Path) -> None:
    store = Small(tmp_path)
    blobs = SealedBlobs(store, keyring())
    piece = Piece("acme", new_sealed_id())
    await written(blobs, piece, bytes(blobs.segment + 300))
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    for cut in (1, 299, 330):
        path.write_bytes(path.read_bytes()[: store.segment + 340 - cut])
        assert await blobs.length(piece) == blobs.segment


async def test_pieces_in_the_clear_stay_readable_beside(tmp_path: Path) -> None:
    store = Small(tmp_path)
    blobs = SealedBlobs(store, keyring())
    piece = Piece("acme", ids.uuid7())
    await store.append(piece, 0, [b"\x06sp\x01plain"])
    assert await read(blobs, piece, 2, 9) == b"p\x01plain"
    assert await blobs.length(piece) == 9


async def test_moved_and_changed_segments_are_missing(tmp_path: Path) -> None:
    store = Small(tmp_path)
    keys = MemoryKeys()
    blobs = SealedBlobs(store, keyring(keys))
    one, two = Piece("acme", new_sealed_id()), Piece("acme", new_sealed_id())
    for piece in (one, two):
        await written(blobs, piece, bytes(2 * blobs.segment))
    path = next(path for path in tmp_path.rglob("*") if path.is_file() and one.piece_id in str(path))
    other = next(path for path in tmp_path.rglob("*") if path.is_file() and two.piece_id in str(path))
    good = path.read_bytes()
    wrong = {
        "another piece's": other.read_bytes(),
        "swapped": good[1000:] + good[:1000],
        "changed": good[:500] + bytes([good[500] ^ 1]) + good[501:],
        "in the clear": bytes(2000),
    }
    with table() as rows:
        for name, stored in wrong.items():
            with rows.row(name):
                path.write_bytes(stored)
                with pytest.raises(BytesMissing):
                    await read(blobs, one, 0, 2 * blobs.segment)
    path.write_bytes(good)
    assert await read(blobs, one, 0, 5) == bytes(5)


async def test_a_destroyed_key_reads_nothing(tmp_path: Path) -> None:
    keys = MemoryKeys()
    blobs = SealedBlobs(Small(tmp_path), keyring(keys))
    piece = Piece("acme", new_sealed_id())
    await written(blobs, piece, b"bytes")
    keys.shred("acme")
    blobs = SealedBlobs(Small(tmp_path), keyring(keys))
    with pytest.raises(TenantKeyDestroyed):
        await read(blobs, piece, 0, 5)
