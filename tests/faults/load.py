"""Appends at a steady rate through the client library, each tried until it is acknowledged, each noted in a ledger."""

import asyncio
import time
from collections.abc import Sequence

import sessiond
from tests.faults.ledger import Ledger

LONG = 0.5
"""Seconds."""


class Load:
    """`workers` callers that together append `rate` messages a second to `sessions`, in turn: one that stands there
    several times gets more. Runs until stopped."""

    def __init__(
        self,
        client: sessiond.Client,
        sessions: Sequence[str],
        *,
        rate: float,
        workers: int,
        ledger: Ledger | None = None,
        name: str = "worker",
        delete_every: int = 0,
    ) -> None:
        """The texts of two loads on one session must have different names. Of `delete_every` messages of each worker it
        deletes one right after it appended it; 0: none."""
        self.ledger = ledger or Ledger()
        self._name = name
        self.retries = 0
        """Calls that failed for good in the client library and were made again with the same request id."""
        self.unforeseen: list[str] = []
        """Errors that no fault explains: INTERNAL and the like. The appends were tried again."""
        self.long: list[tuple[str, float, float]] = []
        """(session, when it began, when it was acknowledged), by the loop's clock, of appends that took over LONG."""
        self._client = client
        self._taken: list[float] = []
        self._sessions = sessions
        self._pause = workers / rate
        self._workers = workers
        self._delete_every = delete_every
        self._stopped = False
        self._reached: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def run(self) -> None:
        """Returns when stopped and every append that was begun has been acknowledged."""
        async with asyncio.TaskGroup() as tasks:
            for worker in range(self._workers):
                tasks.create_task(self._work(worker))

    def stop(self) -> None:
        self._stopped = True

    async def acknowledged(self, more: int) -> None:
        """Returns once so many more appends have been acknowledged."""
        self._reached = (self.ledger.count + more, asyncio.Event())
        await self._reached[1].wait()

    def taken(self) -> list[float]:
        """Seconds that each append took, retries included, that was acknowledged since the last call."""
        taken, self._taken = self._taken, []
        return taken

    async def _work(self, worker: int) -> None:
        loop = asyncio.get_running_loop()
        due, number = loop.time() + self._pause * worker / self._workers, 0
        while not self._stopped:
            await asyncio.sleep(max(0.0, due - loop.time()))
            # A caller that was held up does not catch up: that would be a burst, not a rate.
            due = max(due, loop.time() - self._pause) + self._pause
            number += 1
            session_id = self._sessions[(worker + number) % len(self._sessions)]
            text = f"{self._name} {worker}, message {number}"
            if self._delete_every and number % self._delete_every == 0:
                await self.append_and_delete(session_id, text)
            else:
                await self.append(session_id, text)

    async def append(self, session_id: str, text: str) -> None:
        """Returns when it is acknowledged."""
        self.ledger.attempt(session_id, text)
        request_id, began, tried = sessiond.new_request_id(), asyncio.get_running_loop().time(), time.time()
        while True:
            called = time.time()
            try:
                answer = await self._client.append_messages(session_id, [sessiond.user(text)], request_id=request_id)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                self.retries += 1
                await asyncio.sleep(0.05)
            except sessiond.SessiondError as error:
                self.unforeseen.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
            else:
                self.ledger.acknowledge(session_id, text, answer.first_seq, called, tried)
                now = asyncio.get_running_loop().time()
                self._taken.append(now - began)
                if now - began > LONG:
                    self.long.append((session_id, began, now))
                if self.ledger.count >= self._reached[0]:
                    self._reached[1].set()
                return

    async def append_and_delete(self, session_id: str, text: str) -> None:
        """Returns when both are acknowledged. What the deletion returns must be what was appended."""
        self.ledger.attempt(session_id, text)
        append_id, delete_id, tried = sessiond.new_request_id(), sessiond.new_request_id(), time.time()
        while True:
            called = time.time()
            try:
                added = await self._client.append_messages(session_id, [sessiond.user(text)], request_id=append_id)
                gone = await self._client.delete_messages(
                    session_id, message_ids=added.message_ids, return_messages=True, request_id=delete_id
                )
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                self.retries += 1
                await asyncio.sleep(0.05)
            except sessiond.MessageNotFound:
                # An asynchronous failover took the append after it was acknowledged: its request is new again.
                append_id, delete_id = sessiond.new_request_id(), sessiond.new_request_id()
            except sessiond.SessiondError as error:
                self.unforeseen.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
            else:
                if [sessiond.text_of(message) for message in gone.messages] != [text]:
                    self.unforeseen.append("a deletion returned another message than the one appended")
                self.ledger.delete(session_id, text, added.first_seq, gone.version, called, tried)
                if self.ledger.count >= self._reached[0]:
                    self._reached[1].set()
                return
