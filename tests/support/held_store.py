"""A store and a writer that hold each call until the test lets it go."""

import asyncio

from sessiond_server.domain.commands import Command, Outcome, Scope, SessionSnapshot
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.session_reads import CACHED, Freshness
from tests.support.wire import DirectWriter


class Holding(MemoryStore):
    """Reads wait until they are let go; `cancelled` counts those that were abandoned."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.entered = asyncio.Event()
        self.abandoned = asyncio.Event()

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        return await super().get_session(scope, session_id, content=content)


class HoldingWriter(DirectWriter):
    """Writes wait until they are let go."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.go = asyncio.Event()
        self.entered = asyncio.Event()
        self.abandoned = asyncio.Event()

    async def write(self, command: Command) -> Outcome:
        self.entered.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.abandoned.set()
            raise
        return await super().write(command)
