"""A writer and a live tail, side by side; the tail is killed and comes back."""

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from examples.demo.terminal import Columns, Screen, count

import sessiond

T = TypeVar("T")

BEFORE = ["The 14:05 to Kyōto, is it on time?", "It is. Platform 3.", "धन्यवाद! And the one after it?"]
ANSWER = "At 14:35, from the same platform; it has a café car, and there are seats by the window."
MISSED = ["مرحبا، are you still there?", "I am, but nobody is listening.", "Then write it down.", "Every word."]
LAST = ["Back again?", "As if I had never left."]
TOKEN_PAUSE = 0.02
"""Seconds between two tokens: about as fast as a model writes."""


class Patiently(Protocol):
    """Makes a call again while the server is away, with the same request id."""

    async def __call__(self, call: Callable[[str], Awaitable[T]], /) -> T: ...


class TailError(Exception):
    """The tail ended, or did not print what it should have."""


class Tail:
    """`examples.demo.tail` in a process of its own, which is started again after each kill, and its output."""

    def __init__(self, address: str, session_id: str, position: Path, patience: float) -> None:
        self._command = [
            *(sys.executable, "-m", "examples.demo.tail", "--address", address, "--json"),
            *("--position", str(position), session_id),
        ]
        self._patience = patience
        self._process: Process | None = None
        self.began: list[int] = []
        """For each process, the session's last event when it began."""
        self.seqs: list[int] = []
        """Of the events that it has shown."""
        self.events: dict[int, str] = {}
        """What it has shown of each."""
        self.deltas: list[str] = []

    async def start(self) -> None:
        root = Path(__file__).parents[2]
        self._process = await asyncio.create_subprocess_exec(*self._command, cwd=root, stdout=PIPE, stderr=PIPE)
        began = len(self.began)
        await self.until(lambda: len(self.began) > began)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads its output until the condition holds. Raises TailError when it ends first, or takes too long."""
        try:
            async with asyncio.timeout(self._patience):
                while not condition():
                    if not await self._listen():
                        raise TailError("the tail ended: " + await self._last_words())
        except TimeoutError:
            raise TailError("the tail did not say in time what it should have said") from None

    async def until_drafted(self, seq: int, columns: Columns) -> None:
        """Reads its output until it has shown the message with that number, and prints the deltas that come before."""
        seen = len(self.deltas)
        while seq not in self.seqs:
            enough = len(self.deltas) + 1
            await self.until(lambda enough=enough: len(self.deltas) >= enough or seq in self.seqs)  # type: ignore[misc]
            columns.progress("… " + "".join(self.deltas[seen:]))

    async def kill(self) -> None:
        """Kills it with SIGKILL, so that it cannot print or save anything."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            while await self._listen():
                pass
            await self._process.wait()

    async def end(self) -> int:
        """Reads its output to the end and returns its exit status."""
        assert self._process is not None
        try:
            async with asyncio.timeout(self._patience):
                while await self._listen():
                    pass
                return await self._process.wait()
        except TimeoutError:
            raise TailError("the tail did not end") from None

    async def _listen(self) -> bool:
        """Takes one line; False at the end."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):  # it may have been cut off in the midst of one
            return False
        said: dict[str, Any] = json.loads(line)
        if "seq" in said:
            self.seqs.append(said["seq"])
            self.events[said["seq"]] = said["event"]
        elif "delta" in said:
            self.deltas.append(said["delta"])
        else:
            self.began.append(said["behind"])
        return True

    async def _last_words(self) -> str:
        assert self._process is not None
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode(errors="replace").strip()


class Live:
    """One session, written here and followed there."""

    def __init__(
        self, client: sessiond.Client, address: str, screen: Screen, patiently: Patiently, patience: float
    ) -> None:
        self._client = client
        self._address = address
        self._screen = screen
        self._patiently = patiently
        self._patience = patience
        self._columns = Columns(screen)
        self._written = 0
        """The session's version."""

    async def show(self) -> None:
        """Raises TailError where the tail has not everything, once it has caught up."""
        client, screen = self._client, self._screen
        screen.title("A live tail", "written here, followed by another process, which is killed, and misses nothing")
        self._columns.heads("writer", "tail")
        created = await self._patiently(
            lambda request_id: client.create_session(user_id="demo", active=True, request_id=request_id)
        )
        session_id, self._written = created.session_id, created.version
        with tempfile.TemporaryDirectory() as folder:
            tail = Tail(self._address, session_id, Path(folder, "position"), self._patience)
            try:
                await self._follow(tail, session_id)
            finally:
                await tail.kill()
        twice = len(tail.seqs) - len(set(tail.seqs))
        lost = self._written - len(set(tail.seqs))
        screen.line()
        verdict = f"{count(self._written, 'event')}, {lost} lost"
        again = f", {twice} shown again: it was killed before it could note it down" if twice else ", none shown twice"
        screen.line(f"  {screen.paint(verdict, 'green')}{again}")
        first = list(dict.fromkeys(tail.seqs))
        if first != list(range(1, self._written + 1)):
            raise TailError(f"the tail has shown {first}, and not 1 to {self._written}")

    async def _follow(self, tail: Tail, session_id: str) -> None:
        screen = self._screen
        await tail.start()
        await self._both(tail, session_id, BEFORE)
        await self._draft(tail, session_id)
        await tail.kill()
        self._columns.line("", "       killed (SIGKILL)", "red")
        for text in MISSED:
            self._wrote(await self._append(session_id, text), text)
        behind, started = len(tail.seqs), time.perf_counter()
        await tail.start()
        await tail.until(lambda: self._written in tail.seqs)
        seconds = time.perf_counter() - started
        missed = [seq for seq in tail.seqs[behind:] if seq not in tail.seqs[:behind]]
        back = f"back, caught up in {1000 * seconds:.0f} ms"
        self._columns.line("", f"{f'{missed[0]}-{missed[-1]}':>5}  {back}", "green")
        await self._both(tail, session_id, LAST)
        self._written = await self._patiently(
            lambda request_id: self._client.delete_session(session_id, request_id=request_id)
        )
        status = await tail.end()
        self._columns.line(
            f"{self._written:>5}  (the session is deleted)", f"{tail.seqs[-1]:>5}  (and so the tail ends)"
        )
        if status:
            raise TailError(f"the tail ended with status {status}")
        screen.clear_progress()

    async def _append(self, session_id: str, text: str) -> int:
        speaker = sessiond.user if self._written % 2 else sessiond.assistant
        message = speaker(text)
        answer = await self._patiently(
            lambda request_id: self._client.append_messages(session_id, [message], request_id=request_id)
        )
        self._written = answer.version
        return answer.version

    async def _both(self, tail: Tail, session_id: str, texts: Sequence[str]) -> None:
        """Writes each and waits until the tail has it."""
        for text in texts:
            seq = await self._append(session_id, text)
            stored = time.perf_counter()
            await tail.until(lambda seq=seq: seq in tail.seqs)  # type: ignore[misc]
            self._wrote(seq, text, f"{seq:>5}  {1000 * (time.perf_counter() - stored):.1f} ms after it was stored")

    async def _draft(self, tail: Tail, session_id: str) -> None:
        """An answer token by token: the tail shows it while it is written, and then has it for good."""
        seen = len(tail.deltas)

        async def write() -> int:
            async with self._client.draft(session_id, timeout=self._patience) as draft:
                for token in ANSWER.split(" "):
                    await draft.write(token if token == "At" else f" {token}")
                    await asyncio.sleep(TOKEN_PAUSE)
            assert draft.appended is not None
            return draft.appended.version

        self._written, _ = await asyncio.gather(write(), tail.until_drafted(self._written + 1, self._columns))
        pieces = len([piece for piece in tail.deltas[seen:] if piece])
        self._wrote(self._written, ANSWER, f"{self._written:>5}  shown in {count(pieces, 'piece')} before")

    def _wrote(self, seq: int, text: str, right: str = "") -> None:
        self._columns.line(f"{seq:>5}  {text}", right)
