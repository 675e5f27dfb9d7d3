"""Checks of the requests of AttachmentService: one function per RPC. See rpc/sessions/checks.py."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from sessiond.v1.attachment_pb2 import Attachment, AttachmentType
from sessiond.v1.attachment_service_pb2 import (
    DeleteAttachmentRequest,
    DownloadAttachmentRequest,
    GetAttachmentRequest,
    GetUploadStatusRequest,
    ListAttachmentsRequest,
    UploadAttachmentRequest,
    UploadHeader,
)
from sessiond_server.blobs.contract import Buffer
from sessiond_server.domain import commands, encoding, ids, text, validation
from sessiond_server.domain.attachments import media_types as file_types
from sessiond_server.domain.validation import FieldViolations
from sessiond_server.errors import InvalidFields, MalformedRequest, Violation
from sessiond_server.rpc import fields

CHUNK_BYTES: Final = validation.MIB
SMALL_CHUNKS: Final = 4096
SMALL_CHUNK_BYTES: Final = 1024
"""Least size of chunks on average, in bytes, beyond SMALL_CHUNKS chunks: each message costs as much as a few KiB."""
ATTACHMENTS_PAGE: Final = (20, 100)
_SHA256_BYTES: Final = 32
_CHUNK_TAG: Final = encoding.tag(UploadAttachmentRequest.CHUNK_FIELD_NUMBER)


@dataclass(frozen=True, slots=True)
class UploadStart:
    """The checked header of an upload, its first message."""

    header: UploadHeader
    declared: Attachment
    """The declared attachment, with an id and a media type even if the client gave none."""
    fence: commands.Fence | None


def upload_header(message: bytes | None, scope: commands.Scope, new_id: Callable[[], str] = ids.uuid7) -> UploadStart:
    """Checks the first message of the stream; None: the stream ended before it."""
    request = None if message is None else upload_message(message)
    if request is None or request.WhichOneof("frame") != "header":
        raise InvalidFields([Violation("header", "is required, as the first message")])
    header, found = request.header, FieldViolations()
    _ids(found, header.session_id, header.attachment_id or None, "header.")
    if header.request_id:
        found.add("header.request_id", text.request_identifier(header.request_id))
    found.add("header.name", text.line(header.name, 0, 255))
    found.add("header.media_type", text.line(header.media_type, 0, 255))
    validation.enum(found, "header.type", header.type, AttachmentType.DESCRIPTOR)
    if not 0 <= header.size_bytes <= validation.MOST_INTEGER:
        found.add("header.size_bytes", f"must be 0 to {validation.MOST_INTEGER}")
    if len(header.sha256) != _SHA256_BYTES:
        found.add("header.sha256", f"must be {_SHA256_BYTES} bytes")
    if not 0 <= header.offset <= max(header.size_bytes, 0):
        found.add("header.offset", "must be 0 to size_bytes")
    fields.fence(found, header, "header.run")
    found.check()
    return UploadStart(header, _declared(header, scope, new_id), fields.fence_of(header))


def _declared(header: UploadHeader, scope: commands.Scope, new_id: Callable[[], str]) -> Attachment:
    attachment_id = header.attachment_id
    if not attachment_id:
        # The id is the same for every retry, and differs between sessions.
        basis = header.request_id and f"{header.request_id}\0{header.session_id}"
        attachment_id = ids.derived(scope.tenant_id, scope.user_id, basis) if basis else new_id()
    return Attachment(
        attachment_id=attachment_id,
        name=header.name,
        media_type=header.media_type,
        type=header.type or file_types.derived(header.media_type, header.name),
        size_bytes=header.size_bytes,
        sha256=header.sha256,
    )


async def upload_chunks(messages: AsyncIterator[bytes], size_bytes: int) -> AsyncIterator[Buffer]:
    """The chunks of the messages after the first, serialised as they arrived, for a file of `size_bytes`."""
    left = SMALL_CHUNKS + size_bytes // SMALL_CHUNK_BYTES
    async for message in messages:
        left -= 1
        if left < 0:
            raise InvalidFields([Violation("chunk", f"must be {SMALL_CHUNK_BYTES} bytes or more, on the average")])
        chunk = _plain_chunk(message) or _parsed_chunk(message)
        if not 1 <= len(chunk) <= CHUNK_BYTES:
            raise InvalidFields([Violation("chunk", f"must be 1 to {CHUNK_BYTES} bytes")])
        del message
        yield chunk
        del chunk


def _parsed_chunk(message: bytes) -> bytes:
    request = upload_message(message)
    if request.WhichOneof("frame") != "chunk":
        raise InvalidFields([Violation("chunk", "is required in every message but the first")])
    return request.chunk


def upload_message(message: bytes) -> UploadAttachmentRequest:
    try:
        return UploadAttachmentRequest.FromString(message)
    except DecodeError:
        raise MalformedRequest(UploadAttachmentRequest.DESCRIPTOR.full_name) from None


def _plain_chunk(message: bytes) -> memoryview | None:
    """The chunk of a message with no other field, without a copy; None for other messages, which unusual clients send.

    Parsing would copy the chunk twice, which is a third of the cost of receiving an upload.
    """
    if message[:1] != _CHUNK_TAG:
        return None
    length = shift = 0
    for place, byte in enumerate(message[1:6], 2):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return memoryview(message)[place:] if place + length == len(message) else None
    return None


def get_upload_status(request: GetUploadStatusRequest) -> None:
    _named(request.session_id, request.attachment_id)


def download_attachment(request: DownloadAttachmentRequest) -> None:
    found = FieldViolations()
    _ids(found, request.session_id, request.attachment_id)
    for name, value in (("offset", request.offset), ("length", request.length)):
        if value < 0:
            found.add(name, "must not be negative")
    found.check()


def download_range(request: DownloadAttachmentRequest, size_bytes: int) -> tuple[int, int]:
    """(first byte, byte after the last) to send of an attachment of `size_bytes`."""
    if request.offset > size_bytes:
        raise InvalidFields([Violation("offset", "must be at most the attachment's size")])
    end = request.offset + request.length if request.length else size_bytes
    return request.offset, min(end, size_bytes)


def get_attachment(request: GetAttachmentRequest) -> None:
    _named(request.session_id, request.attachment_id)


def list_attachments(request: ListAttachmentsRequest) -> int:
    """The page size: 1 to 100."""
    found = FieldViolations()
    _ids(found, request.session_id)
    if request.page_size < 0:
        found.add("page_size", "must not be negative")
    found.check()
    default, most = ATTACHMENTS_PAGE
    return min(request.page_size or default, most)


def delete_attachment(request: DeleteAttachmentRequest) -> commands.Fence | None:
    found = FieldViolations()
    _ids(found, request.session_id, request.attachment_id)
    if request.request_id:
        found.add("request_id", text.request_identifier(request.request_id))
    if request.expected_version < 0:
        found.add("expected_version", "must not be negative")
    fields.fence(found, request)
    found.check()
    return fields.fence_of(request)


def _named(session_id: str, attachment_id: str) -> None:
    found = FieldViolations()
    _ids(found, session_id, attachment_id)
    found.check()


def _ids(found: FieldViolations, session_id: str, attachment_id: str | None = None, path: str = "") -> None:
    found.add(f"{path}session_id", text.identifier(session_id))
    if attachment_id is not None:
        found.add(f"{path}attachment_id", text.identifier(attachment_id))
