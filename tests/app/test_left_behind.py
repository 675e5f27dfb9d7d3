"""A test run or campaign that is killed takes along every process that it has started."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

import pytest

from sessiond_server.embedded.process import tied
from tests.support.waiting import PATIENCE

STARTS = """
import asyncio, sys
from pathlib import Path

from benchmarks.site import serving as measured
from tests.support.serve_process import serving
from tests.support.s3 import PROGRAM, S3Server
from tests.support.valkey import Valkey
from tests.support.blocking_server import Server
from tests.support.replica import Replica

async def main(folder):
    valkey = Valkey(folder / "valkey")
    await valkey.start()
    ports = [valkey.port]
    if PROGRAM.exists():
        (folder / "s3").mkdir()
        s3 = S3Server(folder / "s3")
        s3.start()
        ports.append(s3.port)
    replica = Replica("", folder / "log", {"SESSIOND_STORE": "memory"})
    await replica.start()
    demo = Server("--store", "memory", "--listen", "127.0.0.1:0")
    async with serving("--store", "memory") as server:
        with measured(None, folder, None) as site:
            print(*ports, replica.port, demo.address.partition(":")[2], server.port, site.port, flush=True)
            await asyncio.sleep(3600)

asyncio.run(main(Path(sys.argv[1])))
"""

WAITS = """
import signal
from collections.abc import Iterator

import pytest

@pytest.fixture
def made() -> Iterator[None]:
    yield
    print("removed", flush=True)

def test_waits(made: None) -> None:
    print("made", flush=True)
    signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent (see embedded/child.py)")
async def test_a_run_that_is_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    there = {**os.environ, "TMPDIR": str(tmp_path)}  # what it cannot remove any more goes with the test
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", STARTS, tmp_path, stdout=PIPE, env=there)
    try:
        assert run.stdout
        async with asyncio.timeout(PATIENCE):
            ports = [int(port) for port in (await run.stdout.readline()).split()]
            assert len(ports) >= 5
            for port in ports:
                while not await _listens(port):  # noqa: ASYNC110  another process sets no event
                    await asyncio.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            run.send_signal(signal.SIGKILL)
        await run.wait()
    async with asyncio.timeout(10):
        for port in ports:
            while await _listens(port):  # noqa: ASYNC110  the same
                await asyncio.sleep(0.01)


async def test_a_run_that_is_told_to_end_removes_what_it_has_made(tmp_path: Path) -> None:
    file = tmp_path / "test_waits.py"
    file.write_text(WAITS)
    arguments = ["-s", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    run = await asyncio.create_subprocess_exec(
        *tied([sys.executable, "-m", "pytest", *arguments, file], signal.SIGKILL), stdout=PIPE
    )
    assert run.stdout
    async with asyncio.timeout(PATIENCE):
        await run.stdout.readuntil(b"made\n")
        run.send_signal(signal.SIGTERM)
        assert b"removed" in await run.stdout.read()
        await run.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
