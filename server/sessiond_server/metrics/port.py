"""The port from which Prometheus scrapes metrics."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app


def of_the_process(registry: CollectorRegistry) -> None:
    """Adds what the library knows of every process."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


@asynccontextmanager
async def serving(host: str, port: int, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serves scrapes over HTTP, in separate threads, while the context is open. Yields the port, for 0 a free one.

    Raises OSError if it cannot listen on the address.
    """
    # It runs in a thread because it looks up the host name.
    server = await asyncio.to_thread(_Server, host, port, registry)
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        # It stops within half a second and does not wait for scrapes in progress.
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


MOST_SCRAPES: Final = 16
"""Most connections at a time, each with its own thread; one more closes the oldest."""
SCRAPE_SECONDS: Final = 5.0
"""Longest silence of a peer, in seconds."""


class _Scrape(WSGIRequestHandler):
    timeout = SCRAPE_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: scrapes are frequent."""


class _Server(ThreadingMixIn, WSGIServer):
    """The HTTP server. Any client that reaches the port may connect and stay silent, so silent connections are closed,
    and when there are too many, the oldest connection."""

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._open: dict[socket.socket, None] = {}
        """Open connections, oldest first."""
        self._lock = Lock()
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Scrape)
        self.set_app(make_wsgi_app(registry))

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MOST_SCRAPES:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores errors: they come from peers that disconnect or stay silent."""
