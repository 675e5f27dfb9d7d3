"""A killed test run or campaign leaves no process that it has started."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

import pytest

from sessiond_server.embedded.process import tied
from tests.support.effort import left_to_long
from tests.support.waiting import PATIENCE, until

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
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

@pytest.fixture
def made() -> Iterator[None]:
    yield
    (FOLDER / "removed").touch()

def test_waits(made: None) -> None:
    (FOLDER / "made").touch()
    signal.pause()

def test_another() -> None:
    pass
"""

LEAVES = """
import subprocess, sys

SLEEPS = [sys.executable, "-c", "import time; time.sleep(3600)"]

def test_leaves_a_child() -> None:
    if KIND == "child":
        process = subprocess.Popen(SLEEPS)
    else:
        starter = f"import subprocess; print(subprocess.Popen({SLEEPS}, stdout=subprocess.DEVNULL).pid)"
        process = int(subprocess.run([sys.executable, "-c", starter], stdout=subprocess.PIPE, check=True).stdout)
    with open(FILE, "w") as file:
        file.write(str(process if isinstance(process, int) else process.pid))
    globals()["kept"] = process
"""

WORKERS = pytest.mark.parametrize("workers", [*left_to_long([]), ["-n", "2"]], ids=["alone", "two workers"])
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


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


def run_of(file: Path, *arguments: str) -> list[str]:
    """The command of a run of one file of tests with our conftest."""
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", "/dev/null"]
    pytest_ = [sys.executable, "-m", "pytest", *options, "--rootdir", str(file.parent), *arguments]
    return tied([*pytest_, str(file)], signal.SIGKILL)


@pytest.mark.long
@WORKERS
async def test_terminated_run_removes_what_its_fixtures_made(tmp_path: Path, workers: list[str]) -> None:
    file = tmp_path / "test_waits.py"
    file.write_text(WAITS)
    run = await asyncio.create_subprocess_exec(*run_of(file, *workers), stdout=PIPE)
    await until((tmp_path / "made").exists)
    run.send_signal(signal.SIGTERM)
    output, _ = await run.communicate()
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output.decode()
    assert (tmp_path / "removed").exists(), output.decode()


@pytest.mark.long
@LINUX
@WORKERS
@pytest.mark.parametrize("kind", ["child", "orphan"])
def test_run_that_leaves_a_process_behind_fails(
    tmp_path: Path, workers: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, left = tmp_path / "test_leaves.py", tmp_path / "left"
    file.write_text(f"KIND, FILE = {kind!r}, {str(left)!r}\n{LEAVES}")
    monkeypatch.setenv("TESTS_GRACE", "0.1")
    run = subprocess.run(run_of(file, *workers), stdout=subprocess.PIPE, text=True, check=False)
    try:
        assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout
        assert f"a test left this process behind: {left.read_text()} " in run.stdout
        assert " 1 passed, 1 error in " in run.stdout.splitlines()[-1]
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
