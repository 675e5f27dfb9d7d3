"""The bundled Valkey: a cache in memory, which loses everything when it stops."""

import asyncio
import signal
import socket
from pathlib import Path

from sessiond_server.embedded.errors import EmbeddedError
from sessiond_server.embedded.folder import DataFolder
from sessiond_server.embedded.process import Child

_START_SECONDS = 30
_STOP_SECONDS = 5
_MAX_MEMORY = "256mb"


class ValkeyServer:
    """One Valkey server, which listens on a Unix socket only. Stores nothing on disk; at its memory limit it evicts the
    least used keys."""

    def __init__(self, folder: DataFolder, program: Path, sockets: Path) -> None:
        self._folder = folder
        self._program = program
        self._socket = sockets / "valkey.sock"
        self._child: Child | None = None
        self.url = f"unix://{self._socket}"

    async def start(self) -> None:
        """Starts the server and waits until it answers. Raises EmbeddedError."""
        self._socket.unlink(missing_ok=True)
        log = self._folder.log_file("valkey")
        self._child = Child(
            self._folder.account,
            [
                self._program,
                "--port", "0",
                "--unixsocket", self._socket,
                "--unixsocketperm", "700",
                "--dir", self._socket.parent,
                "--save", "",
                "--appendonly", "no",
                "--maxmemory", _MAX_MEMORY,
                "--maxmemory-policy", "allkeys-lru",
            ],
            log,
            signal.SIGTERM,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not self._answers():
                    if self._child.exit_code is not None:
                        raise EmbeddedError("the bundled Valkey did not start", f"its output is in {log}")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise EmbeddedError(
                f"the bundled Valkey did not answer within {_START_SECONDS} s", f"its output is in {log}"
            ) from None

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(signal.SIGTERM, _STOP_SECONDS)
        self._socket.unlink(missing_ok=True)

    async def ended(self) -> int:
        """Waits until the server has ended, for any reason, and returns its exit code."""
        assert self._child is not None
        return await self._child.ended(poll=0.25)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False
