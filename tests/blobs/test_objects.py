"""Faults of object storage: it is configured wrongly, or is down."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import obstore
import pytest

from sessiond_server.blobs import objects
from sessiond_server.blobs.objects import ObjectBlobs, opened
from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.errors import StorageUnavailable
from tests.support import s3
from tests.support.proxy import Proxy


async def drained(source: AsyncIterator[object]) -> None:
    async for _ in source:
        pass


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket?region",
        "s3://bucket?no_such_setting=hunter2",
    ],
)
def test_urls_that_mean_nothing_or_too_much(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is obstore's, but for what it must not say
        opened(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("credentials")
async def test_a_storage_that_is_away_is_unavailable_and_serves_when_it_is_back() -> None:
    s3.needed()
    with s3.running() as server:
        blobs, piece = opened(server.bucket()), Piece("acme", str(uuid4()))
        await blobs.append(piece, 0, [bytes(blobs.segment)])
        server.stop()

        async def read() -> None:
            async for _ in blobs.read(piece, 0, 10):
                raise AssertionError("something came")

        async def listed() -> None:
            async for _ in blobs.pieces():
                raise AssertionError("something came")

        failures = await asyncio.gather(
            blobs.append(piece, blobs.segment, [b"more"]),
            blobs.length(piece),
            blobs.delete([piece]),
            read(),
            listed(),
            return_exceptions=True,
        )
        assert [type(failure) for failure in failures] == [StorageUnavailable] * 5
        await asyncio.to_thread(server.start)
        assert await blobs.length(piece) == blobs.segment
        await blobs.append(piece, blobs.segment, [b"more"])
        assert b"".join([bytes(data) async for data in blobs.read(piece, blobs.segment, blobs.segment + 4)]) == b"more"


@pytest.mark.usefixtures("credentials")
async def test_a_bucket_that_is_not_there_is_no_missing_piece() -> None:
    """A wrong setting must not look like attachments that are lost."""
    s3.needed()
    with s3.running() as server:
        url = server.bucket().replace("s3://test-", "s3://other-")
        blobs, piece = opened(url), Piece("acme", str(uuid4()))
        with pytest.raises(StorageUnavailable):
            await blobs.append(piece, 0, [b"data"])
        with pytest.raises(StorageUnavailable):
            await blobs.length(piece)


async def test_foreign_objects_in_a_bucket_are_not_listed_as_pieces() -> None:
    store, piece = obstore.store.MemoryStore(), Piece("acme", str(uuid4()))
    blobs = ObjectBlobs(store)
    await blobs.append(piece, 0, [b"data"])
    for name in ("t_acme/inventory.csv", "t_acme/inventory/00000000", "t_acme", "other"):
        await obstore.put_async(store, name, b"x")
    assert [found async for found in blobs.pieces()] == [piece]


@pytest.mark.usefixtures("credentials")
async def test_a_storage_that_goes_away_in_the_middle_is_unavailable() -> None:
    """It must never look like missing bytes: an attachment would be reported as lost, and an upload abandoned."""
    s3.needed()
    with s3.running() as server:
        blobs, piece = opened(server.bucket()), Piece("acme", str(uuid4()))
        for number in range(4):
            await blobs.append(piece, number * blobs.segment, [bytes(blobs.segment)])
        reading = blobs.read(piece, 0, 4 * blobs.segment)
        assert await anext(reading)
        server.stop()
        with pytest.raises(StorageUnavailable):
            await drained(reading)


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("way", ["both", "onward", "back"])
async def test_request_on_a_silent_connection_is_made_again_on_another(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    s3.needed()
    monkeypatch.setattr(objects, "REQUEST_SECONDS", 4.0)  # longer than an idle connection is kept
    with s3.running() as server:
        async with Proxy("127.0.0.1", server.port) as proxy:
            url = server.bucket().replace(str(server.port), str(proxy.port))
            blobs, piece = opened(url), Piece("acme", str(uuid4()))
            await blobs.append(piece, 0, [bytes(blobs.segment)])
            proxy.silence(onward=way != "back", back=way != "onward")
            await blobs.append(piece, blobs.segment, [b"more"])
            proxy.silence(onward=way != "back", back=way != "onward")
            assert await blobs.length(piece) == blobs.segment + 4
            proxy.silence(onward=way != "back", back=way != "onward")
            assert (
                b"".join([bytes(data) async for data in blobs.read(piece, blobs.segment, blobs.segment + 4)]) == b"more"
            )


@pytest.mark.usefixtures("credentials")
async def test_storage_that_accepts_and_never_answers_or_crawls_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    s3.needed()
    monkeypatch.setattr(objects, "REQUEST_SECONDS", 0.5)
    with s3.running() as server:
        async with Proxy("127.0.0.1", server.port) as proxy:
            url = server.bucket().replace(str(server.port), str(proxy.port))
            blobs, piece = opened(url), Piece("acme", str(uuid4()))
            await blobs.append(piece, 0, [b"first"])
            for hurt in ("stall", "crawl"):
                if hurt == "stall":
                    proxy.stall()
                else:
                    proxy.crawling = True
                async with asyncio.timeout(20):
                    with pytest.raises(StorageUnavailable):
                        await blobs.append(piece, blobs.segment, [b"more"])
                    with pytest.raises(StorageUnavailable):
                        await drained(blobs.read(piece, 0, 5))
                proxy.flow()
            await drained(blobs.read(piece, 0, 5))
