"""Attachments through the running service: many at once in little memory, and a stop in the middle of an upload."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

import sessiond
from sessiond.v1.attachment_pb2 import Attachment
from tests.app.serving import Serving, serving

MIB = 1024 * 1024
TRANSFERS = 20
SIZE = 8 * MIB
MOST = 64 * MIB


def resident(pid: int, line: str = "VmRSS") -> int:
    """Bytes of a process that are in memory; with VmHWM the most there were."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(text for text in status.splitlines() if text.startswith(line)).split()[1]) * 1024


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
