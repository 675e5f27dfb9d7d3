"""A run as the data stream that Vercel's AI SDK reads (UI message stream, version 1): one message of the assistant,
whose id is the run's, with the texts, thoughts and tool calls of the run in their order.

Each stream has the whole run from its beginning, so a client that comes back begins its message anew.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from sessiond.v1.event_service_pb2 import Delta
from sessiond.v1.message_pb2 import Message, Part, Role, ToolCallPart, ToolResultPart
from sessiond.v1.run_pb2 import Run, RunStatus
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallStatus, ToolData
from sessiond_server.http import json_texts
from sessiond_server.http.problems import Problem

HEADERS: Final = (("x-vercel-ai-ui-message-stream", "v1"),)
END: Final = "[DONE]"

Chunk = dict[str, Any]

_TEXTS: Final = {"text": "text", "thinking": "reasoning"}
"""Kinds of parts whose texts come in pieces -> the protocol's names of them."""


@dataclass(slots=True)
class _Text:
    """A text or a thought that is sent in pieces."""

    kind: str
    id: str
    sent: str = ""
    size: int = 0
    """Bytes of UTF-8 that were sent."""


@dataclass(slots=True)
class _Tool:
    asked: bool = False
    approving: bool = False
    done: bool = False


class Conversion:
    """What has been sent of one run. Each method yields the chunks that its argument adds; what was sent before adds
    none, so that a list and the events behind it may overlap."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._texts: dict[tuple[str, int], _Text] = {}
        self._messages: set[str] = set()
        self._tools: dict[str, _Tool] = {}
        self._names: dict[str, str] = {}
        """Of calls that have a resource: its id -> the id by which messages call it."""

    def begin(self) -> Iterator[Chunk]:
        yield {"type": "start", "messageId": self._run_id}

    def begins(self, delta: Delta) -> bool:
        """Whether this piece would be the first of its part that is sent."""
        known = delta.message_id in self._messages or (delta.message_id, delta.part_index) in self._texts
        return not known and not delta.offset and (delta.WhichOneof("piece") or "") in _TEXTS

    def delta(self, delta: Delta) -> Iterator[Chunk]:
        """A piece of a message in the making."""
        kind = delta.WhichOneof("piece") or ""
        if kind not in _TEXTS or delta.message_id in self._messages:
            return
        text = self._texts.get((delta.message_id, delta.part_index))
        if text is None:
            if delta.offset:
                return  # its beginning is lost: it comes whole with the message
            text = self._texts[delta.message_id, delta.part_index] = _Text(
                _TEXTS[kind], f"{delta.message_id}:{delta.part_index}"
            )
            yield {"type": f"{text.kind}-start", "id": text.id}
        piece = (delta.text if kind == "text" else delta.thinking).encode()
        known = text.size - delta.offset
        if text.kind != _TEXTS[kind] or known < 0 or known >= len(piece):
            return  # a gap, whose end comes with the message, or nothing new
        try:
            added = piece[known:].decode()
        except UnicodeDecodeError:
            return
        text.sent += added
        text.size += len(piece) - known
        yield {"type": f"{text.kind}-delta", "id": text.id, "delta": added}

    def message(self, message: Message) -> Iterator[Chunk]:
        """A message of the run, whole."""
        if message.message_id in self._messages:
            return
        self._messages.add(message.message_id)
        for index, part in enumerate(message.parts):
            yield from self._part(message, index, part)
        for place in [place for place in self._texts if place[0] == message.message_id]:
            text = self._texts.pop(place)  # the message does without it
            yield {"type": f"{text.kind}-end", "id": text.id}

    def _part(self, message: Message, index: int, part: Part) -> Iterator[Chunk]:
        kind = part.WhichOneof("kind") or ""
        if kind == "tool_result":
            yield from self._result(part.tool_result)
        elif message.role != Role.ROLE_ASSISTANT:
            return
        elif kind == "tool_call":
            called = part.tool_call
            yield from self._asked(called.tool_call_id, called.name, _arguments(called))
        elif kind in _TEXTS:
            whole = part.text if kind == "text" else part.thinking
            yield from self._whole(self._texts.pop((message.message_id, index), None), message, index, kind, whole)

    def _whole(self, text: _Text | None, message: Message, index: int, kind: str, whole: str) -> Iterator[Chunk]:
        if text is not None and (text.kind != _TEXTS[kind] or not whole.startswith(text.sent)):
            # The draft was another text. What was sent cannot be taken back.
            yield {"type": f"{text.kind}-end", "id": text.id}
            text = _Text(_TEXTS[kind], f"{message.message_id}:{index}:whole")
            yield {"type": f"{text.kind}-start", "id": text.id}
        elif text is None:
            text = _Text(_TEXTS[kind], f"{message.message_id}:{index}")
            yield {"type": f"{text.kind}-start", "id": text.id}
        if rest := whole[len(text.sent) :]:
            yield {"type": f"{text.kind}-delta", "id": text.id, "delta": rest}
        yield {"type": f"{text.kind}-end", "id": text.id}

    def tool_call(self, call: ToolCall) -> Iterator[Chunk]:
        """A tool call as it is after an event, or now."""
        name = self._names.setdefault(call.tool_call_id, call.model_call_id or call.tool_call_id)
        status = call.status
        arguments = call.arguments
        yield from self._asked(
            name, call.name, _parsed(arguments.text) if arguments.HasField("text") else _data(arguments)
        )
        tool = self._tools[name]
        if tool.done:
            return
        if call.requires_approval and not tool.approving:
            tool.approving = True
            yield {"type": "tool-approval-request", "approvalId": call.tool_call_id, "toolCallId": name}
        if status == ToolCallStatus.TOOL_CALL_STATUS_COMPLETED:
            yield from self._done(tool, type="tool-output-available", toolCallId=name, output=_data(call.result))
        elif status == ToolCallStatus.TOOL_CALL_STATUS_FAILED:
            text = call.error.message or call.error.code
            yield from self._done(tool, type="tool-output-error", toolCallId=name, errorText=text)
        elif status == ToolCallStatus.TOOL_CALL_STATUS_REJECTED:
            yield from self._done(tool, type="tool-output-denied", toolCallId=name)
        elif status == ToolCallStatus.TOOL_CALL_STATUS_CANCELLED:
            yield from self._done(tool, type="tool-output-error", toolCallId=name, errorText="cancelled")

    def _asked(self, call_id: str, name: str, arguments: Any) -> Iterator[Chunk]:
        tool = self._tools.setdefault(call_id, _Tool())
        if not tool.asked:
            tool.asked = True
            yield {"type": "tool-input-available", "toolCallId": call_id, "toolName": name, "input": arguments}

    def _result(self, result: ToolResultPart) -> Iterator[Chunk]:
        tool = self._tools.get(result.tool_call_id)
        if tool is None or tool.done:
            return
        output = MessageToDict(result.data) if result.WhichOneof("result") == "data" else result.text
        if result.is_error:
            text = output if isinstance(output, str) else json_texts.dump_dict(output).decode()
            yield from self._done(tool, type="tool-output-error", toolCallId=result.tool_call_id, errorText=text)
        else:
            yield from self._done(tool, type="tool-output-available", toolCallId=result.tool_call_id, output=output)

    def _done(self, tool: _Tool, **chunk: Any) -> Iterator[Chunk]:
        tool.done = True
        yield chunk

    def end(self, run: Run) -> Iterator[Chunk]:
        """The run has ended."""
        for text in self._texts.values():
            yield {"type": f"{text.kind}-end", "id": text.id}
        self._texts.clear()
        if run.status == RunStatus.RUN_STATUS_FAILED:
            yield {"type": "error", "errorText": run.error.message or run.error.code or "the run failed"}
        elif run.status == RunStatus.RUN_STATUS_CANCELLED:
            yield {"type": "abort"}
        yield {"type": "finish"}


def _arguments(called: ToolCallPart) -> Any:
    if called.WhichOneof("arguments") != "arguments_json":
        return MessageToDict(called.arguments_struct)
    return _parsed(called.arguments_json)


def _parsed(text: str) -> Any:
    """The value of a JSON text; of any other text, which models write too, the text itself."""
    try:
        return json_texts.load(text.encode())
    except Problem:
        return text


def _data(data: ToolData) -> Any:
    kind = data.WhichOneof("kind")
    if kind == "data":
        return MessageToDict(data.data)
    if kind == "binary":
        return base64.b64encode(data.binary).decode()
    return data.text if kind else {}
