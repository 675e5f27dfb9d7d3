"""Validates tool calls by the rules that their proto comments state. See domain/validation.py."""

from typing import Final

from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallExpireAction, ToolData
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations

ARGUMENTS_BYTES: Final = 256 * validation.KIB
RESULT_BYTES: Final = validation.MIB
WITHOUT_APPROVAL: Final = "is only for a call that requires an approval"


def new_tool_call(found: FieldViolations, path: str, call: ToolCall) -> None:
    """Checks a tool call to request. `tool_call_id` may be empty."""
    for name in ("tool_call_id", "message_id"):
        if value := getattr(call, name):
            found.add(f"{path}.{name}", text.identifier(value))
    found.add(f"{path}.model_call_id", text.line(call.model_call_id, 0, 256))
    found.add(f"{path}.name", text.line(call.name, 1, 128))
    if call.HasField("arguments"):
        tool_data(found, f"{path}.arguments", call.arguments, ARGUMENTS_BYTES)
    if call.HasField("expire_time"):
        validation.timestamp(found, f"{path}.expire_time", call.expire_time)
        if not call.requires_approval:
            found.add(f"{path}.expire_time", WITHOUT_APPROVAL)
    validation.enum(found, f"{path}.expire_action", call.expire_action, ToolCallExpireAction.DESCRIPTOR)


def tool_data(found: FieldViolations, path: str, value: ToolData, most_bytes: int) -> None:
    if value.ByteSize() > most_bytes:
        found.add(path, f"must be at most {most_bytes} bytes serialised")
        return
    match value.WhichOneof("kind"):
        case "data":
            validation.struct(found, f"{path}.data", value.data)
        case "text":
            if "\0" in value.text:
                found.add(f"{path}.text", text.NUL_RULE)
        case None:
            found.add(path, "must have a kind")
