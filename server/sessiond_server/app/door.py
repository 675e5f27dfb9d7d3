"""Opens the port of the HTTP interface, which calls the gRPC server over a socket of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sessiond_server.app.errors import CannotListen
from sessiond_server.auth import Authenticator
from sessiond_server.rpc.loopback import Loopback, SocketFolder
from sessiond_server.rpc.server import RpcServer
from sessiond_server.rpc.tls import Context
from sessiond_server.settings import Address, Settings

if TYPE_CHECKING:
    from sessiond_server.http.door import TenantOf


@dataclass(frozen=True, slots=True)
class Way:
    """How the HTTP interface reaches the gRPC server."""

    listen: Address
    """Where HTTP is served."""
    socket: SocketFolder


@asynccontextmanager
async def opened_way(settings: Settings) -> AsyncIterator[Way | None]:
    """The socket between the two, if HTTP is served. Raises OSError if there is no folder for it."""
    if settings.http_listen is None:
        yield None
        return
    folder = await asyncio.to_thread(SocketFolder)
    try:
        yield Way(settings.http_listen, folder)
    finally:
        await asyncio.to_thread(folder.close)


@asynccontextmanager
async def opened_door(
    settings: Settings,
    way: Way | None,
    authenticator: Authenticator,
    tls: Context | None,
    server: RpcServer,
    listener: socket.socket | None = None,
) -> AsyncIterator[Address | None]:
    """Serves HTTP, if there is a way, and yields where. Leaving the context stops both servers at the same time, so
    that pause and grace count once. `listener`: a socket that listens already. Raises CannotListen."""
    if way is None:
        yield None
        return
    from sessiond_server.http.agentos.platform import Mount
    from sessiond_server.http.assets import assets
    from sessiond_server.http.door import Door
    from sessiond_server.http.origins import Origins
    from sessiond_server.http.server import DoorServer, DoorSettings

    async with AsyncExitStack() as stack:
        loopback = Loopback(way.socket.address)
        stack.push_async_callback(loopback.close)
        local = settings.keys_file is None and way.listen.loopback
        origins = Origins(settings.http_cors_origins, local=local)
        prefix = settings.agentos_prefix
        door = Door(
            loopback,
            origins,
            tenant_of(authenticator),
            alone=authenticator.alone,
            count_refusal=server.count_refusal,
            assets=assets() if settings.serves_console else None,
            mount=None if prefix is None else Mount(prefix, "go" if settings.agentos_form == "go" else "agentos"),
        )
        stack.callback(door.close)
        serving = DoorServer(
            door,
            DoorSettings(
                host=way.listen.host,
                port=way.listen.port,
                tls=None if tls is None else tls.context,
                trusted_proxies=settings.http_trusted_proxies,
                drain_pause=settings.drain_pause,
                grace=settings.grace,
                write_timeout=settings.watch_write_timeout,
                listener=listener,
            ),
        )
        try:
            port = await serving.start()
        except OSError as error:
            raise CannotListen(way.listen, "--http-listen") from error
        stack.push_async_callback(_stop, serving.stop, server.stop)
        yield Address(way.listen.host, port)


async def _stop(*stops: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for stop in stops:
            group.create_task(stop())


def tenant_of(authenticator: Authenticator) -> "TenantOf":
    def found(authorization: str | None, peer: str) -> str:
        metadata = [] if authorization is None else [("authorization", authorization)]
        return authenticator.authenticate(metadata, lambda: peer).tenant_id

    return found
