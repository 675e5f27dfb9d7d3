"""Streams a message to watchers while it is written, and appends it at the end."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Self

from sessiond.errors import InvalidFields, NotFound, Refused, SessiondError
from sessiond.request_ids import new_request_id
from sessiond.texts import naming_texts_of_methods
from sessiond.v1.event_service_pb2 import Delta, DeltaData
from sessiond.v1.message_pb2 import Message
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.written import Kind, WrittenMessages, has_control, invalid

DATA_BYTES = 64 * 1024
"""Maximum bytes of the data of one `show`."""
PUBLISHED_PIECES = 64
"""Maximum deltas in one PublishDelta."""
SIGN_OF_LIFE = 5.0
"""Seconds without a piece after which watchers are told that the writer goes on; the service believes a draft to be
interrupted after 15."""
LANDING = 0.1
"""Seconds that the append waits for a PublishDelta in flight."""

Publish = Callable[[Sequence[Delta]], Awaitable[None]]
Append = Callable[[Sequence[Message], str], Awaitable[AppendMessagesResponse]]
APPENDED_BYTES = 3 * 1024 * 1024
APPENDED_MESSAGES = 256
"""Maximum messages in one AppendMessages."""


@naming_texts_of_methods
class Draft:
    """Streams a model's answer. Each `write` is published to the watchers of the session that ask for deltas, and
    leaving the block appends the whole text as one message, whose `message_id` the deltas name.

        async with client.draft(session_id) as draft:
            async for token in model:
                await draft.write(token)

    Text written within a short time is published together. Text that cannot be published in time is published later or
    not at all, and never blocks the writer. Only the append is durable: its errors are raised when the block is left.
    When the block is left by an exception or a cancellation, nothing is appended, and watchers are told that the draft
    is interrupted; `append` may still be called. A watcher that joins late gets the draft from its beginning. A draft
    is for one task.

    Everything that a model writes is stored. U+0000 and lone surrogates, which no message can contain, become U+FFFD
    (two halves of a surrogate pair in a row are joined). Text that exceeds one message, of 1 MiB or 256 parts,
    continues in another message (see `message_ids`). A piece that cannot be repaired, which occurs only in tool calls,
    raises InvalidFields where it is written, and the rest of the draft stays.
    """

    def __init__(self, publish: Publish, append: Append, message: Message, run_id: str, interval: float) -> None:
        if interval < 0:
            raise ValueError("interval: must not be negative")
        self._publish = publish
        self._append = append
        self._outline = message
        self._run_id = run_id
        self._interval = interval
        self._written = WrittenMessages(message, run_id)
        self._data: dict[int, DeltaData] = {}
        """The newest data of each number that was not published yet."""
        self._call_refused: InvalidFields | None = None
        """Why the last `call_tool` was refused; None if it was accepted."""
        self._answered = 0
        """Number of append requests that were answered."""
        self._request_ids = [""]
        """The request ids of these and of the next one; the first one's is in `request_id`."""
        self._first_seq = 0
        self._changed = asyncio.Event()
        self._landed = asyncio.Event()
        """Set while no PublishDelta is in flight."""
        self._landed.set()
        self._publisher: asyncio.Task[None] | None = None
        self._refusal: SessiondError | None = None
        self.request_id = new_request_id()
        """The request id of the append."""
        self.usage: TokenUsage | None = None
        """The tokens that the message used; set it before the end."""
        self.appended: AppendMessagesResponse | None = None
        """The answer of the append; None before it. For several messages it has all ids, the seq of the first, and the
        version after the last."""

    @property
    def message_id(self) -> str:
        return self._outline.message_id

    @property
    def message_ids(self) -> Sequence[str]:
        """The ids of the messages that the draft is appended as, usually one. Each message continues the one before."""
        return tuple(self._written.ids)

    @property
    def message(self) -> Message:
        """The message so far; the first one if there are several."""
        return self.messages[0]

    @property
    def messages(self) -> list[Message]:
        """All messages so far; the last one has the usage. For a caller that appends them in another way, for example
        after ToolBlocked."""
        messages = self._written.messages()
        if self.usage is not None:
            messages[-1].usage.CopyFrom(self.usage)
        return messages

    async def write(self, text: str) -> None:
        """Adds text to the message. Raises SessionNotFound, SessionNotActive or SessionEnded if the service has already
        refused a delta because the session accepts no messages. The draft keeps the text in that case, too."""
        await self._add("text", text)

    async def think(self, text: str) -> None:
        """Adds text to the model's thinking. Raises as `write`."""
        await self._add("thinking", text)

    async def call_tool(self, tool_call_id: str, name: str) -> None:
        """Begins a tool call; `write_arguments` follows. Raises as `write`; InvalidFields for an id or a name that no
        call can have, which leaves the draft unchanged."""
        self._check_open()
        self._flush_half()
        try:
            self._written.begin_call(tool_call_id, name)
        except InvalidFields as refused:
            self._call_refused = refused
            raise
        self._call_refused = None
        await self._add("arguments", "")

    async def write_arguments(self, text: str) -> None:
        """Adds text to the call's arguments, as the model writes them. Raises as `write`; InvalidFields for arguments
        that are too large for a message, which leaves the arguments written before, and after a refused `call_tool`;
        RuntimeError without a call."""
        if self._call_refused is not None:
            raise self._call_refused
        if not self._written.parts or self._written.parts[-1].kind != "arguments":
            raise RuntimeError("write_arguments: follows call_tool")
        await self._add("arguments", text)

    async def show(self, content: object, *, number: int = 0, media_type: str = "") -> None:
        """Publishes data for a part of a user interface, such as a chart, to the watchers: bytes, or what JSON can say.
        It replaces what was shown before with the same `number`, 0 to 255, and is not part of the message. Raises as
        `write`; InvalidFields for more than 64 KiB and for text that UTF-8 cannot encode, TypeError or ValueError for
        what is not JSON."""
        self._check_open()
        data = DeltaData(media_type=media_type)
        if isinstance(content, bytes):
            data.blob = content
        else:
            data.json = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(data.blob) + len(data.json.encode()) > DATA_BYTES:
            raise invalid("data", f"must be at most {DATA_BYTES} bytes")
        if not 0 <= number <= 255:
            raise invalid("part_index", "must be 0 to 255")
        if len(media_type) > 128 or has_control(media_type):
            raise invalid("media_type", "must be 0 to 128 characters, none of them a control character")
        self._data[number] = data
        await self._add("text", "")
        self._changed.set()

    async def append(self) -> AppendMessagesResponse:
        """Appends the message now instead of at the end of the block. After an error it can be called again; the
        message is appended once. Raises what `append_messages` raises."""
        if self.appended is None:
            # A delta that arrives after its message would look like the beginning of another message.
            with suppress(TimeoutError):
                async with asyncio.timeout(LANDING):
                    await self._landed.wait()
            await self._stop_showing()
            self._flush_half()
            batches = _batches(self.messages)
            while self._answered < len(batches):
                if self._answered == len(self._request_ids):
                    self._request_ids.append(new_request_id())
                request_id = self._request_ids[self._answered] if self._answered else self.request_id
                answer = await self._append(batches[self._answered], request_id)
                self._first_seq = self._first_seq or answer.first_seq
                self._answered += 1
            if len(batches) > 1:
                del answer.message_ids[:]
                answer.message_ids.extend(self._written.ids)
                answer.first_seq = self._first_seq
            self.appended = answer
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
            if kind is not None and self.appended is None:
                await self._say_interrupted()

    async def _add(self, kind: Kind, text: str) -> None:
        self._check_open()
        if text:
            self._written.add(kind, text)
            if kind != "arguments":
                self._call_refused = None
            self._changed.set()
        if self._refusal is not None:
            raise self._refusal
        # A writer that awaits nothing else would never let the publishing task run.
        await asyncio.sleep(0)

    def _check_open(self) -> None:
        if self.appended is not None or self._answered:
            raise RuntimeError("the draft has been appended")

    def _flush_half(self) -> None:
        if self._written.flush_half():
            self._changed.set()

    async def _show(self) -> None:
        """Publishes new text repeatedly, until it is cancelled or refused."""
        deltas: Sequence[Delta] = [self._written.delta(0, 0, typing=True)]
        while True:
            self._landed.clear()
            try:
                await self._publish(deltas)
            except (NotFound, Refused) as error:
                self._refusal = error
                return
            except SessiondError:
                pass  # deltas may be lost: watchers see a gap, and later the message
            finally:
                self._landed.set()
            await asyncio.sleep(self._interval)
            while not (deltas := self._next_deltas()):
                self._changed.clear()
                try:
                    async with asyncio.timeout(SIGN_OF_LIFE):
                        await self._changed.wait()
                except TimeoutError:
                    deltas = [self._written.delta(0, 0, typing=True)]
                    break

    def _next_deltas(self) -> Sequence[Delta]:
        """The next data if there is any, else the next text."""
        if self._data:
            number = next(iter(self._data))
            return [
                Delta(
                    message_id=self.message_id,
                    part_index=number,
                    name=self._outline.name,
                    run_id=self._run_id,
                    data=self._data.pop(number),
                )
            ]
        return list(islice(self._written.unpublished(), PUBLISHED_PIECES))

    async def _say_interrupted(self) -> None:
        """Tells the watchers that nothing more comes, if that takes no longer than LANDING. The service finds out by
        itself later."""
        if self._refusal is None:
            with suppress(SessiondError, TimeoutError, RuntimeError):
                async with asyncio.timeout(LANDING):
                    await self._publish([self._written.delta(0, 0, interrupted=True)])

    async def _stop_showing(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.cancel()
            await asyncio.wait([publisher])
            if not publisher.cancelled() and (failure := publisher.exception()) is not None:
                # This error must not prevent the append; the loop's exception handler logs it.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a draft could not be shown", "exception": failure, "task": publisher}
                )


def _batches(messages: Sequence[Message]) -> list[list[Message]]:
    """Splits the messages into requests that the service accepts."""
    batches: list[list[Message]] = [[]]
    size = 0
    for message in messages:
        size += message.ByteSize()
        if batches[-1] and (size > APPENDED_BYTES or len(batches[-1]) == APPENDED_MESSAGES):
            batches.append([])
            size = message.ByteSize()
        batches[-1].append(message)
    return batches
