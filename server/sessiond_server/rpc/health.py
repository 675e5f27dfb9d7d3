"""Health of each service by grpc.health.v1. Callers need no key, so these calls have their own bounds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import EOF, Server
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse

from sessiond_server.rpc.open_calls import PATIENCE, Context, OpenCalls

LONGEST_NAME: Final = 256
"""Most bytes of a request; names of services are shorter."""
MOST_CHECKS: Final = 64
MOST_WATCHES: Final = 1024
"""Most calls at a time; one more ends the oldest."""

_SERVING: Final = HealthCheckResponse.SERVING
_NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The statuses of all services; "" is the server as a whole. Each is NOT_SERVING until it is set.

    Probes bypass the interceptors: they have no key, must be answered while the server drains or is busy, and would
    fill the log. Unknown names that callers ask for are not stored.
    """

    def __init__(self, services: Sequence[str], refused: Callable[[], None]) -> None:
        """`refused` is called for each call that ends for want of a place."""
        self._services = ("", *services)
        self._statuses: dict[str, Any] = {}
        self._drained = False
        self._closed = False
        self._changed: asyncio.Event = asyncio.Event()
        """Set when the statuses change, and replaced by a new event."""
        self._checks = OpenCalls(MOST_CHECKS, refused)
        self._watches = OpenCalls(MOST_WATCHES, refused)

    async def add_to(self, server: Server) -> None:
        await self.set(False)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(cast(Any, self._checks.bounded(self._check))),
            "Watch": grpc.stream_stream_rpc_method_handler(cast(Any, self._watches.bounded(self._watch))),
        }
        name = DESCRIPTOR.services_by_name["Health"].full_name
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers)])

    async def set(self, serving: bool) -> None:
        """Sets the status of all services and of the server. No effect after `drain`."""
        for service in self._services:
            await self.set_part(service, serving)

    async def set_part(self, name: str, serving: bool) -> None:
        """Sets the status of one service, or of a part of the server with its own name. No effect after `drain`."""
        if not self._drained:
            self._statuses[name] = _SERVING if serving else _NOT_SERVING
            self._notify()

    async def drain(self) -> None:
        """Sets all statuses to NOT_SERVING for good."""
        self._drained = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._notify()

    def close(self) -> None:
        """Ends all watches."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _check(self, _: object, context: Context) -> bytes:
        name = await _requested(context)
        status = None if name is None else self._statuses.get(name)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=cast(Any, status)).SerializeToString()

    async def _watch(self, _: object, context: Context) -> None:
        name = await _requested(context)
        async for status in self._changes(name):
            async with asyncio.timeout(PATIENCE):
                await context.write(HealthCheckResponse(status=status).SerializeToString())

    async def _changes(self, name: str | None) -> AsyncIterator[Any]:
        """Yields the present status, and then each change, until the server stops."""
        sent = None
        while True:
            changed = self._changed
            status = _UNKNOWN if name is None else self._statuses.get(name, _UNKNOWN)
            if status != sent:
                sent = status
                yield status
            if self._closed:
                return
            await changed.wait()


async def _requested(context: Context) -> str | None:
    """The requested service's name; None if the request is not valid."""
    async with asyncio.timeout(PATIENCE):
        request: Any = await context.read()
    if request is EOF or len(request) > LONGEST_NAME:
        return None
    try:
        return str(HealthCheckRequest.FromString(request).service)
    except DecodeError:
        return None
