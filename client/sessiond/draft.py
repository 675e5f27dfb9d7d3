"""Streams a message to watchers while it is written, and appends it at the end."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Literal, Self

from sessiond.errors import InvalidFields, NotFound, Refused, SessiondError, Violation
from sessiond.request_ids import new_request_id
from sessiond.v1.event_service_pb2 import Delta, DeltaData
from sessiond.v1.message_pb2 import Message, Part, ToolCallPart
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond.v1.session_pb2 import TokenUsage

PIECE_BYTES = 32 * 1024
"""Maximum bytes of one delta; the service accepts twice as much."""
PUBLISHED_BYTES = 192 * 1024
"""Maximum bytes of text in one PublishDelta; the service accepts a request of 256 KiB."""
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
Kind = Literal["text", "thinking", "arguments"]

MESSAGE_BYTES = 1024 * 1024
"""Maximum bytes of one serialised message that the service accepts."""
MESSAGE_PARTS = 256
"""Maximum parts of one message."""
APPENDED_BYTES = 3 * 1024 * 1024
APPENDED_MESSAGES = 256
"""Maximum messages in one AppendMessages."""
METADATA_BYTES = 64 * 1024
_SPARE = 256
"""Bytes of a message that are reserved for its usage and its run."""
_PART = 24
"""Bytes of a part around its content, at most."""

_REPLACEMENT = "\ufffd"
_ID_BYTES = 255
_FIND_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search


@dataclass(slots=True)
class _Written:
    """One part of the draft, as far as it is written."""

    kind: Kind
    message: int
    """Index of the draft's message that contains it."""
    index: int
    """Its index among the parts of that message."""
    call: ToolCallPart | None = None
    """The tool call without its arguments."""
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
        _check(message)
        self._publish = publish
        self._append = append
        self._outline = message
        self._run_id = run_id
        self._interval = interval
        self._parts: list[_Written] = []
        self._ids = [message.message_id]
        """The ids of the messages that contain the parts."""
        self._room = self._most = MESSAGE_BYTES - message.ByteSize() - _SPARE
        """The bytes that the last message can still hold, and the bytes that an empty message can hold."""
        self._count = 0
        """Number of parts in the last message."""
        self._data: dict[int, DeltaData] = {}
        """The newest data of each number that was not published yet."""
        self._half: tuple[Kind, str] | None = None
        """The first half of a surrogate pair, if the last text ended with one."""
        self._call_refused: InvalidFields | None = None
        """Why the last `call_tool` was refused; None if it was accepted."""
        self._answered = 0
        """Number of append requests that were answered."""
        self._request_ids = [""]
        """The request ids of these and of the next one; the first one's is in `request_id`."""
        self._first_seq = 0
        self._shown = (0, 0)
        """The part and the byte up to which the draft was published."""
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
        return tuple(self._ids)

    @property
    def message(self) -> Message:
        """The message so far; the first one if there are several."""
        return self.messages[0]

    @property
    def messages(self) -> list[Message]:
        """All messages so far; the last one has the usage. For a caller that appends them in another way, for example
        after ToolBlocked."""
        messages = []
        for message_id in self._ids:
            message = Message()
            message.MergeFrom(self._outline)
            message.message_id = message_id
            messages.append(message)
        for written in self._parts:
            messages[written.message].parts.append(written.part())
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
            _check_call(tool_call_id, name)
        except InvalidFields as refused:
            self._call_refused = refused
            raise
        self._call_refused = None
        call = ToolCallPart(tool_call_id=tool_call_id, name=name)
        self._begin("arguments", call.ByteSize(), call)
        await self._add("arguments", "")

    async def write_arguments(self, text: str) -> None:
        """Adds text to the call's arguments, as the model writes them. Raises as `write`; InvalidFields for arguments
        that are too large for a message, which leaves the arguments written before, and after a refused `call_tool`;
        RuntimeError without a call."""
        if self._call_refused is not None:
            raise self._call_refused
        if not self._parts or self._parts[-1].kind != "arguments":
            raise RuntimeError("write_arguments: follows call_tool")
        await self._add("arguments", text)

    async def show(self, content: object, *, number: int = 0, media_type: str = "") -> None:
        """Publishes data for a part of a user interface, such as a chart, to the watchers: bytes, or what JSON can say.
        It replaces what was shown before with the same `number`, 0 to 255, and is not part of the message. Raises as
        `write`; InvalidFields for more than 64 KiB, TypeError or ValueError for what is not JSON."""
        self._check_open()
        data = DeltaData(media_type=media_type)
        if isinstance(content, bytes):
            data.blob = content
        else:
            data.json = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if len(data.blob) + len(data.json.encode()) > DATA_BYTES:
            raise _invalid("data", f"must be at most {DATA_BYTES} bytes")
        if not 0 <= number <= 255:
            raise _invalid("part_index", "must be 0 to 255")
        if len(media_type) > 128 or _FIND_CONTROL(media_type):
            raise _invalid("media_type", "must be 0 to 128 characters, none of them a control character")
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
                answer.message_ids.extend(self._ids)
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
            content = self._encoded(kind, text)
            if kind == "arguments":
                self._add_arguments(content)
            else:
                self._call_refused = None
                self._add_text(kind, content)
            self._changed.set()
        if self._refusal is not None:
            raise self._refusal
        # A writer that awaits nothing else would never let the publishing task run.
        await asyncio.sleep(0)

    def _check_open(self) -> None:
        if self.appended is not None or self._answered:
            raise RuntimeError("the draft has been appended")

    def _encoded(self, kind: Kind, text: str) -> bytes:
        """Encodes the text in UTF-8, with the characters replaced that no message can contain."""
        if self._half is not None and self._half[0] == kind:
            text, self._half = self._half[1] + text, None
        self._flush_half()
        if "\ud800" <= text[-1] <= "\udbff":
            self._half, text = (kind, text[-1]), text[:-1]
        return _repaired(text)

    def _flush_half(self) -> None:
        """Replaces a first half of a surrogate pair whose second half did not follow."""
        half, self._half = self._half, None
        if half is not None:
            content = _REPLACEMENT.encode()
            if half[0] == "arguments":
                self._add_arguments(content)
            else:
                self._add_text(half[0], content)
            self._changed.set()

    def _add_text(self, kind: Kind, content: bytes) -> None:
        while content:
            if not self._parts or self._parts[-1].kind != kind or self._parts[-1].message != len(self._ids) - 1:
                self._begin(kind, 0)
            end = _boundary(content, self._room)
            self._parts[-1].content += content[:end]
            self._room -= end
            content = content[end:]
            if content:
                self._go_on()

    def _add_arguments(self, content: bytes) -> None:
        """Adds to the last part, because arguments must stay in one part and cannot continue in another message."""
        written = self._parts[-1]
        assert written.call is not None
        if len(content) > self._room:
            size = written.call.ByteSize() + len(written.content)
            if self._count == 1 or size + len(content) + _PART > self._most:
                raise _invalid("arguments_json", f"must fit in a message of {MESSAGE_BYTES} bytes with all around them")
            # The whole call moves to the next message, and is published there from its beginning.
            self._go_on()
            written.message, written.index, self._count = len(self._ids) - 1, 0, 1
            self._room -= size + _PART
            if self._shown[0] == len(self._parts) - 1:
                self._shown = self._shown[0], 0
        written.content += content
        self._room -= len(content)

    def _begin(self, kind: Kind, size: int, call: ToolCallPart | None = None) -> None:
        """Begins a part, in the next message if this one has no room for it."""
        if self._count == MESSAGE_PARTS or self._room < size + 2 * _PART:
            self._go_on()
        self._parts.append(_Written(kind, len(self._ids) - 1, self._count, call))
        self._count += 1
        self._room -= size + _PART

    def _go_on(self) -> None:
        """Begins another message."""
        self._ids.append(new_request_id())
        self._room, self._count = self._most, 0

    async def _show(self) -> None:
        """Publishes new text repeatedly, until it is cancelled or refused."""
        deltas: Sequence[Delta] = [self._delta(0, 0, typing=True)]
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
                    deltas = [self._delta(0, 0, typing=True)]
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
        return list(islice(self._take(), PUBLISHED_PIECES))

    async def _say_interrupted(self) -> None:
        """Tells the watchers that nothing more comes, if that takes no longer than LANDING. The service finds out by
        itself later."""
        if self._refusal is None:
            with suppress(SessiondError, TimeoutError, RuntimeError):
                async with asyncio.timeout(LANDING):
                    await self._publish([self._delta(0, 0, interrupted=True)])

    def _take(self) -> Iterator[Delta]:
        """Yields the deltas not published yet, as many as fit in one request."""
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
        written = self._parts[part] if self._parts else None
        return Delta(
            message_id=self._ids[written.message] if written else self.message_id,
            part_index=written.index if written else 0,
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


def _repaired(text: str) -> bytes:
    try:
        content = text.encode()
    except UnicodeEncodeError:
        # The way through UTF-16 joins the halves of a pair.
        content = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return content.replace(b"\0", _REPLACEMENT.encode())


def _check(outline: Message) -> None:
    """Raises InvalidFields for values that no message can have. The append at the end would fail with the whole text
    otherwise."""
    if not _is_id(outline.message_id):
        rule = "must be 1 to 255 bytes of UTF-8 without control characters, leading and trailing white space"
        raise _invalid("message_id", rule)
    if len(outline.name) > 128 or _FIND_CONTROL(outline.name):
        raise _invalid("name", "must be 0 to 128 characters, none of them a control character")
    if outline.metadata.ByteSize() > METADATA_BYTES:
        raise _invalid("metadata", f"must be at most {METADATA_BYTES} bytes serialised")


def _is_id(value: str) -> bool:
    if _FIND_CONTROL(value) or value != value.strip():
        return False
    return 1 <= len(value.encode()) <= _ID_BYTES


def _check_call(tool_call_id: str, name: str) -> None:
    if len(tool_call_id) > 8192 or _FIND_CONTROL(tool_call_id):
        raise _invalid("tool_call_id", "must be 0 to 8192 characters, none of them a control character")
    if not 1 <= len(name) <= 128 or _FIND_CONTROL(name):
        raise _invalid("name", "must be 1 to 128 characters, none of them a control character")


def _invalid(field: str, rule: str) -> InvalidFields:
    text = f"{field}: {rule}"
    return InvalidFields(text, reason="INVALID_FIELD", code="INVALID_ARGUMENT", violations=[Violation(field, rule)])


def _boundary(content: bytes | bytearray, end: int) -> int:
    """Returns the last offset at or before `end` that lies between two characters."""
    if end >= len(content):
        return len(content)
    while content[end] & 0xC0 == 0x80:
        end -= 1
    return end
