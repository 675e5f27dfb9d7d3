"""Attachments through the running service: many at once in little memory, and a stop in the middle of an upload."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import grpc
import pytest

import sessiond
from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import UploadAttachmentRequest, UploadHeader
from sessiond.v1.attachment_service_pb2_grpc import AttachmentServiceStub
from tests.support.effort import left_to_long
from tests.support.proxy import Proxy
from tests.support.serve_process import Serving, serving
from tests.support.waiting import PATIENCE

MIB = 1024 * 1024
TRANSFERS = 20
SIZE = 8 * MIB
MOST = 64 * MIB


def resident(pid: int, line: str = "VmRSS") -> int:
    """Bytes of a process that are in memory; with VmHWM the most there were."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(text for text in status.splitlines() if text.startswith(line)).split()[1]) * 1024


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells of memory on Linux only")
async def test_twenty_transfers_at_once_take_little_memory(tmp_path: Path) -> None:
    """`make bench ROWS=transfer_memory` does it with 200 MiB each, and Postgres."""
    folder = (tmp_path / "blobs").as_uri()
    async with serving("--store", "memory", "--blob-store", folder) as server, sessiond.Client(server.target) as client:
        session = await client.create_session()
        # What any first transfer brings into memory is not that of many.
        warm = await client.upload(session.session_id, b"warm")
        await client.download(session.session_id, warm.attachment_id).read()
        content, before = Random(1).randbytes(SIZE), resident(server.process.pid)

        async def uploaded(number: int) -> Attachment:
            # Connections of their own: what a server takes in before anybody asks for it, it does for each.
            async with sessiond.Client(server.target) as own:
                return await own.upload(session.session_id, bytes([number]) + content[1:])

        async def downloaded(attachment: Attachment) -> int:
            async with sessiond.Client(server.target) as own:
                copy = tmp_path / attachment.attachment_id
                await own.download(session.session_id, attachment.attachment_id).save(copy)
                return copy.stat().st_size

        made = await asyncio.gather(*map(uploaded, range(TRANSFERS)))
        assert all(attachment.size_bytes == SIZE for attachment in made)
        assert await asyncio.gather(*map(downloaded, made)) == [SIZE] * TRANSFERS
        assert resident(server.process.pid, "VmHWM") - before < MOST


