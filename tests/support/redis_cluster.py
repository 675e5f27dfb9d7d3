"""A Redis Cluster of three masters."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.valkey import Valkey

SLOTS = 16384
BUS = 10_000
"""How far a server's port for the others lies above that for clients."""


class ClusterOfThree:
    """Every slot has a master; there are no replicas unless a test adds one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[Valkey] = []

    async def start(self) -> None:
        """Returns when every server knows all slots."""
        for _ in range(3):
            await self.server()
        share = SLOTS // 3 + 1
        for number, server in enumerate(self.servers):
            async with server.client() as client:
                first, last = number * share, min((number + 1) * share, SLOTS) - 1
                await _do(client, "CLUSTER", "ADDSLOTS", *range(first, last + 1))
                await _do(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number:
                await self.meet(server, self.servers[0])
        await self.agree(3)

    async def server(self) -> Valkey:
        """One more process, not yet met."""
        port = free_port(beside=BUS)
        server = Valkey(
            self._folder / str(port),
            "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0",
            port=port,
        )  # fmt: skip
        await server.start()
        self.servers.append(server)
        return server

    async def meet(self, server: Valkey, other: Valkey) -> None:
        async with server.client() as client:
            await _do(client, "CLUSTER", "MEET", "127.0.0.1", other.port)

    async def agree(self, masters: int) -> None:
        """Returns when all servers see all slots served by so many masters."""
        async with asyncio.timeout(30):
            for server in self.servers:
                async with server.client() as client:
                    while True:
                        slots = await _do(client, "CLUSTER", "SLOTS")
                        info = await _do(client, "CLUSTER", "INFO")
                        if "cluster_state:ok" in str(info) and _masters(slots) == masters:
                            break
                        await asyncio.sleep(0.02)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def _masters(reply: object) -> int:
    """How many there are in an answer to CLUSTER SLOTS, as redis-py gives it: parsed, or as it came."""
    if isinstance(reply, dict):
        return len({tuple(entry["primary"][:2]) for entry in reply.values()})
    assert isinstance(reply, list)
    return len({entry[2][1] for entry in reply})


async def _do(client: Any, *command: str | int) -> Any:
    return await client.execute_command(*command)
