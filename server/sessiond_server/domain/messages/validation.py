"""Validates messages by the rules that their proto comments state. See domain/validation.py."""

from typing import Final

from sessiond.v1.message_pb2 import FilePart, Message, Part, ToolCallPart, ToolResultPart
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations

MESSAGE_BYTES: Final = validation.MIB
"""Most bytes of a message where the operator allows no more."""
PARTS: Final = 256
CALL_ID_CHARACTERS: Final = 8192
URI_CHARACTERS: Final = 8192


def new_message(found: FieldViolations, path: str, message: Message, size: int, most_bytes: int) -> None:
    """Checks a message to append, of `size` serialised bytes. `message_id` may be empty. `most_bytes`: largest message.

    Runs for every message of the most frequent request, so each usual field costs only one comparison.
    """
    if message.message_id:
        found.add(f"{path}.message_id", text.identifier(message.message_id))
    if not 1 <= message.role <= 4:
        found.add(f"{path}.role", "must be a known role")
    if message.run_id:
        found.add(f"{path}.run_id", text.identifier(message.run_id))
    if name := message.name:
        found.add(f"{path}.name", text.line(name, 0, 128))
    if model := message.model:
        found.add(f"{path}.model", text.line(model, 0, 128))
    if size > most_bytes:
        found.add(path, f"must be at most {most_bytes} bytes serialised")
    if message.HasField("metadata"):
        validation.struct(found, f"{path}.metadata", message.metadata, validation.METADATA_BYTES)
    if message.labels:
        validation.labels(found, f"{path}.labels", message.labels)
    if message.HasField("client_time"):
        validation.timestamp(found, f"{path}.client_time", message.client_time)
    if not 0 <= message.token_count <= validation.MOST_INTEGER:
        found.add(f"{path}.token_count", "must be 0 to 2^53 - 1")
    if message.HasField("usage"):
        validation.usage(found, f"{path}.usage", message.usage)
    parts = message.parts
    if len(parts) > PARTS:
        found.add(f"{path}.parts", f"must be at most {PARTS}")
        return
    for index, part in enumerate(parts):
        kind = part.WhichOneof("kind")
        if kind != "text":
            _part(found, f"{path}.parts[{index}]", part, kind)
        elif "\0" in part.text:
            found.add(f"{path}.parts[{index}].text", text.NUL_RULE)


_Kind = str | None


def _part(found: FieldViolations, path: str, part: Part, kind: _Kind) -> None:
    match kind:
        case "data":
            validation.struct(found, f"{path}.data", part.data)
        case "tool_call":
            _tool_call(found, f"{path}.tool_call", part.tool_call)
        case "tool_result":
            _tool_result(found, f"{path}.tool_result", part.tool_result)
        case "thinking":
            if "\0" in part.thinking:
                found.add(f"{path}.thinking", text.NUL_RULE)
        case "file":
            _file(found, f"{path}.file", part.file)
        case "json":
            if "\0" in part.json:
                found.add(f"{path}.json", text.NUL_RULE)
        case "blob":
            found.add(f"{path}.blob.media_type", text.line(part.blob.media_type, 0, 255))
        case None:
            found.add(path, "must have a kind")


def _tool_call(found: FieldViolations, path: str, call: ToolCallPart) -> None:
    found.add(f"{path}.tool_call_id", text.line(call.tool_call_id, 0, CALL_ID_CHARACTERS))
    found.add(f"{path}.name", text.line(call.name, 1, 128))
    if call.HasField("arguments_struct"):
        validation.struct(found, f"{path}.arguments_struct", call.arguments_struct)
    elif "\0" in call.arguments_json:
        found.add(f"{path}.arguments_json", text.NUL_RULE)


def _tool_result(found: FieldViolations, path: str, result: ToolResultPart) -> None:
    found.add(f"{path}.tool_call_id", text.line(result.tool_call_id, 0, CALL_ID_CHARACTERS))
    if result.HasField("data"):
        validation.struct(found, f"{path}.data", result.data)
    elif "\0" in result.text:
        found.add(f"{path}.text", text.NUL_RULE)


def _file(found: FieldViolations, path: str, file: FilePart) -> None:
    found.add(f"{path}.uri", text.line(file.uri, 1, URI_CHARACTERS))
    found.add(f"{path}.media_type", text.line(file.media_type, 0, 255))
    found.add(f"{path}.name", text.line(file.name, 0, 255))
