"""Blobs in a folder of this machine, or in one that all replicas mount; one file per piece, `t_<tenant>/<piece>`.

It does not use obstore, which writes each file whole and under a temporary name first: that took three times the CPU.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sessiond_server.blobs.contract import READ_BYTES, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable

_log = logging.getLogger("sessiond.blobs")

_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
"""Linux flag: read only what is in the page cache. A thread switch and back costs as much as copying half a MiB."""
_PREFIX: Final = "t_"
"""Starts the name of a tenant's folder, because some tenant ids would otherwise be special paths."""

_T = TypeVar("_T")


class FolderBlobs:
    """Implements `contract.BlobStore` in a folder."""

    segment = 512 * 1024

    def __init__(self, folder: Path) -> None:
        """Creates the folder if necessary. Raises ValueError if it cannot be used."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot use the folder {folder}: {error.strerror}") from error
        self._root = folder

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        await self._in_thread(partial(_write, self._path(piece), offset, data))

    async def commit(self, piece: Piece) -> None:
        """Flushes the file and its directories to the disk (fsync)."""
        await self._in_thread(partial(_sync, self._path(piece), self._root))

    async def length(self, piece: Piece) -> int:
        try:
            return (await self._in_thread(self._path(piece).stat)).st_size
        except BytesMissing:
            return 0

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        if start >= end:
            return
        handle = await self._in_thread(partial(os.open, self._path(piece), os.O_RDONLY | os.O_CLOEXEC))
        try:
            while start < end:
                count = min(end - start, READ_BYTES)
                data = _read_cached(handle, start, count) or await self._in_thread(
                    partial(os.pread, handle, count, start)
                )
                if not data:
                    raise BytesMissing
                start += len(data)
                yield data
        finally:
            os.close(handle)

    async def delete(self, pieces: Sequence[Piece]) -> None:
        await self._in_thread(partial(_remove, [self._path(piece) for piece in pieces], self._root))

    async def pieces(self) -> AsyncIterator[Piece]:
        for tenant in await self._in_thread(partial(_names, self._root)):
            if tenant.startswith(_PREFIX):
                for name in await self._in_thread(partial(_names_within, self._root / tenant)):
                    if (piece := Piece.parse(tenant.removeprefix(_PREFIX), name)) is not None:
                        yield piece

    def _path(self, piece: Piece) -> Path:
        return self._root / f"{_PREFIX}{piece.tenant_id}" / piece.piece_id

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Runs `work`, which may wait for a disk, in a thread. Raises BytesMissing for a missing file, but
        StorageUnavailable if the whole folder is missing, because then nothing is known to be lost."""
        run = asyncio.get_running_loop().run_in_executor
        try:
            return await run(None, work)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and await run(None, _is_there, self._root):
                raise BytesMissing from None
            _log.warning("the storage of attachments failed", exc_info=error)
            raise StorageUnavailable from error


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _write(path: Path, offset: int, data: Sequence[Buffer]) -> None:
    if not offset:
        path.parent.mkdir(exist_ok=True)  # never creates the root: while its disk is unmounted, it would be elsewhere
    with _opened(path, os.O_WRONLY | (0 if offset else os.O_CREAT)) as handle:
        written, size = os.pwritev(handle, data, offset), sum(map(len, data))
        while written < size:  # a short write: the disk is nearly full, or a signal arrived
            written += os.pwrite(handle, memoryview(b"".join(data))[written:], offset + written)


def _read_cached(handle: int, start: int, count: int) -> Buffer:
    """Bytes from the page cache, read without waiting for the disk; b"" if it does not have them."""
    if not _NOWAIT:
        return b""
    buffer = bytearray(count)
    try:
        return memoryview(buffer)[: os.preadv(handle, [buffer], start, _NOWAIT)]
    except OSError:
        return b""


def _sync(path: Path, root: Path) -> None:
    """Flushes the file, and the directories on its path, to the disk."""
    for one in (path, path.parent, root):
        with _opened(one, os.O_RDONLY) as handle:
            os.fsync(handle)


def _remove(paths: Sequence[Path], root: Path) -> None:
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            if not _is_there(root):
                raise


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        return False


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _names_within(folder: Path) -> list[str]:
    """The names in a folder; none if it is not a folder or has vanished since it was listed."""
    try:
        return _names(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
