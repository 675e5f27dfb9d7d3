"""A TCP proxy that hurts what goes through it: slices, stalls and cuts connections."""

import asyncio
import ssl
from collections.abc import Sequence
from random import Random


class Proxy:
    """Listens on a free port of loopback. Use as `async with Proxy("127.0.0.1", port) as proxy`."""

    def __init__(self, host: str, port: int, random: Random | None = None, tls: ssl.SSLContext | None = None) -> None:
        """With `tls` it takes TLS and passes on what was in it."""
        self.port = 0
        self.slicing = False
        """Bytes go on in pieces of any size."""
        self._target = (host, port)
        self._tls = tls
        self._random = random or Random(0)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.flow()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Connections stay, new ones are taken, and nothing gets through until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """What was stalled goes on, late."""
        self._flowing.set()

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
        try:
            await self._flowing.wait()
            onward_reader, onward_writer = await asyncio.open_connection(*self._target)
            self._writers.add(onward_writer)
            try:
                await asyncio.gather(self._pass(reader, onward_writer), self._pass(onward_reader, writer))
            finally:
                self._writers.discard(onward_writer)
                onward_writer.close()
        except (OSError, RuntimeError):  # RuntimeError: uvloop's, for what was cut meanwhile
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                for piece in self._pieces(data):
                    await self._flowing.wait()
                    writer.write(piece)
                    await writer.drain()
        finally:
            writer.close()

    def _pieces(self, data: bytes) -> Sequence[bytes]:
        if not self.slicing:
            return [data]
        pieces = []
        while data:
            size = self._random.choice([1, 2, 7, 100, 4096])
            pieces.append(data[:size])
            data = data[size:]
        return pieces
