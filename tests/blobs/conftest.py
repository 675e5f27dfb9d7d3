"""The blob stores that the suite runs over, each twice: as two replicas have it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sessiond_server.blobs.folder import FolderBlobs
from sessiond_server.blobs.objects import opened
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.postgres.blobs import PostgresBlobs
from tests.support import s3
from tests.support.blob_backend import Backend
from tests.support.databases import Databases


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.S3Server]:
    s3.needed()
    with s3.running() as server:
        yield server


@pytest.fixture(scope="session")
def blobs_dsn(databases: Databases) -> Iterator[str]:
    """A database that the tests of blobs share: no piece is of two tests."""
    dsn = databases.create_migrated()
    yield dsn
    databases.drop(dsn)


@pytest.fixture(params=["memory", "postgres", "folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A DSN, a URL, or nothing. Servers start here, outside of any event loop."""
    kind: str = request.param
    if kind == "postgres":
        dsn: str = request.getfixturevalue("blobs_dsn")
        return dsn
    if kind == "s3":
        server: s3.S3Server = request.getfixturevalue("s3_server")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)
        return server.bucket()
    return "" if kind == "memory" else str(tmp_path / "blobs")


@pytest.fixture
async def backend(place: str) -> AsyncIterator[Backend]:
    async with AsyncExitStack() as stack:
        if not place:
            memory = MemoryBlobs()
            yield Backend(memory, memory)
        elif place.startswith("postgres"):
            yield Backend(
                await stack.enter_async_context(PostgresBlobs(place, max_connections=2)),
                await stack.enter_async_context(PostgresBlobs(place, max_connections=2)),
            )
        elif place.startswith("s3"):
            yield Backend(opened(place), opened(place))
        else:
            yield Backend(FolderBlobs(Path(place)), FolderBlobs(Path(place)))
