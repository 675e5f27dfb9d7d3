"""A load balancer between clients and the HTTP ports of several servers: it takes the servers in turn, goes on to the
next where one refuses, and cuts connections."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Final, Literal

from tests.support import open_transports

Cut = Literal["reset", "close", "within"]
CUTS: Final[Sequence[Cut]] = ("reset", "close", "within")
"""The client's connection is reset; ends as if the server had closed it; ends within what the server sends next."""
FURTHER: Final = 400
"""Bytes, at most, that are passed on before a cut "within"."""


class _Connection:
    """Of one client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.left: int | None = None
        """Bytes that the client gets yet, where it is cut within them."""


class Balancer:
    """Listens on a free port of loopback. Use as `async with Balancer(ports) as balancer`."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.port = 0
        self._ports = ports
        self._next = 0
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await open_transports.close(self._server)
        for connection in self._connections:
            connection.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """Of clients, at present."""
        return len(self._connections)

    def cut(self, chance: Random, *, everything: bool = False) -> int:
        """Cuts some connections, one at least unless there is none; how many."""
        there = list(self._connections)
        if not there:
            return 0
        many = len(there) if everything else chance.choice((1, chance.randint(1, len(there)), len(there)))
        how = chance.choice(CUTS)
        for connection in chance.sample(there, many):
            if how == "reset":
                connection.writer.transport.abort()
            elif how == "close":
                connection.writer.close()
            else:
                connection.left = chance.randrange(FURTHER)
        return many

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._connections.add(connection)
        # In a task of our own: asyncio complains of its own ones when they are cancelled.
        task = asyncio.get_running_loop().create_task(self._serve(reader, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        onward: asyncio.StreamWriter | None = None
        try:
            answers, onward = await self._connect()
            passing = [
                asyncio.ensure_future(self._requests(reader, onward)),
                asyncio.ensure_future(self._answers(answers, connection)),
            ]
            try:
                await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in passing:
                    task.cancel()
                await asyncio.gather(*passing, return_exceptions=True)
        except OSError:
            pass  # no server is there: the client's connection ends
        finally:
            self._connections.discard(connection)
            connection.writer.close()
            if onward is not None:
                onward.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the next server that takes it. Raises OSError where none does."""
        self._next += 1
        for number in range(len(self._ports) - 1):
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._port(number))
        return await asyncio.open_connection("127.0.0.1", self._port(len(self._ports) - 1))

    def _port(self, number: int) -> int:
        return self._ports[(self._next + number) % len(self._ports)]

    async def _requests(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            onward.write(data)
            await onward.drain()

    async def _answers(self, answers: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await answers.read(65536):
            if connection.left is not None and connection.left < len(data):
                connection.writer.write(data[: connection.left])
                return
            if connection.left is not None:
                connection.left -= len(data)
            connection.writer.write(data)
            await connection.writer.drain()
