"""Takes large parts out of messages, for attachments to hold them, and puts them back.

What holds the place says which attachment, whose id says what the part was: `attachment:part.KIND.DIGEST`, as the URI
of a file part. Of a tool's arguments or result, only the content is taken out; an object with the id as its member
`$attachment` holds the place, so that the call and its answer stay readable.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sessiond.structs import from_struct, struct_of
from sessiond.v1.message_pb2 import BlobPart, FilePart, Message, Part, ToolCallPart, ToolResultPart

PLACE = "$attachment"
_URI = "attachment:"
_ID = re.compile(r"part\.(text|thinking|json|data|blob)\.[0-9a-f]{32}")
_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "thinking": "text/plain; charset=utf-8",
    "json": "application/json",
    "data": "application/json",
}


class TakenOut(NamedTuple):
    """The content of a part, for an attachment."""

    attachment_id: str
    media_type: str
    content: bytes


def attachment_of(part: Part) -> str:
    """The id of the attachment that holds what the part was; empty for a part that is whole."""
    match part.WhichOneof("kind"):
        case "file":
            found = part.file.uri.removeprefix(_URI) if part.file.uri.startswith(_URI) else ""
        case "tool_call" if PLACE in part.tool_call.arguments_struct.fields:
            found = part.tool_call.arguments_struct.fields[PLACE].string_value
        case "tool_result" if PLACE in part.tool_result.data.fields:
            found = part.tool_result.data.fields[PLACE].string_value
        case _:
            found = ""
    return found if _ID.fullmatch(found) else ""


def take_out(message: Message, above: int, seed: str) -> tuple[Message, list[TakenOut]]:
    """A copy of the message in which parts of more than `above` serialised bytes hold a place, and what they were.
    Equal seeds give equal ids for equal content.

    File parts, and parts whose place is held already, stay as they are.
    """
    copy, taken = Message(), list[TakenOut]()
    copy.CopyFrom(message)
    for index, part in enumerate(copy.parts):
        if part.ByteSize() > above and part.WhichOneof("kind") not in (None, "file") and not attachment_of(part):
            taken += _take_out(part, f"{seed}/{index}")
    return copy, taken


def _take_out(part: Part, seed: str) -> Iterator[TakenOut]:
    kind = part.WhichOneof("kind")
    match kind:
        case "tool_call":
            call = part.tool_call
            match call.WhichOneof("arguments"):
                case "arguments_json":
                    out = _taken("json", call.arguments_json.encode(), seed)
                case "arguments_struct":
                    out = _taken("data", _text(from_struct(call.arguments_struct)), seed)
                case _:
                    return
            call.arguments_struct.CopyFrom(struct_of({PLACE: out.attachment_id}))
        case "tool_result":
            answer = part.tool_result
            match answer.WhichOneof("result"):
                case "text":
                    out = _taken("text", answer.text.encode(), seed)
                case "data":
                    out = _taken("data", _text(from_struct(answer.data)), seed)
                case _:
                    return
            answer.data.CopyFrom(struct_of({PLACE: out.attachment_id}))
        case _:
            if kind == "blob":
                out = _taken("blob", part.blob.data, seed)._replace(media_type=part.blob.media_type)
            elif kind == "data":
                out = _taken("data", _text(from_struct(part.data)), seed)
            else:
                out = _taken(kind or "", getattr(part, kind or "").encode(), seed)
            part.file.CopyFrom(FilePart(uri=_URI + out.attachment_id, media_type=out.media_type))
    yield out


def _taken(kind: str, content: bytes, seed: str) -> TakenOut:
    digest = hashlib.sha256(seed.encode() + b"\0" + content).hexdigest()[:32]
    return TakenOut(f"part.{kind}.{digest}", _MEDIA_TYPES.get(kind, ""), content)


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def put_back(message: Message, contents: Mapping[str, bytes]) -> Message:
    """A copy of the message in which the parts are whole whose attachments are in `contents`, by their ids.

    Raises ValueError for content that cannot be the part, as it is not UTF-8 or no JSON object.
    """
    copy = Message()
    copy.CopyFrom(message)
    for part in copy.parts:
        attachment_id = attachment_of(part)
        if attachment_id in contents:
            _put_back(part, attachment_id.split(".")[1], contents[attachment_id])
    return copy


def _put_back(part: Part, kind: str, content: bytes) -> None:
    match part.WhichOneof("kind"):
        case "tool_call":
            call = ToolCallPart(tool_call_id=part.tool_call.tool_call_id, name=part.tool_call.name)
            if kind == "data":
                call.arguments_struct.CopyFrom(struct_of(json.loads(content)))
            else:
                call.arguments_json = content.decode()
            part.tool_call.CopyFrom(call)
        case "tool_result":
            known = part.tool_result
            answer = ToolResultPart(tool_call_id=known.tool_call_id, is_error=known.is_error)
            if kind == "data":
                answer.data.CopyFrom(struct_of(json.loads(content)))
            else:
                answer.text = content.decode()
            part.tool_result.CopyFrom(answer)
        case _:
            if kind == "blob":
                part.blob.CopyFrom(BlobPart(data=content, media_type=part.file.media_type))
            elif kind == "data":
                part.data.CopyFrom(struct_of(json.loads(content)))
            else:
                setattr(part, kind, content.decode())
