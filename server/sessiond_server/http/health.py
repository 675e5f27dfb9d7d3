"""Whether the server serves, for callers without a key."""

import asyncio
from typing import Final

from sessiond_server.rpc.loopback import CallFailed, Loopback, Metadata

CHECK: Final = "/grpc.health.v1.Health/Check"
SECONDS: Final = 3.0
"""How long the server may take to say so."""
SERVING: Final = b"\x08\x01"
"""The HealthCheckResponse of a server that serves."""


class Health:
    """Asks the server. Requests that come at the same time share one call, so their number takes no room."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._asking: asyncio.Task[bool] | None = None

    def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def serves(self, metadata: Metadata) -> bool:
        """`metadata`: of the call, if this request makes it."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(metadata), name="http-health")
        return await asyncio.shield(self._asking)

    async def _ask(self, metadata: Metadata) -> bool:
        try:
            return await self._loopback.call(CHECK, b"", metadata, SECONDS, lane="health") == SERVING
        except CallFailed:
            return False
