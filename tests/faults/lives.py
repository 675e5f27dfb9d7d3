"""Sessions that come and go during a campaign: created, written to, ended or deleted, each watched from its first event
to its last. Their appends write two documents along: one of the session, and one that all of them share."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import sessiond
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from tests.faults.history import Lost, Opened, Record, got
from tests.faults.ledger import Ack


@dataclass
class Life:
    """One session and what its own watcher was told."""

    session_id: str
    acks: list[Ack] = field(default_factory=list)
    """Of its creation and of all that followed."""
    documents: list[tuple[int, int]] = field(default_factory=list)
    """Of each acknowledged append: the versions of the session's document and of the shared one."""
    deleted: Ack | None = None
    lost: bool = False
    """A write found the session gone, as a failover that loses makes it."""
    records: list[Record] = field(default_factory=list)
    seq: int = 0
    """Of the last event that came."""
    overdue: bool = False
    """The watch did not get that far, or did not end after the deletion."""


class Lives:
    """`workers` sessions at a time live one life after the other. Runs until stopped."""

    def __init__(self, client: sessiond.Client, *, workers: int, seed: int, patience: float) -> None:
        """`patience`: seconds until a watch of a deleted session must have ended."""
        self.lives: list[Life] = []
        self._client = client
        self._workers = workers
        self._patience = patience
        self._chance = random.Random(seed)
        self._stopped = False

    async def run(self) -> None:
        """Returns when stopped and every life that was begun is over."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._live())

    def stop(self) -> None:
        self._stopped = True

    async def _live(self) -> None:
        while not self._stopped:
            life = Life(f"life-{len(self.lives)}")
            self.lives.append(life)
            await self._one(life)

    async def _one(self, life: Life) -> None:
        client, session_id = self._client, life.session_id
        await self._write(
            life, lambda request_id: client.create_session(session_id, active=True, request_id=request_id)
        )
        watching = asyncio.create_task(self._watch(life))
        try:
            for number in range(self._chance.randrange(1, 6)):
                await asyncio.sleep(self._chance.uniform(0.0, 0.5))
                await self._append(life, f"{session_id}, {number}")
            if self._chance.random() < 0.3:
                await self._write(life, lambda request_id: client.end_session(session_id, request_id=request_id))
            if self._chance.random() < 0.7:
                life.deleted = await self._write(
                    life, lambda request_id: client.delete_session(session_id, request_id=request_id)
                )
            await self._watched(life, watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _append(self, life: Life, text: str) -> None:
        async def append(request_id: str) -> AppendMessagesResponse:
            own = sessiond.document_put("last", text, session_id=life.session_id)
            shared = sessiond.document_put("last", text, agent_id="lives")
            answer = await self._client.append_messages(
                life.session_id, [sessiond.user(text)], documents=[own, shared], request_id=request_id
            )
            life.documents.append((answer.documents[0].version, answer.documents[1].version))
            return answer

        await self._write(life, append)

    async def _watched(self, life: Life, watching: "asyncio.Task[None]") -> None:
        """Returns when the watcher has everything."""
        last = max((ack.seq for ack in life.acks), default=0)
        until = time.monotonic() + self._patience
        while not (watching.done() or life.lost or life.overdue or (life.deleted is None and life.seq >= last)):
            await asyncio.sleep(0.02)
            life.overdue = time.monotonic() > until
        if watching.done():
            watching.result()

    async def _write(self, life: Life, write: Callable[[str], Awaitable[object]]) -> Ack | None:
        """Until it is acknowledged, or the session turns out to be lost."""
        request_id, tried = sessiond.new_request_id(), time.time()
        while not life.lost:
            began = time.time()
            try:
                answer = await write(request_id)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                await asyncio.sleep(0.05)
            except (sessiond.NotFound, sessiond.Refused):
                life.lost = True
            else:
                ack = Ack(time.time(), life.session_id, _version(answer), began, tried, "")
                life.acks.append(ack)
                return ack
        return None

    async def _watch(self, life: Life) -> None:
        try:
            async with self._client.watch(life.session_id, from_beginning=True) as watch:
                life.records.append(Opened(time.time(), -1, 0, b"", b""))
                async for event in watch:
                    life.records.append(got(time.time(), event))
                    life.seq = event.seq
        except sessiond.PositionGone as error:
            life.records.append(Lost(time.time(), error.reason))
        except sessiond.NotFound:
            pass  # it has been deleted, or was lost, before the watch began or went on


def _version(answer: object) -> int:
    version: int = answer if isinstance(answer, int) else getattr(answer, "version", 0)
    return version
