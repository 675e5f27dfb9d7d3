"""Checks the frames of a pipe's client, and what a call of it brings."""

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from sessiond.v1.pipe_service_pb2 import OpenRequest, PipeCall
from sessiond_server.domain.validation import MOST_INTEGER
from sessiond_server.errors import InvalidFields, MalformedRequest, Violation
from sessiond_server.rpc.pipe.limits import FRAME_BYTES, FRAME_ENTRIES, METADATA_ENTRIES, PIECE_BYTES
from sessiond_server.rpc.pipe.piped_context import Pair

INHERITED: Final = frozenset(("authorization", "db_id"))
"""Keys of a pipe's metadata that hold for its calls."""


def invalid(field: str, rule: str) -> InvalidFields:
    return InvalidFields([Violation(field, rule)])


def frame(data: bytes) -> OpenRequest:
    """The frame. Raises InvalidFields, MalformedRequest."""
    if len(data) > FRAME_BYTES:
        raise invalid("frame", f"must have at most {FRAME_BYTES} bytes")
    try:
        parsed = OpenRequest.FromString(data)
    except DecodeError:
        raise MalformedRequest(OpenRequest.DESCRIPTOR.full_name) from None
    if len(parsed.calls) + len(parsed.pieces) + len(parsed.cancels) > FRAME_ENTRIES:
        del parsed  # 80 times the bytes of the frame if all are empty, and the traceback would keep it
        raise invalid("frame", f"must have at most {FRAME_ENTRIES} calls, pieces and cancels")
    return parsed


def size(call: PipeCall, newest: int) -> int:
    """Bytes of the whole request of a call. `newest`: the greatest number so far. Raises InvalidFields for a call after
    which the pipe cannot go on."""
    if not newest < call.number <= MOST_INTEGER:
        raise invalid("calls.number", "must be greater than the number of every earlier call, and at most 2^53 - 1")
    if len(call.request) > PIECE_BYTES:
        raise invalid("calls.request", f"must have at most {PIECE_BYTES} bytes; the others are sent as pieces")
    if not call.request_size:
        return len(call.request)
    if call.request_size <= len(call.request):
        raise invalid("calls.request_size", "must be more than the bytes of `request`, or 0")
    return call.request_size


def metadata(call: PipeCall, inherited: Sequence[Pair]) -> tuple[Sequence[Pair], InvalidFields | None]:
    """The metadata of a call, its own entries first, and why the call must be refused."""
    own = call.metadata
    if not own:
        return inherited, None
    if len(own) > METADATA_ENTRIES:
        return inherited, invalid("metadata", f"must have at most {METADATA_ENTRIES} entries")
    if "authorization" in own:
        return inherited, invalid("metadata[authorization]", "must not be given: the pipe's holds for all of its calls")
    return (*own.items(), *inherited), None


def inherited(opened: Iterable[Pair]) -> Sequence[Pair]:
    """The entries of a pipe's metadata that hold for its calls."""
    return tuple((key, value) for key, value in opened if key in INHERITED)