@pytest.fixture(params=["postgres", *left_to_long("folder")])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The folder that the bytes lie in; None: in the database."""
    return tmp_path / "blobs" if request.param == "folder" else None


@pytest.mark.long
async def test_transfers_go_on_by_themselves_when_their_server_is_killed(
    postgres_dsn: str, storage: Path | None, tmp_path: Path
) -> None:
    content, target = Random(3).randbytes(8 * MIB), tmp_path / "there"
    arguments = ["--postgres-dsn", postgres_dsn]
    if storage is not None:
        arguments += ["--blob-store", storage.as_uri()]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(*arguments))
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", server.port))
        reconnect = sessiond.Reconnect(initial_backoff=0.01, max_backoff=0.1)
        client = await stack.enter_async_context(sessiond.Client(f"127.0.0.1:{proxy.port}", reconnect=reconnect))
        await client.create_session("s")
        halfway = asyncio.Event()

        def progress(done: int, total: int) -> None:
            if done > total // 2 and not halfway.is_set():
                halfway.set()
                server.process.kill()

        async def replaced(transfer: Awaitable[Attachment]) -> Attachment:
            """What comes of a transfer whose server is killed in its middle, for another one to come."""
            nonlocal server
            halfway.clear()
            moving = asyncio.ensure_future(transfer)
            await halfway.wait()
            await server.ended()
            server = await stack.enter_async_context(serving(*arguments))
            proxy.point_to(server.port)
            return await moving

        attachment = await replaced(client.upload("s", content, attachment_id="a", progress=progress))
        assert (attachment.size_bytes, attachment.sha256) == (len(content), sha256(content).digest())
        assert await replaced(client.download("s", "a", progress=progress).save(target)) == attachment
        assert target.read_bytes() == content
        # Distinguishes bytes that were changed in storage from bytes that were changed on the way out.
        await _corrupt(postgres_dsn, storage)
        with pytest.raises(sessiond.ChecksumMismatch):
            await client.download("s", "a").save(target)
        assert target.read_bytes() == content


async def _corrupt(dsn: str, folder: Path | None) -> None:
    """Turns one bit of each piece."""
    for path in folder.glob("*/*") if folder is not None else ():
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    connection = await asyncpg.connect(dsn)
    await connection.execute("update blob_rows set data = set_bit(data, 9, 1 - get_bit(data, 9)) where number = 0")
    await connection.close()


@pytest.mark.long
async def test_the_reaper_leaves_nothing(postgres_dsn: str, storage: Path | None) -> None:
    """Of an attachment and of an upload in mid-stream whose session is deleted, though the storage was away then."""
    content, halfway, never = Random(4).randbytes(2 * MIB), asyncio.Event(), asyncio.Event()
    arguments = ["--postgres-dsn", postgres_dsn, "--sweep-interval", "50ms"]
    if storage is not None:
        arguments += ["--blob-store", storage.as_uri()]

    async def stopping() -> AsyncIterator[UploadAttachmentRequest]:
        header = UploadHeader(session_id="s", attachment_id="b", size_bytes=len(content), sha256=bytes(32))
        yield UploadAttachmentRequest(header=header)
        for at in range(0, MIB, MIB // 4):
            yield UploadAttachmentRequest(chunk=content[at : at + MIB // 4])
        halfway.set()
        await never.wait()

    database = await asyncpg.connect(postgres_dsn)
    async with serving(*arguments) as server, sessiond.Client(server.target) as client:
        await client.create_session("s")
        await client.upload("s", content, attachment_id="a")
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub: Any = AttachmentServiceStub(channel)
            uploading = stub.UploadAttachment(stopping())
            await halfway.wait()
            if storage is not None:
                away = storage.rename(storage.with_name("away"))
            await client.delete_session("s")
            if storage is not None:
                await server.until_logged("cannot reap")
                away.rename(storage)
            uploading.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await uploading
        await server.stop()
    # Writers who may not know yet are given a minute; these have ended.
    await database.execute("update pieces set drop_time = now() where drop_time is not null")
    tables = ("attachments", "uploads", "blobs", "releases", "pieces", "blob_rows")
    async with serving(*arguments), asyncio.timeout(PATIENCE):
        while [name for name in tables if await database.fetchval(f"select count(*) from {name}")]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await database.close()
    assert storage is None or not [path for path in storage.rglob("*") if path.is_file()]


async def test_an_upload_goes_on_when_its_server_was_restarted(tmp_path: Path, postgres_dsn: str) -> None:
    content = Random(2).randbytes(3 * MIB)
    under_way = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    async def uploaded(server: Serving) -> sessiond.SessiondError | None:
        async with sessiond.Client(server.target) as client:
            progress = lambda done, total: under_way.set() if done > MIB else None  # noqa: E731
            try:
                await client.upload("s", pieces(), attachment_id="a", progress=progress, give_up_after=0.1)
            except sessiond.SessiondError as error:
                return error
        return None

    arguments = ("--postgres-dsn", postgres_dsn, "--grace", "0")
    async with serving(*arguments) as first:
        async with sessiond.Client(first.target) as client:
            await client.create_session("s")
        sending = asyncio.create_task(uploaded(first))
        await under_way.wait()
        await first.stop(signal.SIGKILL)
        await sending
    async with serving(*arguments) as second, sessiond.Client(second.target) as client:
        attachment = await client.upload("s", content, attachment_id="a")
        assert attachment.size_bytes == len(content)
        assert await client.download("s", "a").read() == content
