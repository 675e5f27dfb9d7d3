"""A run as events of the AG-UI protocol, from the chunks of ai_sdk.py: both tell the same in other words.

Each text and each thought is a message of its own. An approval that is asked for is a CUSTOM event.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sessiond_server.http.ai_sdk import Chunk
from sessiond_server.http.json_texts import dump_dict

Event = dict[str, Any]

APPROVAL: Final = "tool-approval-request"
"""Name of the CUSTOM event; its value has `approvalId` and `toolCallId`."""


class Translation:
    """Of one run."""

    def __init__(self, session_id: str, run_id: str) -> None:
        self._ids = {"threadId": session_id, "runId": run_id}
        self._failed = False

    def events(self, chunk: Chunk) -> Iterator[Event]:
        kind = chunk["type"]
        if kind == "start":
            yield {"type": "RUN_STARTED", **self._ids}
        elif kind == "error":
            self._failed = True
            yield {"type": "RUN_ERROR", "message": chunk["errorText"], "code": "FAILED"}
        elif kind == "abort":
            self._failed = True
            yield {"type": "RUN_ERROR", "message": "the run was cancelled", "code": "CANCELLED"}
        elif kind == "finish":
            if not self._failed:  # an error is the end by itself
                yield {"type": "RUN_FINISHED", **self._ids}
        else:
            yield from _OTHERS[kind](chunk)


def _begun(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "TEXT_MESSAGE_START", "messageId": chunk["id"], "role": "assistant"}


def _added(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": chunk["id"], "delta": chunk["delta"]}


def _over(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "TEXT_MESSAGE_END", "messageId": chunk["id"]}


def _thought_begun(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "REASONING_START", "messageId": chunk["id"]}
    yield {"type": "REASONING_MESSAGE_START", "messageId": chunk["id"], "role": "reasoning"}


def _thought_added(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": chunk["id"], "delta": chunk["delta"]}


def _thought_over(chunk: Chunk) -> Iterator[Event]:
    yield {"type": "REASONING_MESSAGE_END", "messageId": chunk["id"]}
    yield {"type": "REASONING_END", "messageId": chunk["id"]}


def _called(chunk: Chunk) -> Iterator[Event]:
    call_id, given = chunk["toolCallId"], chunk["input"]
    yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": chunk["toolName"]}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": _text(given)}
    yield {"type": "TOOL_CALL_END", "toolCallId": call_id}


def _asked(chunk: Chunk) -> Iterator[Event]:
    value = {"approvalId": chunk["approvalId"], "toolCallId": chunk["toolCallId"]}
    yield {"type": "CUSTOM", "name": APPROVAL, "value": value}


def _result(of: Callable[[Chunk], Any]) -> Callable[[Chunk], Iterator[Event]]:
    def result(chunk: Chunk) -> Iterator[Event]:
        call_id = chunk["toolCallId"]
        named = {"messageId": f"{call_id}:result", "toolCallId": call_id, "role": "tool"}
        yield {"type": "TOOL_CALL_RESULT", **named, "content": _text(of(chunk))}

    return result


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dump_dict(value).decode()


_OTHERS: Final[Mapping[str, Callable[[Chunk], Iterator[Event]]]] = {
    "text-start": _begun,
    "text-delta": _added,
    "text-end": _over,
    "reasoning-start": _thought_begun,
    "reasoning-delta": _thought_added,
    "reasoning-end": _thought_over,
    "tool-input-available": _called,
    "tool-approval-request": _asked,
    "tool-output-available": _result(lambda chunk: chunk["output"]),
    "tool-output-error": _result(lambda chunk: {"error": chunk["errorText"]}),
    "tool-output-denied": _result(lambda chunk: {"error": "the call was rejected"}),
}
