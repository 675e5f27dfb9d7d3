"""Messages between a supervisor and a worker, over a socket that only these two have.

Both run the same version, which the worker checks before it reads anything else. When either end is closed or its
process has ended, the other one notices.
"""

import asyncio
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

from sessiond_server.metrics.totals import Page
from sessiond_server.settings import Settings

_LENGTH: Final = struct.Struct(">I")
_LARGEST: Final = 16 * 1024 * 1024
"""Most bytes of a message. The largest are pages of metrics, of some 100 KiB."""
_MOST_UNSENT: Final = 1024 * 1024
"""Bytes that the other end has not taken, from which on nothing is sent to it: it stands still."""
_HELLO_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to a worker."""

    settings: Settings
    """Its own: all addresses are known, and so are those of bundled servers."""
    http: int | None
    """File descriptor of the socket that listens for HTTP."""


@dataclass(frozen=True, slots=True)
class AskMetrics:
    """The worker is asked for its metrics."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves."""

    keys: int


@dataclass(frozen=True, slots=True)
class Alive:
    """The worker's event loop runs. Sent once a second, while the worker starts too."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The worker's metrics: an answer, or the last ones, unasked, once it has stopped serving."""

    page: Page


class Link:
    """One end of the connection. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Self:
        reader, writer = await asyncio.open_connection(sock=connected, limit=_LARGEST)
        return cls(reader, writer)

    def send(self, message: object) -> None:
        """Sends a message, unless the other end has gone or stands still."""
        if not self._writer.is_closing() and self._writer.transport.get_write_buffer_size() < _MOST_UNSENT:
            self._writer.write(_framed(message))

    async def receive(self) -> Any:
        """The next message; None once the other end has gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _LARGEST:
                return None
            return pickle.loads(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def close(self) -> None:
        """Sends what is unsent, for a second at most, and closes this end."""
        self._writer.close()
        try:
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()


def introduce(connected: socket.socket, version: str, hello: Hello) -> None:
    """Sends the first messages, which fit into the socket's buffer, to a worker that does not read yet."""
    connected.sendall(_framed(version) + _framed(hello))


def introduction(connected: socket.socket, version: str) -> Hello | str:
    """Waits for the first messages, in the worker; the version of its supervisor if that is another one."""
    connected.settimeout(_HELLO_SECONDS)
    theirs = _read(connected)
    if theirs != version:
        return str(theirs)
    hello = _read(connected)
    assert isinstance(hello, Hello)
    return hello


def _framed(message: object) -> bytes:
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


def _read(connected: socket.socket) -> object:
    (length,) = _LENGTH.unpack(_exactly(connected, _LENGTH.size))
    return pickle.loads(_exactly(connected, length))


def _exactly(connected: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connected.recv(count - len(data))
        if not piece:
            raise ConnectionError("the supervisor has gone")
        data += piece
    return data
