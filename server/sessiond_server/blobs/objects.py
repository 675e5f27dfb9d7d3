"""Blobs in object storage, through obstore: S3 and compatible services, Google Cloud Storage, Azure.

Each segment is a separate object, `t_<tenant>/<piece>/<number>`, written completely or not at all. Multipart uploads
are not used: each transfer would hold parts of 5 MiB in memory, another process could not resume it, and an abandoned
one would leave data that is charged for but that no listing shows.
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
"""Timeout of one request, including its body of at most 512 KiB, so that 64 KiB per second are enough. A request that
gets no answer, or a byte per second, is retried once on another connection."""

_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
"""How S3, Azure and Google Cloud Storage report a missing bucket, which is a wrong setting, not a lost piece."""

_T = TypeVar("_T")


def opened(url: str) -> "ObjectBlobs":
    """Opens the blobs in a bucket: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://account/container/prefix`.

    The URL's query has settings of obstore, such as `?region=eu-central-1&endpoint=https://s3.example.org`. Credentials
    come from where the platform's own tools look for them. Does not connect.
    Raises ValueError, whose text quotes no value, for an invalid URL or setting.
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
                # Shorter than a request, so that a retry does not use a connection that was idle before the request.
                "pool_idle_timeout": "3s",
            },
            # Longer than a short interruption and than one unanswered request, shorter than any caller's timeout.
            retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=1.5 * REQUEST_SECONDS)},
        )
    except exceptions.BaseError as error:
        given = f" with the settings {', '.join(sorted(options))}" if options else ""
        raise ValueError(f"obstore rejects this {parts.scheme}:// URL{given}: {type(error).__name__}") from error
    return ObjectBlobs(store)


class ObjectBlobs:
    """Implements `contract.BlobStore` over `store`, a store of obstore."""

    segment = 512 * 1024

    def __init__(self, store: Any) -> None:
        self._store = store

    async def append(self, piece: Piece, offset: int, data: Sequence[Buffer]) -> None:
        name = _segment(piece, offset // self.segment)
        await _translated(obstore.put_async(self._store, name, list(data), use_multipart=False))

    async def commit(self, piece: Piece) -> None:
        """Does nothing: an object is durable once its storage has acknowledged it."""

    async def length(self, piece: Piece) -> int:
        sizes: dict[str, int] = {}
        async for found in self._listed(_folder(piece) + "/"):
            sizes |= {entry["path"]: entry["size"] for entry in found}
        total = number = 0
        # A gap ends the piece: an object after it comes from an append whose outcome was unknown.
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

        It fetches the part, at most a segment, before yielding it: a slow client would otherwise delay the request
        until it times out.
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
        """Raises BytesMissing if the object is missing or too short, else StorageUnavailable."""
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
            # Some storages fail on an object that another replica has deleted first.
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
        """Lists all objects below a prefix, or all objects, in batches."""
        stream = obstore.list(self._store, prefix, chunk_size=1000)
        while True:
            try:
                yield await _translated(anext(stream))
            except StopAsyncIteration:
                return


def _folder(piece: Piece) -> str:
    # obstore would escape a tilde. Tenant ids contain no exclamation marks.
    return f"t_{piece.tenant_id.replace('~', '!')}/{piece.piece_id}"


def _segment(piece: Piece, number: int) -> str:
    return f"{_folder(piece)}/{number:08d}"


def _piece(name: str) -> Piece | None:
    """The piece to which an object belongs; None for an object that is not ours."""
    tenant, _, rest = name.partition("/")
    piece_id, _, _ = rest.partition("/")
    if not tenant.startswith("t_"):
        return None
    return Piece.parse(tenant.removeprefix("t_").replace("!", "~"), piece_id)


async def _translated(request: Awaitable[_T]) -> _T:
    """Awaits a request. Raises StorageUnavailable if it fails, FileNotFoundError if a single object is missing."""
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
        _log.warning("the bucket of attachments does not exist", exc_info=error)
        raise StorageUnavailable from error
