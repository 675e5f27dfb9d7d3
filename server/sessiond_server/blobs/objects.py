"""Blobs in object storage, through obstore: S3 and what speaks like it, Google Cloud Storage, Azure.

Each segment is an object of its own, `t_<tenant>/<piece>/<number>`, written whole or not at all. Multipart uploads
would have to hold parts of 5 MiB in memory for every transfer, could not be taken up again by another process, and what
is left of an abandoned one is stored, and charged for, where no list shows it.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import obstore
from obstore import exceptions
from obstore.store import from_url

from sessiond_server.blobs.contract import READ_BYTES, Buffer, BytesMissing
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable

_log = logging.getLogger("sessiond.blobs")

REQUEST_SECONDS: Final = 8.0
"""For one request, its body included, which has 512 KiB at most: 64 KiB a second are enough. One that gets no answer,
or a byte a second, is made once more, on another connection."""

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
"""What S3, Azure and Google Cloud Storage say of a bucket that is not there: a wrong setting, not a lost piece."""

_T = TypeVar("_T")


def opened(url: str) -> "ObjectBlobs":
    """The blobs in a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix`.

    The URL's query has settings of obstore's, such as `?region=eu-central-1&endpoint=https://s3.example.org`.
    Credentials come from where the platform's own tools look for them. Connects to nothing.
    Raises ValueError, which repeats no value, for a URL or setting that means nothing.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    plain = urlunsplit(parts._replace(query=""))
    allow_http = options.get("endpoint", "").startswith("http://")
    try:
        store = from_url(
            plain,
            config=cast("Any", options),
            client_options={
                "allow_http": allow_http,
                "connect_timeout": "4s",
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                # A connection that has been silent since before a request began is not taken for its second try.
                "pool_idle_timeout": "3s",
            },
            # Longer than a hiccup and than one request that gets no answer, shorter than whoever waits for it would.
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=1.5 * REQUEST_SECONDS)},
        )
    except exceptions.BaseError as error:
        given = f" with the settings {', '.join(sorted(options))}" if options else ""
        raise ValueError(f"obstore takes no {parts.scheme}:// URL like this{given}: {type(error).__name__}") from error
    return ObjectBlobs(store)


class ObjectBlobs:
    """A BlobStore (see contract.py). `store` is one of obstore's."""

    segment = 512 * 1024

    def __init__(self, store: Any) -> None:
        self._store = store

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        name = _segment(piece, offset // self.segment)
        await _translated(obstore.put_async(self._store, name, list(data), use_multipart=False))

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

    async def read(self, piece: Piece, start: int, end: int) -> AsyncIterator[Buffer]:
        while start < end:
            number, within = divmod(start, self.segment)
            count = min(self.segment - within, end - start)
            async for data in self._read(_segment(piece, number), within, count):
                start += len(data)
                yield data

    async def _read(self, name: str, start: int, count: int) -> AsyncIterator[Buffer]:
        """A part of one object.

        It is fetched whole, a segment at most: a client that takes its time would else make the request look silent.
        """
        try:
            found = await obstore.get_range_async(self._store, name, start=start, end=start + count)
        except FileNotFoundError as error:
            _check_bucket(error)
            raise BytesMissing from None
        except exceptions.BaseError as error:
            await self._explain(name, start + count, error)
        data = memoryview(found)
        for at in range(0, len(data), READ_BYTES):
            yield data[at : at + READ_BYTES]
        if len(data) < count:
            raise BytesMissing

    async def _explain(self, name: str, end: int, error: Exception) -> NoReturn:
        """Tells a storage that cannot be reached from an object that is not what it should be."""
        try:
            found = await _translated(obstore.head_async(self._store, name))
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
            await _translated(obstore.delete_async(self._store, names))
        except FileNotFoundError:
            # Some storages mind what another replica has deleted first.
            for name in names:
                try:
                    await _translated(obstore.delete_async(self._store, name))
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
                yield await _translated(anext(stream))
            except StopAsyncIteration:
                return


def _folder(piece: Piece) -> str:
    # obstore would write a tilde otherwise than it is; tenants have no exclamation marks.
    return f"t_{piece.tenant_id.replace('~', '!')}/{piece.piece_id}"


def _segment(piece: Piece, number: int) -> str:
    return f"{_folder(piece)}/{number:08d}"


def _piece(name: str) -> Piece | None:
    """The piece that an object belongs to; None for one that is not ours."""
    tenant, _, rest = name.partition("/")
    piece_id, _, _ = rest.partition("/")
    if not tenant.startswith("t_"):
        return None
    return Piece.parse(tenant.removeprefix("t_").replace("!", "~"), piece_id)


async def _translated(request: Awaitable[_T]) -> _T:
    """What the storage answers. Raises StorageUnavailable when it does not, FileNotFoundError of a single object."""
    try:
        return await request
    except FileNotFoundError as error:
        _check_bucket(error)
        raise
    except exceptions.BaseError as error:
        _log.warning("the storage of attachments failed", exc_info=error)
        raise StorageUnavailable from error


def _check_bucket(error: FileNotFoundError) -> None:
    """Raises StorageUnavailable unless the error is about a single object."""
    if any(words in str(error) for words in _NO_BUCKET):
        _log.warning("the bucket of attachments is not there", exc_info=error)
        raise StorageUnavailable from error
