"""A TCP proxy that hurts what goes through it: slices, stalls, silences and cuts connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from tests.support import open_transports


class _Way:
    """One direction of one connection, or of all."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()


class Proxy:
    """Listens on a free port of loopback. Use as `async with Proxy("127.0.0.1", port) as proxy`."""

    def __init__(self, host: str, port: int, random: Random | None = None, tls: ssl.SSLContext | None = None) -> None:
        """`host` may be the path of a Unix socket, with any port. With `tls` it takes TLS and passes on what was in
        it."""
        self.port = 0
        self.slicing = False
        """Bytes are forwarded in pieces of any size."""
        self.crawling = False
        """Bytes are forwarded at one byte a second."""
        self._target = (host, port)
        self._tls = tls
        self._random = random or Random(0)
        self._onward, self._back = _Way(), _Way()
        self._pairs: set[tuple[_Way, _Way]] = set()
        """The two directions of each connection."""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await open_transports.close(self._server)
        self.flow()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, *, onward: bool = True, back: bool = True) -> None:
        """Connections stay, new ones are taken, and nothing gets through, in these directions, until `flow`."""
        for way, wanted in ((self._onward, onward), (self._back, back)):
            if wanted:
                way.flowing.clear()

    def silence(self, *, onward: bool = True, back: bool = True) -> None:
        """Nothing gets through the present connections, in these directions, until `flow`. New ones work."""
        for pair in self._pairs:
            for way, wanted in zip(pair, (onward, back), strict=True):
                if wanted:
                    way.flowing.clear()

    def flow(self) -> None:
        """Forwards the delayed bytes of stalled or silenced connections."""
        self.crawling = False
        for way in (self._onward, self._back, *(way for pair in self._pairs for way in pair)):
            way.flowing.set()

    def cut(self) -> None:
        """Resets every connection; new ones work."""
        for writer in list(self._writers):
            writer.transport.abort()

    def point_to(self, port: int) -> None:
        """New connections go elsewhere."""
        self._target = (self._target[0], port)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)  # here: a task that is cancelled before it has begun closes nothing
        if self._server is None or not self._server.is_serving():
            writer.transport.abort()
            return
        # In a task of our own: asyncio complains of its own ones when they are cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Way(), _Way()
        self._pairs.add(pair)
        try:
            await self._onward.flowing.wait()
            onward_reader, onward_writer = await self._connect(*self._target)
            self._writers.add(onward_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, onward_writer, self._onward, pair[0]),
                    self._pass(onward_reader, writer, self._back, pair[1]),
                )
            finally:
                self._writers.discard(onward_writer)
                onward_writer.close()
        except (OSError, RuntimeError):  # RuntimeError: uvloop's, for what was cut meanwhile
            pass
        finally:
            self._pairs.discard(pair)
            self._writers.discard(writer)
            writer.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if host.startswith("/"):
            return await asyncio.open_unix_connection(host)
        return await asyncio.open_connection(host, port)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *ways: _Way) -> None:
        try:
            while data := await reader.read(65536):
                for piece in self._pieces(data):
                    for way in ways:
                        await way.flowing.wait()
                    writer.write(piece)
                    await writer.drain()
                    if self.crawling:
                        await asyncio.sleep(1.0)
        finally:
            writer.close()

    def _pieces(self, data: bytes) -> Sequence[bytes]:
        if self.crawling:
            return [data[place : place + 1] for place in range(len(data))]
        if not self.slicing:
            return [data]
        pieces = []
        while data:
            size = self._random.choice([1, 2, 7, 100, 4096])
            pieces.append(data[:size])
            data = data[size:]
        return pieces


def postgres_through(dsn: str, *proxies: Proxy) -> str:
    """The DSN, by way of the proxies."""
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
    return urlunsplit(parts._replace(netloc=f"{user}@{hosts}" if user else hosts, query=""))


def server_of(dsn: str) -> tuple[str, int]:
    """The address of a DSN's Postgres, for a Proxy."""
    parts = urlsplit(dsn)
    folder = dict(parse_qsl(parts.query)).get("host")
    port = parts.port or 5432
    return (f"{folder}/.s.PGSQL.{port}", 0) if folder else (parts.hostname or "127.0.0.1", port)


@asynccontextmanager
async def proxied_postgres(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy to the DSN's server, and the DSN by way of it."""
    async with Proxy(*server_of(dsn)) as proxy:
        yield proxy, postgres_through(dsn, proxy)
