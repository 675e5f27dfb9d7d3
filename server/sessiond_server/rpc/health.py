"""Health of each service, as grpc.health.v1 tells it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc.aio import Server
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class Health:
    """NOT_SERVING until told otherwise; "" stands for the server as a whole.

    Probes pass none of the interceptors: they have no key, must be answered while draining, and would fill the log.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._servicer = _Servicer()

    async def add_to(self, server: Server) -> None:
        await self.set(False)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, serving: bool) -> None:
        """No effect after `drain`."""
        for service in self._services:
            await self.set_part(service, serving)

    async def set_part(self, name: str, serving: bool) -> None:
        """One service, or something behind them that is asked about by a name of its own. No effect after `drain`."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        await self._servicer.set(name, status)

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        await self._servicer.enter_graceful_shutdown()

    def close(self) -> None:
        """Ends all watches."""
        self._servicer.closing.set()


class _Servicer(aio.HealthServicer):
    """Its watches end with the server. Those of the base class never do: a server would wait for them until the grace
    is over."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = asyncio.Event()

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the RPC's name
        watch = asyncio.ensure_future(super().Watch(request, context))
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait((watch, closing), return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
        finally:
            watch.cancel()
            closing.cancel()
            await asyncio.gather(watch, closing, return_exceptions=True)
