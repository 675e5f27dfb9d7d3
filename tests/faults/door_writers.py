"""Agents that make runs with drafts, tool calls and all three endings, for those who read along by HTTP."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import sessiond
from sessiond.v1.run_pb2 import Failure, Run
from tests.faults.door_judgement import Told

T = TypeVar("T")

AWAY = (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted)
"""What a fault explains: the same call is made again."""
LEASE = 120.0
"""Seconds: no lease may run out while a server is away."""
LONGEST_PAUSE = 0.15
"""Seconds between two steps of a run."""
WORDS = ("I look", "日本", "naïve", "🌊", "for\nit", "data: x", "…")
"""Texts are made of them: characters of several bytes, and what an event stream must escape."""


class Writers:
    """One agent in each session, run after run, until stopped; then it ends the session."""

    def __init__(
        self,
        client: sessiond.Client,
        sessions: Sequence[str],
        seed: int,
        begun: Callable[[str, str], None],
    ) -> None:
        """`begun` is called with session and id of each run once it is there."""
        self.told: list[Told] = []
        self.acked = self.retries = 0
        self._client = client
        self._sessions = sessions
        self._chance = random.Random(seed)
        self._begun = begun
        self._stopped = False
        self._reached: tuple[int, asyncio.Event] = (0, asyncio.Event())

    async def run(self) -> None:
        """Returns once stopped, every run has ended and every session too."""
        async with asyncio.TaskGroup() as tasks:
            for session_id in self._sessions:
                tasks.create_task(self._session(session_id))

    def stop(self) -> None:
        self._stopped = True

    async def acknowledged(self, more: int) -> None:
        """Returns once so many more writes have been acknowledged."""
        self._reached = (self.acked + more, asyncio.Event())
        await self._reached[1].wait()

    async def _session(self, session_id: str) -> None:
        number = 0
        while not self._stopped:
            number += 1
            await self._run(session_id, f"r{number}")
        await self._write(lambda request_id: self._client.end_session(session_id, request_id=request_id))

    async def _run(self, session_id: str, run_id: str) -> None:
        client = self._client
        run = await self._write(
            lambda request_id: client.begin_run(session_id, run_id=run_id, lease=LEASE, request_id=request_id)
        )
        self._begun(session_id, run_id)
        texts: list[str] = []
        calls: list[list[Any]] = []
        for number in range(self._chance.randint(1, 3)):
            texts.append(await self._message(run, number))
            if self._chance.random() < 0.5:
                calls.append(await self._call(run, f"{run_id}-c{number}"))
        what = self._chance.random()
        if what < 0.7:
            ending = "completed"
            await self._write(lambda request_id: client.finish_run(session_id, run, request_id=request_id))
        elif what < 0.85:
            # What is open ends with it.
            calls.append(await self._requested(run, f"{run_id}-open", {"error": "cancelled"}))
            ending = f"The model of {run_id} is away."
            error = Failure(code="no_model", message=ending)
            await self._write(
                lambda request_id: client.finish_run(
                    session_id, run, status="failed", error=error, request_id=request_id
                )
            )
        else:
            ending = "cancelled"
            await self._write(lambda request_id: client.cancel_run(session_id, run_id, request_id=request_id))
        self.told.append(Told(session_id, run_id, texts, calls, ending))

    async def _message(self, run: Run, number: int) -> str:
        """Its text."""
        message_id = f"{run.session_id}-{run.run_id}-m{number}"
        text, offset = f"{message_id}:", 0
        for _ in range(self._chance.randint(2, 6)):
            piece = text[offset:] + "".join(f" {self._chance.choice(WORDS)}" for _ in range(5))
            text = text[:offset] + piece
            await self._show(run, message_id, len(text[:offset].encode()), piece)
            offset = len(text)
            await self._pause()
        message = sessiond.assistant(text, message_id=message_id)
        await self._write(
            lambda request_id: self._client.append_messages(run.session_id, [message], run=run, request_id=request_id)
        )
        return text

    async def _show(self, run: Run, message_id: str, offset: int, piece: str) -> None:
        delta = sessiond.Delta(message_id=message_id, offset=offset, text=piece, run_id=run.run_id)
        with suppress(*AWAY):  # drafts may be lost
            await self._client.publish_delta(run.session_id, [delta])

    async def _requested(self, run: Run, call_id: str, result: dict[str, str]) -> list[Any]:
        """The call, with what will come of it."""
        arguments = {"q": call_id}
        await self._write(
            lambda request_id: self._client.request_tool_call(
                run.session_id, "look", arguments, tool_call_id=call_id, run=run, request_id=request_id
            )
        )
        return [call_id, "look", arguments, result]

    async def _call(self, run: Run, call_id: str) -> list[Any]:
        client, session_id, fails = self._client, run.session_id, self._chance.random() < 0.3
        found = f"what {call_id} found"
        called = await self._requested(run, call_id, {"error" if fails else "output": found})
        await self._pause()
        await self._write(
            lambda request_id: client.start_tool_call(session_id, call_id, run=run, request_id=request_id)
        )
        await self._pause()
        if fails:
            await self._write(
                lambda request_id: client.fail_tool_call(
                    session_id, call_id, "none", found, run=run, request_id=request_id
                )
            )
        else:
            await self._write(
                lambda request_id: client.complete_tool_call(session_id, call_id, found, run=run, request_id=request_id)
            )
        return called

    async def _write(self, write: Callable[[str], Awaitable[T]]) -> T:
        """Until it is acknowledged, with one request id. Raises what it is refused with: nothing should be."""
        request_id = sessiond.new_request_id()
        while True:
            try:
                answer = await write(request_id)
            except AWAY:
                self.retries += 1
                await asyncio.sleep(0.05)
            else:
                self.acked += 1
                if self.acked >= self._reached[0]:
                    self._reached[1].set()
                return answer

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, LONGEST_PAUSE))
