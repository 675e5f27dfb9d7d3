"""Blobs in object storage, through obstore: S3 and what speaks like it, Google Cloud Storage, Azure, a local folder.

Each segment is an object of its own, `t_<tenant>/<piece>/<number>`, written whole or not at all. Multipart uploads
would have to hold parts of 5 MiB in memory for every transfer, could not be taken up again by another process, and what
is left of an abandoned one is stored, and charged for, where no list shows it.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, from_url

from sessiond_server.blobs.contract import READ_BYTES, BytesMissing
from sessiond_server.domain.files import Piece
from sessiond_server.errors import StorageUnavailable

_log = logging.getLogger("sessiond.blobs")

SCHEMES: Final = ("file", "s3", "gs", "az")
"""Of URLs that `opened` takes."""

_T = TypeVar("_T")


def opened(url: str) -> "ObjectBlobs":
    """The blobs in a bucket or folder: `s3://bucket/prefix`, `gs://...`, `az://account/container/prefix`, `file:///path`.

    The URL's query has settings of obstore's, such as `?region=eu-central-1&endpoint=https://s3.example.org`.
    Credentials come from where the platform's own tools look for them. Connects to nothing; makes a local folder.
    Raises ValueError for a URL or setting that means nothing.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalBlobs(Path(unquote(parts.path)))
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    plain = urlunsplit(parts._replace(query=""))
    allow_http = options.get("endpoint", "").startswith("http://")
    try:
        store = from_url(
            plain,
            config=cast("Any", options),
            client_options={"allow_http": allow_http, "connect_timeout": "5s", "timeout": "30s"},
            # Patience of the storage's own: longer than a hiccup, shorter than that of whoever waits for the answer.
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=20)},
        )
    except exceptions.BaseError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return ObjectBlobs(store)


