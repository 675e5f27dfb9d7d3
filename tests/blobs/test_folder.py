"""Faults of a folder: it vanishes, is full, or holds foreign files."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from sessiond_server.blobs import folder
from sessiond_server.blobs.contract import BytesMissing
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "blobs"


@pytest.fixture
def blobs(root: Path) -> FolderBlobs:
    return FolderBlobs(root)


async def begun(blobs: FolderBlobs, tenant_id: str = "acme") -> Piece:
    piece = Piece(tenant_id, str(uuid4()))
    await blobs.append(piece, 0, [bytes(blobs.segment)])
    return piece


async def drained(source: AsyncIterator[object]) -> None:
    async for _ in source:
        pass


@pytest.mark.parametrize("replaced", [False, True], ids=["gone", "a file in its place"])
async def test_a_folder_that_is_away_is_no_lost_attachment(blobs: FolderBlobs, root: Path, replaced: bool) -> None:
    """An attachment on an unmounted disk must not be reported as lost, forgotten as deleted, or stored again on another
    disk."""
    piece = await begun(blobs)
    disk = root.parent.rename(root.parent.with_name("elsewhere"))
    if replaced:
        root.parent.write_bytes(b"")
    failures = await asyncio.gather(
        blobs.append(piece, blobs.segment, [b"more"]),
        blobs.append(Piece("acme", str(uuid4())), 0, [b"first"]),
        blobs.commit(piece),
        blobs.length(piece),
        blobs.delete([piece]),
        drained(blobs.read(piece, 0, 1)),
        drained(blobs.pieces()),
        return_exceptions=True,
    )
    assert [type(failure) for failure in failures] == [StorageUnavailable] * 7
    root.parent.unlink(missing_ok=True)
    disk.rename(root.parent)
    assert await blobs.length(piece) == blobs.segment


async def test_a_tenant_s_folder_that_is_away_has_no_pieces(blobs: FolderBlobs, root: Path) -> None:
    piece = await begun(blobs)
    (root / "t_acme" / piece.piece_id).unlink()
    (root / "t_acme").rmdir()
    assert await blobs.length(piece) == 0
    await blobs.delete([piece])
    with pytest.raises(BytesMissing):
        await drained(blobs.read(piece, 0, 1))


async def test_what_vanishes_or_does_not_belong_does_not_end_the_list(
    blobs: FolderBlobs, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [await begun(blobs, tenant_id) for tenant_id in ("a", "c")]
    (root / "t_a.backup").write_bytes(b"not a folder")
    (root / "t_a" / ".nfs0000000000000001").write_bytes(b"removed while somebody read it")
    (root / "lost+found").mkdir()
    monkeypatch.setattr(folder, "_names", lambda path: sorted([*os.listdir(path), *(["t_b"] if path == root else [])]))
    assert [piece async for piece in blobs.pieces()] == there


async def test_a_full_disk_is_unavailable(blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = await begun(blobs)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        with pytest.raises(StorageUnavailable):
            await blobs.append(piece, blobs.segment, [b"more"])
    assert await blobs.length(piece) == blobs.segment
    await blobs.append(piece, blobs.segment, [b"more"])
