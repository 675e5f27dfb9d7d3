"""A message that is shown while it is being written, and kept once it is done."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Literal, Self

from sessiond.errors import NotFound, Refused, SessiondError
from sessiond.request_ids import new_request_id
from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message, Part, ToolCallPart
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond.v1.session_pb2 import TokenUsage

PIECE_BYTES = 32 * 1024
"""Most of one delta; the service takes twice as much."""
PUBLISHED_BYTES = 192 * 1024
"""Most of one PublishDelta; the service takes 256 KiB with all that is around the text."""
PUBLISHED_PIECES = 64
"""Most of one PublishDelta."""
LANDING = 0.1
"""Seconds that the append waits for what is being shown."""

Publish = Callable[[Sequence[Delta]], Awaitable[None]]
Append = Callable[[Message, str], Awaitable[AppendMessagesResponse]]


@dataclass(slots=True)
class _Written:
    """One part so far."""

    kind: Literal["text", "thinking", "arguments"]
    call: ToolCallPart | None = None
    content: bytearray = field(default_factory=bytearray)

    def part(self) -> Part:
        content = self.content.decode()
        match self.kind:
            case "text":
                return Part(text=content)
            case "thinking":
                return Part(thinking=content)
        call = ToolCallPart()
        call.MergeFrom(self.call or ToolCallPart())
        if content:
            call.arguments_json = content
        return Part(tool_call=call)


class Draft:
    """An answer as a model streams it: each `write` is shown to those who watch the session with deltas, and leaving
    the block appends the whole as one message, whose `message_id` the deltas name.

        async with client.draft(session_id) as draft:
            async for token in model:
                await draft.write(token)

    What is written within a short time is shown together; what cannot be shown in time is shown later or not at all,
    and never holds up the writer. Only the append counts: its errors are raised when the block is left. Where the block
    is left by an exception, or cancelled, nothing is appended. For one task.
    """

    def __init__(self, publish: Publish, append: Append, message: Message, run_id: str, interval: float) -> None:
        if interval < 0:
            raise ValueError("interval: must not be negative")
        self._publish = publish
        self._append = append
        self._outline = message
        self._run_id = run_id
        self._interval = interval
        self._parts: list[_Written] = []
        self._shown = (0, 0)
        """Part and byte up to which it was shown."""
        self._changed = asyncio.Event()
        self._landed = asyncio.Event()
        """Set while nothing is being shown."""
        self._landed.set()
        self._publisher: asyncio.Task[None] | None = None
        self._refusal: SessiondError | None = None
        self.request_id = new_request_id()
        """Of the append."""
        self.usage: TokenUsage | None = None
        """What the message cost; set it before the end."""
        self.appended: AppendMessagesResponse | None = None
        """Where the message is, once it is."""

    @property
    def message_id(self) -> str:
        return self._outline.message_id

    @property
    def message(self) -> Message:
        """The message as it is so far."""
        message = Message()
        message.MergeFrom(self._outline)
        message.parts.extend(written.part() for written in self._parts)
        if self.usage is not None:
            message.usage.CopyFrom(self.usage)
        return message

    async def write(self, text: str) -> None:
        """Adds to what is said. Raises what the service says of a session that takes no messages (any more), where it
        is known already: SessionNotFound, SessionNotActive, SessionEnded."""
        await self._add("text", text)

    async def think(self, text: str) -> None:
        """Adds to what is thought. Raises as `write`."""
        await self._add("thinking", text)

    async def call_tool(self, tool_call_id: str, name: str) -> None:
        """Begins the call of a tool; `write_arguments` follows. Raises as `write`."""
        self._parts.append(_Written("arguments", ToolCallPart(tool_call_id=tool_call_id, name=name)))
        await self._add("arguments", "")

    async def write_arguments(self, text: str) -> None:
        """Adds to the call's arguments, as the model writes them. Raises as `write`; RuntimeError without a call."""
        if not self._parts or self._parts[-1].kind != "arguments":
            raise RuntimeError("write_arguments: follows call_tool")
        await self._add("arguments", text)

    async def append(self) -> AppendMessagesResponse:
        """Appends the message now rather than at the end of the block. After an error it can be called again: it acts
        once. Raises what `append_messages` raises."""
        if self.appended is None:
            # A piece that comes behind the message would look like the beginning of another one.
            with suppress(TimeoutError):
                async with asyncio.timeout(LANDING):
                    await self._landed.wait()
            await self._stop_showing()
            self.appended = await self._append(self.message, self.request_id)
        return self.appended

    async def __aenter__(self) -> Self:
        self._publisher = asyncio.create_task(self._show(), name="sessiond-draft")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.append()
        finally:
            await self._stop_showing()

    async def _add(self, kind: Literal["text", "thinking", "arguments"], text: str) -> None:
        if self._refusal is not None:
            raise self._refusal
        if self.appended is not None:
            raise RuntimeError("the draft has been appended")
        content = text.encode()
        if content and (not self._parts or self._parts[-1].kind != kind):
            self._parts.append(_Written(kind))
        if content:
            self._parts[-1].content += content
            self._changed.set()
        # A writer that waits for nothing else would never let anything be shown.
        await asyncio.sleep(0)

    async def _show(self) -> None:
        """Publishes what is new, again and again, until it is cancelled or refused."""
        deltas: Sequence[Delta] = [self._delta(0, 0, typing=True)]
        while True:
            self._landed.clear()
            try:
                await self._publish(deltas)
            except (NotFound, Refused) as error:
                self._refusal = error
                return
            except SessiondError:
                pass  # it is not what counts; who watches sees a hole, and later the message
            finally:
                self._landed.set()
            await asyncio.sleep(self._interval)
            while not (deltas := list(islice(self._take(), PUBLISHED_PIECES))):
                self._changed.clear()
                await self._changed.wait()

    def _take(self) -> Iterator[Delta]:
        """What has not been shown yet, as much as goes at once."""
        room = PUBLISHED_BYTES
        index, offset = self._shown
        while index < len(self._parts) and room > 0:
            written = self._parts[index]
            if offset == len(written.content):
                if index + 1 == len(self._parts):
                    return
                index, offset = index + 1, 0
                continue
            end = _boundary(written.content, offset + min(PIECE_BYTES, room))
            if end == offset:  # no room for a whole character
                return
            self._shown = index, end
            piece = written.content[offset:end].decode()
            yield self._delta(index, offset, **{written.kind: piece})
            room -= end - offset
            offset = end

    def _delta(self, part: int, offset: int, **piece: str | bool) -> Delta:
        return Delta(
            message_id=self.message_id,
            part_index=part,
            offset=offset,
            name=self._outline.name,
            run_id=self._run_id,
            **piece,  # type: ignore[arg-type]  # one of the oneof, of its type
        )

    async def _stop_showing(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.cancel()
            await asyncio.wait([publisher])
            if not publisher.cancelled() and (failure := publisher.exception()) is not None:
                raise failure


def _boundary(content: bytearray, end: int) -> int:
    """The last place at or before `end` that is between two characters."""
    if end >= len(content):
        return len(content)
    while content[end] & 0xC0 == 0x80:
        end -= 1
    return end