class ObjectBlobs:
    """A BlobStore (see contract.py). `store` is one of obstore's."""

    segment = 512 * 1024

    def __init__(self, store: Any) -> None:
        self._store = store

    async def append(self, piece: Piece, offset: int, data: Sequence[bytes]) -> None:
        name = _segment(piece, offset // self.segment)
        await _reaching(obstore.put_async(self._store, name, list(data), use_multipart=False))

    async def commit(self, piece: Piece) -> None:
        """An object is safe once its storage has acknowledged it."""

    async def length(self, piece: Piece) -> int:
        sizes: dict[str, int] = {}
        async for found in self._listed(_folder(piece) + "/"):
            sizes |= {entry["path"]: entry["size"] for entry in found}
        total = number = 0
        # A hole ends the piece: an append whose outcome stayed unknown may have come to pass after all.
        while (size := sizes.get(_segment(piece, number))) is not None:
            total += size
            number += 1
            if size < self.segment:
                break
        return total

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            number, within = divmod(start, self.segment)
            count = min(self.segment - within, end - start)
            async for data in self._read(_segment(piece, number), within, count):
                start += len(data)
                yield data

    async def _read(self, name: str, start: int, count: int) -> AsyncIterator[bytes]:
        """A part of one object, as it arrives."""
        try:
            answer = await obstore.get_async(self._store, name, options={"range": (start, start + count)})
            stream = answer.stream(min_chunk_size=READ_BYTES)
            async for buffer in stream:
                data = memoryview(buffer)
                count -= len(data)
                for at in range(0, len(data), READ_BYTES):
                    yield bytes(data[at : at + READ_BYTES])
        except FileNotFoundError:
            raise BytesMissing from None
        except exceptions.BaseError as error:
            await self._explain(name, start + count, error)
        if count > 0:
            raise BytesMissing

    async def _explain(self, name: str, end: int, error: Exception) -> None:
        """Tells a storage that cannot be reached from an object that is not what it should be."""
        try:
            found = await _reaching(obstore.head_async(self._store, name))
        except FileNotFoundError:
            raise BytesMissing from error
        if found["size"] < end:
            raise BytesMissing from error
        _log.warning("the storage of attachments failed", exc_info=error)
        raise StorageUnavailable from error

    async def delete(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            async for found in self._listed(_folder(piece) + "/"):
                await self._delete([entry["path"] for entry in found])

    async def _delete(self, names: list[str]) -> None:
        try:
            await _reaching(obstore.delete_async(self._store, names))
        except FileNotFoundError:
            # Some storages mind what another replica has deleted first.
            for name in names:
                try:
                    await _reaching(obstore.delete_async(self._store, name))
                except FileNotFoundError:
                    continue

    async def pieces(self) -> AsyncIterator[Piece]:
        last: Piece | None = None
        async for found in self._listed(None):
            for entry in found:
                piece = _piece(entry["path"])
                if piece is not None and piece != last:
                    last = piece
                    yield piece

    async def _listed(self, prefix: str | None) -> AsyncIterator[Sequence[Any]]:
        """All objects below a folder, or all there are, some at a time."""
        stream = obstore.list(self._store, prefix, chunk_size=1000)
        while True:
            try:
                yield await _reaching(anext(stream))
            except StopAsyncIteration:
                return


class LocalBlobs(ObjectBlobs):
    """In a folder of this machine, or of one that all replicas mount."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises ValueError when it cannot."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            super().__init__(LocalStore(prefix=folder, mkdir=True))
        except (OSError, exceptions.BaseError) as error:
            raise ValueError(f"cannot use the folder {folder}: {str(error).partition(chr(10))[0]}") from error
        self._root = folder

    async def commit(self, piece: Piece) -> None:
        """The system writes files when it likes, unless it is told to."""
        await _elsewhere(partial(_sync, self._root / _folder(piece), self._root))

    async def _read(self, name: str, start: int, count: int) -> AsyncIterator[bytes]:
        """Not as a stream: that gives 8 KiB at a time, and each costs a change of threads."""
        end = start + count
        while start < end:
            try:
                data = bytes(
                    await obstore.get_range_async(self._store, name, start=start, end=min(start + READ_BYTES, end))
                )
            except FileNotFoundError:
                raise BytesMissing from None
            except exceptions.BaseError as error:
                await self._explain(name, end, error)
            if not data:
                raise BytesMissing
            start += len(data)
            yield data

    async def delete(self, pieces: Sequence[Piece]) -> None:
        """With the folder, and with what a process that was killed left half written in it."""
        for piece in pieces:
            await _elsewhere(partial(shutil.rmtree, self._root / _folder(piece), ignore_errors=True))

    async def pieces(self) -> AsyncIterator[Piece]:
        for tenant in await _elsewhere(partial(_names, self._root)):
            for piece_id in await _elsewhere(partial(_names, self._root / tenant)):
                piece = _piece(f"{tenant}/{piece_id}/0")
                if piece is not None:
                    yield piece


def _folder(piece: Piece) -> str:
    # obstore would write a tilde otherwise than it is; tenants have no exclamation marks.
    return f"t_{piece.tenant_id.replace('~', '!')}/{piece.piece_id}"


def _segment(piece: Piece, number: int) -> str:
    return f"{_folder(piece)}/{number:08d}"


def _piece(name: str) -> Piece | None:
    """The piece that an object belongs to; None for one that is not ours."""
    tenant, _, rest = name.partition("/")
    piece_id, _, _ = rest.partition("/")
    if not tenant.startswith("t_") or not piece_id:
        return None
    return Piece(tenant.removeprefix("t_").replace("!", "~"), piece_id)


async def _reaching(request: Awaitable[_T]) -> _T:
    """What the storage answers. Raises StorageUnavailable when it does not, FileNotFoundError as it comes."""
    try:
        return await request
    except exceptions.BaseError as error:
        _log.warning("the storage of attachments failed", exc_info=error)
        raise StorageUnavailable from error


async def _elsewhere(work: Callable[[], _T]) -> _T:
    """Runs what waits for a disk in a thread."""
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        _log.warning("the storage of attachments failed", exc_info=error)
        raise StorageUnavailable from error


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync(folder: Path, root: Path) -> None:
    """Writes the folder's files, and the folders down to it, to the disk."""
    for path in (*_files(folder), folder, folder.parent, root):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _files(folder: Path) -> Iterable[Path]:
    return (folder / name for name in _names(folder))
