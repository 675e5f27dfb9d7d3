"""A real S3 server on a local folder, for the tests of object storage."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from sessiond_server.embedded.process import tied
from tests.support.ports import free_port

PROGRAM = Path(__file__).parents[2] / "build" / "s3server"
REQUIRED = "SESSIOND_REQUIRE_S3"
"""Set in CI: tests that need the server fail without it, where they would be skipped."""
ACCESS_KEY, SECRET_KEY = "sessiond-tests", "not-a-secret-" + uuid.uuid4().hex
_PATIENCE = 30.0


def needed() -> None:
    """Skips the test, or fails it, where the server has not been built."""
    if PROGRAM.exists():
        return
    reason = "the S3 server is not there: make build/s3server (needs Go)"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


class S3Server:
    """One server; every bucket is of one test. Can be stopped and started again with what it has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        for name in ("data", "meta"):
            (folder / name).mkdir()

    def start(self) -> None:
        """Returns when the server answers. Another program may take the port first: another one is tried then."""
        for _ in range(5):
            self.port = self.port or free_port()
            self._process = subprocess.Popen(
                tied([
                    PROGRAM, "--quiet", "--port", f"127.0.0.1:{self.port}",
                    "posix", "--sidecar", self._folder / "meta", self._folder / "data",
                ], signal.SIGKILL),
                env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            if self._answers(self._process):
                return
            self.stop()
            self.port = 0
        raise RuntimeError("the S3 server does not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def bucket(self) -> str:
        """The URL of a new bucket. A folder on the top level is one."""
        name = f"test-{uuid.uuid4().hex}"
        (self._folder / "data" / name).mkdir()
        endpoint = quote(f"http://127.0.0.1:{self.port}", safe="")
        return f"s3://{name}/prefix?endpoint={endpoint}&region=us-east-1"

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        until = time.monotonic() + _PATIENCE
        while process.poll() is None and time.monotonic() < until:
            try:
                with closing(socket.create_connection(("127.0.0.1", self.port), timeout=1.0)):
                    return True
            except OSError:
                time.sleep(0.02)
        return False


@contextmanager
def running() -> Iterator[S3Server]:
    folder = Path(tempfile.mkdtemp(prefix="sessiond-s3-"))
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
