"""Opens the storage for the bytes of attachments that the settings name."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from sessiond_server.app.errors import CannotReachBlobs
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.errors import StorageUnavailable
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.settings import SecretUrl, SettingError, Settings

_log = logging.getLogger("sessiond.app")

BLOBS_SECONDS: Final = 10.0
"""Seconds within which the storage of attachments must answer the first request."""


@asynccontextmanager
async def opened_blobs(settings: Settings, dsn: str | None) -> AsyncIterator[BlobStore]:
    """The storage for the bytes of attachments. Raises SettingError."""
    if settings.blob_store is not None:
        yield _object_store(settings.blob_store.reveal())
    elif settings.store == "memory":
        yield MemoryBlobs()
    else:
        from sessiond_server.postgres.blobs import PostgresBlobs

        assert dsn is not None
        async with PostgresBlobs(dsn, max_connections=settings.blob_connections) as blobs:
            yield blobs


async def reach_blobs(blobs: BlobStore, url: SecretUrl) -> None:
    """Sends a request to the storage of attachments. Raises CannotReachBlobs."""
    try:
        async with asyncio.timeout(BLOBS_SECONDS):
            async for _ in blobs.pieces():
                break
    except (StorageUnavailable, TimeoutError) as error:
        why = f"no answer within {BLOBS_SECONDS:g} s"
        if isinstance(error, StorageUnavailable):
            why = type(error.__cause__).__name__
        raise CannotReachBlobs(url, why) from error


async def say_whether_reachable(blobs: BlobStore, url: SecretUrl) -> None:
    """Logs an error if the storage of attachments cannot be reached."""
    try:
        await reach_blobs(blobs, url)
    except CannotReachBlobs as error:
        _log.error("%s", error)


def _object_store(url: str) -> BlobStore:
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            return FolderBlobs(Path(unquote(parts.path)))
        except ValueError as error:
            raise SettingError(f"--blob-store: {error}") from error
    try:
        from sessiond_server.blobs.objects import opened
    except ImportError as error:
        raise SettingError("--blob-store needs obstore: install sessiond[objects]") from error
    try:
        return opened(url)
    except ValueError as error:
        raise SettingError(f"--blob-store: {error}") from error
