"""Those who join a session while a message is being written: what they are shown must be of that message, and must
never keep them from what is stored."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

import sessiond

ENDINGS = ("appended", "fails", "gone")
"""The writer appends the message; ends with an error, and says so; is gone without a word."""
SHOWN = 1.0
"""Seconds that the writer waits for somebody who joins to be shown something."""
PIECE = 100
"""Characters of one published piece."""


class WriterFailed(Exception):
    """The model failed in the middle of its message."""


def content_of(session_id: str, generation: int, number: int) -> str:
    """The text of a draft, which no other draft has."""
    return "".join(f"{session_id}, {generation}.{number}, word {word}. " for word in range(30))


def pieces_of(message_id: str, text: str) -> Iterator[sessiond.Delta]:
    """What a writer publishes of the text."""
    for start in range(0, len(text), PIECE):
        yield sessiond.Delta(message_id=message_id, offset=start, text=text[start : start + PIECE])


class Joiner:
    """Somebody who joins late. Use as `async with Joiner(...) as joiner`, then `join`."""

    def __init__(self, client: sessiond.Client, session_id: str, message_id: str, text: str) -> None:
        """`text`: of the whole message, which is ASCII."""
        self.pieces = 0
        self.interrupted = False
        self.wrong = 0
        """Pieces that are not of the message, or came after it."""
        self.blocked = False
        """What is stored did not come."""
        self._client = client
        self._session_id = session_id
        self._message_id = message_id
        self._text = text
        self._seq = 0
        self._shown = asyncio.Event()
        self._arrived = asyncio.Event()
        self._stored = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def shown(self) -> bool:
        """Whether it got something of the draft."""
        return self.pieces > 0 or self.interrupted

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def join(self) -> None:
        """Begins to watch. Returns once it is shown something, or after SHOWN: deltas may be lost."""
        self._watching = asyncio.create_task(self._watch())
        shown = asyncio.create_task(self._shown.wait())
        await asyncio.wait([shown, self._watching], timeout=SHOWN, return_when=asyncio.FIRST_COMPLETED)
        shown.cancel()

    async def has(self, seq: int, patience: float, lost: Callable[[], Awaitable[bool]]) -> None:
        """Returns when the event with that seq has arrived, or is known to be lost; notes if it does not. `lost`:
        whether the database has it no more, which is asked for when nothing has come for a second."""
        watching, until = self._watching, time.monotonic() + patience
        assert watching is not None
        while self._seq < seq and not watching.done():
            if time.monotonic() > until:
                self.blocked = True
                return
            self._arrived.clear()
            arrived = asyncio.create_task(self._arrived.wait())
            done, _ = await asyncio.wait([arrived, watching], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            if not done and await lost():
                return
        if watching.done():
            watching.result()

    async def _watch(self) -> None:
        try:
            async with self._client.watch(self._session_id, deltas=True) as watch:
                self._came(watch.snapshot.version if watch.snapshot is not None else 0)
                async for item in watch:
                    if isinstance(item, sessiond.Delta):
                        self._take(item)
                        continue
                    if item.message.message_id == self._message_id:
                        self._stored = True
                    self._came(item.seq)
        except (sessiond.PositionGone, sessiond.NotFound):
            pass  # a failover took what it had seen

    def _came(self, seq: int) -> None:
        self._seq = max(self._seq, seq)
        self._arrived.set()

    def _take(self, delta: sessiond.Delta) -> None:
        if delta.message_id != self._message_id:
            return
        kind = delta.WhichOneof("piece")
        self.interrupted |= kind == "interrupted"
        if kind == "text":
            self.pieces += 1
            end = delta.offset + len(delta.text)
            self.wrong += self._stored or self._text[delta.offset : end] != delta.text
        if self.shown:
            self._shown.set()
