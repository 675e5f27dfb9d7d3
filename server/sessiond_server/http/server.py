"""The port of the HTTP interface: uvicorn, with limits of connections, heads and slow readers."""

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sessiond_server.http.door import HEAD_TOO_LARGE, LARGEST_HEAD, Door
from sessiond_server.http.problems import malformed
from sessiond_server.tasks import run_in_background

HEAD_SECONDS: Final = 10.0
"""How long the head of a request may take to arrive."""
IDLE_SECONDS: Final = 75
"""How long a connection may be idle between two requests."""
MOST_CONNECTIONS: Final = 8192
"""More are closed at once. Each stream of events has one."""


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """Settings of the port. Times are in seconds."""

    host: str
    port: int
    """0 takes a free one."""
    tls: ssl.SSLContext | None = None
    """None: no TLS."""
    trusted_proxies: Sequence[str] = ()
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    drain_pause: float = 0.0
    grace: float = 10.0
    """How long requests in progress may take to finish when the port closes."""
    write_timeout: float = 10.0
    """How long a client may receive nothing while there is something to send."""
    most_connections: int = MOST_CONNECTIONS
    head_seconds: float = HEAD_SECONDS
    listener: socket.socket | None = None
    """A socket that listens on the address already, which `stop` closes."""


class DoorServer:
    """Serves a Door. Can be started and stopped once."""

    def __init__(self, door: Door, settings: DoorSettings) -> None:
        self._door = door
        self._settings = settings
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    async def start(self) -> int:
        """Listens and returns the port. Raises OSError if it cannot listen on the address."""
        settings = self._settings
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = settings.listener or socket.create_server(
            (settings.host, settings.port), family=family, backlog=1024
        )
        config = uvicorn.Config(
            self._door,
            http=type("BoundConnection", (Connection,), {"limits": settings}),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # the gRPC port logs calls; what clients send must not fill the log
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, round(settings.grace)),
            h11_max_incomplete_event_size=LARGEST_HEAD,
        )
        config.load()
        config.ssl = settings.tls
        self._server = _Server(config)
        # The socket listens already: what connects before uvicorn accepts waits in its backlog.
        self._serving = run_in_background(self._server.serve([self._socket]), "http")
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def connections(self) -> "Sequence[Connection]":
        """The open ones."""
        found = [] if self._server is None else self._server.server_state.connections
        return [each for each in found if isinstance(each, Connection)]

    async def stop(self) -> None:
        """After `drain_pause`, accepts no more connections; requests in progress get `grace`. Cancelling it closes all
        connections at once."""
        server, serving = self._server, self._serving
        if server is None or serving is None:
            return
        self._server = None
        try:
            await asyncio.sleep(self._settings.drain_pause)
            server.should_exit = True
            await asyncio.wait({serving})
        finally:
            server.should_exit = server.force_exit = True
            for connection in list(server.server_state.connections):
                assert isinstance(connection, Connection)
                connection.transport.abort()
            await asyncio.wait({serving})
            self._door.close()
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the service."""
        yield


class Connection(H11Protocol):
    """A connection that is closed when the head of a request takes too long, or its client stops receiving."""

    limits: ClassVar[DoorSettings]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_due: asyncio.TimerHandle | None = None
        self._write_due: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so only where the socket was made with the number of the protocol.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.limits.most_connections:
            transport.abort()
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_due)
        self._stop(self._write_due)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._stop(self._head_due)
            self._head_due = None
        else:
            # A part of a head; the time counts from its first byte.
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is not HTTP, or has too large a head."""
        if self.conn.our_state is not h11.IDLE:
            # The request before has no complete answer, or no complete body.
            self.transport.abort()
            return
        body = malformed(f"this is not HTTP/1.1, or {HEAD_TOO_LARGE}").body("")
        headers = [
            ("content-type", "application/problem+json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._write_due)
        self._write_due = None

    def _expect_head(self) -> None:
        if self._head_due is None:
            self._head_due = self.loop.call_later(self.limits.head_seconds, self.transport.abort)

    def _watch_writing(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._write_due = self.loop.call_later(self.limits.write_timeout, self._check_writing)

    def _check_writing(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch_writing()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
