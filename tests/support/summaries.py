"""Summarisers and their queue, as tests have them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain.commands import Command, Outcome, Scope
from sessiond_server.domain.log import FeedPlace
from sessiond_server.errors import SessiondError
from sessiond_server.memory.store import MemoryStore
from sessiond_server.postgres.store import PostgresStore
from sessiond_server.summaries.contract import Conversation, Summariser, Written
from sessiond_server.summaries.coverage import Bounds
from sessiond_server.summaries.following import Following
from sessiond_server.summaries.queue import Claim, When
from sessiond_server.summaries.worker import Limits, Summarising, Worker
from tests.support.waiting import until

AnyStore = MemoryStore | PostgresStore


@dataclass
class Direct:
    """A Writer without batches. `before` is called with each command."""

    store: AnyStore
    before: Callable[[Command], Any] = lambda _: None

    async def write(self, command: Command) -> Outcome:
        if asyncio.iscoroutine(waited := self.before(command)):
            await waited
        (result,) = (await self.store.apply([command])).results
        if isinstance(result, SessiondError):
            raise result
        return result


@dataclass
class Scripted:
    """A summariser that answers with what `answer` returns or raises, and keeps what it was asked."""

    answer: Callable[[Conversation], Any] = lambda asked: Written(f"{len(asked.messages)} messages", "m")
    asked: list[Conversation] = field(default_factory=list)

    async def summarise(self, conversation: Conversation) -> Written:
        self.asked.append(conversation)
        found = self.answer(conversation)
        written: Written = await found if asyncio.iscoroutine(found) else found
        return written


@dataclass
class Site:
    """A store with a summariser."""

    store: AnyStore
    summariser: Summariser
    when: When = field(default_factory=lambda: When(4, 0, True))
    bounds: Bounds = field(default_factory=lambda: Bounds(keep=0, tokens=10_000))
    before_write: Callable[[Command], Any] = lambda _: None
    summarising: Summarising = field(default_factory=Summarising)

    def __post_init__(self) -> None:
        limits = Limits(self.when, self.bounds, timeout=5.0, at_once=4)
        writer = Direct(self.store, self.before_write)
        self.worker = Worker(self.store.summary_queue, self.store, writer, self.summariser, limits, self.summarising)
        self.following = Following(self.store.summary_queue, self.store, self.when)

    async def follow(self) -> None:
        """Looks through all events: those that wait for another transaction, such as one of autovacuum, too."""

        async def seen() -> bool:
            await self.following.round()
            return not await self.store.summary_queue.behind()

        await until(seen)

    async def committed(self, tenant_id: str) -> None:
        """Returns once no event waits for another transaction."""

        async def readable() -> bool:
            return not (await self.store.read_feed(tenant_id, after=FeedPlace(0, "", 0), limit=1000)).pending

        await until(readable)

    async def claimed(self) -> Sequence[Claim]:
        await self.follow()
        return await self.store.summary_queue.claim(60.0, 10)

    async def work(self) -> int:
        """Summarises all that is due; returns the number of claims."""
        count = 0
        while claims := await self.claimed():
            for claim in claims:
                await self.worker.summarise(claim)
            count += len(claims)
            assert count < 100
        return count

    async def summaries(self, scope: Scope, session_id: str = "s") -> list[Summary]:
        """All of them, the oldest first."""
        page = await self.store.list_summaries(scope, session_id, before_seq=0, limit=100)
        return [Summary.FromString(body) for body in page.summaries][::-1]
