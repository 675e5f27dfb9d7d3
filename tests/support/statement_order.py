"""Lets transactions of several stores go on one statement at a time, in an order that a seed decides."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import asyncpg
import pytest

from sessiond_server.postgres.transactions import Transactions
from tests.support.transactions import waiting
from tests.support.waiting import until

_GATED = frozenset({"execute", "executemany", "fetch", "fetchrow", "fetchval"})


class StatementOrder:
    """Actors, each with a store of its own, whose transactions stop before each statement and before the commit."""

    def __init__(self, database: asyncpg.Connection, seed: int) -> None:
        """`database`: a connection that nothing else uses."""
        self._random = Random(seed)
        self._blocked = waiting(database, 1)
        self._at_gate: dict[str, asyncio.Event] = {}
        self._open = False

    def control(self, monkeypatch: pytest.MonkeyPatch, stores: Mapping[str, Any]) -> None:
        """Stops the transactions of these stores, by the names of their actors, from now on."""
        attempt = Transactions.attempt
        actors = {store._transactions: name for name, store in stores.items()}

        async def stopped(
            transactions: Transactions, work: Callable[[asyncpg.Connection], Awaitable[Any]], **limits: Any
        ) -> Any:
            name = actors.get(transactions)
            if name is None:
                return await attempt(transactions, work, **limits)
            actor = name

            async def gated(connection: asyncpg.Connection) -> Any:
                result = await work(_Gated(connection, lambda: self._gate(actor)))
                await self._gate(actor)
                return result

            return await attempt(transactions, gated, **limits)

        monkeypatch.setattr(Transactions, "attempt", stopped)

    async def run(self, **actors: Awaitable[Any]) -> Mapping[str, Any]:
        """What the actors return. An actor that waits for a lock leaves the others their turns."""
        tasks = {name: asyncio.ensure_future(actor) for name, actor in actors.items()}
        try:
            while not all(task.done() for task in tasks.values()):
                await until(lambda: self._at_gate or all(task.done() for task in tasks.values()))
                if not self._at_gate:
                    continue
                name = self._random.choice(sorted(self._at_gate))
                self._at_gate.pop(name).set()
                await self._settled(name, tasks[name])
            return {name: task.result() for name, task in tasks.items()}
        finally:
            self._open = True
            for event in self._at_gate.values():
                event.set()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _settled(self, name: str, task: "asyncio.Future[Any]") -> None:
        """Returns once the actor has come to its next gate, has ended, or waits for a lock."""

        async def condition() -> bool:
            return name in self._at_gate or task.done() or await self._blocked()

        await until(condition)

    async def _gate(self, name: str) -> None:
        if self._open:
            return
        event = asyncio.Event()
        self._at_gate[name] = event
        await event.wait()


class _Gated:
    """A connection whose statements wait for their turn."""

    def __init__(self, connection: asyncpg.Connection, gate: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if name not in _GATED:
            return method

        async def in_turn(*arguments: Any, **options: Any) -> Any:
            await self._gate()
            return await method(*arguments, **options)

        return in_turn
