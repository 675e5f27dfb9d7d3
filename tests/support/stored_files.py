"""Counts the rows and bytes that attachments take, and those without a reference."""

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg

from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.blobs.reaper import reap, reap_orphans
from sessiond_server.postgres.blobs import PostgresBlobs
from sessiond_server.postgres.store import PostgresStore

ROWS = ("attachments", "uploads", "blobs", "releases", "pieces")


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows by table, and bytes where they lie."""

    rows: dict[str, int]
    size_bytes: int
    strays: int
    """Pieces with bytes that no row knew."""


async def reaped(postgres_dsn: str, folder: Path | None) -> Stored:
    """Returns what is stored after the bytes without a reference have been removed, as the reaper removes them in time;
    `folder` None: the bytes lie in the database."""
    async with (
        PostgresStore(postgres_dsn, upload_retention=timedelta(0)) as store,
        PostgresBlobs(postgres_dsn) as in_postgres,
    ):
        blobs: BlobStore = in_postgres if folder is None else FolderBlobs(folder)
        connection = await asyncpg.connect(postgres_dsn)
        try:
            await store.attachments.abandon_uploads(10_000)
            # The grace of writers who are all gone.
            await connection.execute("update pieces set drop_time = now() where drop_time is not null")
            await reap(store.attachments, blobs)
            strays = await reap_orphans(blobs, store.attachments)
            rows = {name: await connection.fetchval(f"select count(*) from {name}") for name in ROWS}
            in_rows = await connection.fetchval("select coalesce(sum(octet_length(data)), 0) from blob_rows")
        finally:
            await connection.close()
    size = in_rows if folder is None else await asyncio.to_thread(_size, folder)
    return Stored(rows, size, strays)


def _size(folder: Path) -> int:
    return sum(os.path.getsize(Path(path, name)) for path, _, names in os.walk(folder) for name in names)
