"""Files up and down: bodies that are the bytes of attachments, through the streams of the gRPC port.

Its places, silence limits and budgets hold: a body is received as fast as the port takes it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import (
    DownloadAttachmentRequest,
    DownloadAttachmentResponse,
    UploadAttachmentRequest,
    UploadStatus,
)
from sessiond_server.http import answers, json_texts, problems, ranges, requests
from sessiond_server.http.exchange import Gone, Request, drop_body, left, metadata, pieces, until_left
from sessiond_server.http.problems import invalid
from sessiond_server.http.ranges import Part
from sessiond_server.http.rules import RPCS, Rule, grpc_path
from sessiond_server.rpc.loopback import CallFailed, Loopback

UPLOAD: Final = "UploadAttachment"
DOWNLOAD: Final = "DownloadAttachment"
ACCEPTED: Final = "sessiond-upload-call"
"""Key of the metadata with which the gRPC port says that an upload may go on."""
CHUNK: Final = 128 * 1024
"""Bytes of a body that are sent on together."""
FLUSH: Final = 5.0
"""Seconds after which fewer are sent on, so that a slow client does not look like a silent one."""
SANDBOX: Final = "default-src 'none'; sandbox"

Headers = list[tuple[str, str]]
Begin = Callable[[Request, int, Headers], Awaitable[None]]
"""Sends the head of an answer."""
Write = Callable[[Request, bytes, str], Awaitable[None]]
"""Sends a piece of the answer for a tenant; returns once the transport has room for more. Raises Gone."""
Unary = Callable[[str, bytes, Request, str], Awaitable[bytes]]
"""Calls a unary RPC by its name, for a tenant."""


class Files:
    """Serves uploads and downloads."""

    def __init__(self, loopback: Loopback, unary: Unary, begin: Begin, write: Write) -> None:
        self._loopback = loopback
        self._unary = unary
        self._begin = begin
        self._write = write

    async def receive(self, request: Request, rule: Rule, captured: Mapping[str, str]) -> None:
        """Serves an upload, or a part of one. Raises Problem, CallFailed, Gone."""
        first = _upload(request, rule, captured)
        body = _Body(request, ranges.sent(request.headers))
        try:
            got = await self._loopback.upload(
                grpc_path(RPCS[UPLOAD]),
                first.SerializeToString(),
                body.messages(),
                metadata(request),
                accepted=ACCEPTED,
            )
        except CallFailed as failure:
            if body.gone:
                raise Gone from None
            problem = problems.of(failure)
            if problem.reason != "UPLOAD_INCOMPLETE" or not body.is_part:
                raise
            await self._answer_part(request, first, int(problem.metadata["committed_bytes"]))
            return
        attachment = Attachment.FromString(got)
        headers = [("content-type", answers.JSON), ("cache-control", "no-store")]
        headers.append(("etag", ranges.tag_of(attachment.sha256)))
        await self._answer(request, 200, headers, json_texts.dump(attachment))

    async def _answer_part(self, request: Request, first: UploadAttachmentRequest, committed: int) -> None:
        """Says how much of the upload has arrived."""
        header = first.header
        status = UploadStatus(
            attachment_id=header.attachment_id,
            committed_bytes=committed,
            size_bytes=header.size_bytes,
            sha256=header.sha256,
        )
        headers = [("content-type", answers.JSON), ("cache-control", "no-store")]
        if committed:
            headers.append(("range", f"bytes=0-{committed - 1}"))
        await self._answer(request, 202, headers, json_texts.dump(status))

    async def _answer(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        unread = request.body_due
        if unread:  # the file was there already
            headers = [*headers, ("connection", "close")]
        await self._begin(request, status, [*headers, ("content-length", str(len(body)))])
        await request.send({"type": "http.response.body", "body": body, "more_body": True})
        if unread:
            await drop_body(request)
        await request.send({"type": "http.response.body", "body": b""})

    async def send(self, request: Request, rule: Rule, captured: Mapping[str, str], tenant_id: str) -> None:
        """Serves a download, or a part of one. Raises Problem, CallFailed, Gone."""
        wanted: Any = requests.message(rule, captured, request.query, b"", _without_tags(request.headers))
        # It has the same ids. The file itself never changes.
        attachment = Attachment.FromString(
            await self._unary("GetAttachment", wanted.SerializeToString(), request, tenant_id)
        )
        tag = ranges.tag_of(attachment.sha256)
        headers = [("etag", tag), ("cache-control", "private, no-cache")]
        ranges.check_match(request.headers, tag)
        if ranges.is_known(request.headers, tag):
            await self._begin(request, 304, headers)
            await request.send({"type": "http.response.body", "body": b""})
            return
        part = ranges.wanted(request.headers, attachment.size_bytes, tag)
        headers += [
            ("content-type", ranges.shown_type(attachment.media_type)),
            ("content-disposition", ranges.disposition(attachment.name)),
            ("content-security-policy", SANDBOX),
            ("accept-ranges", "bytes"),
            (ranges.DIGEST, ranges.digest_header(attachment.sha256)),
        ]
        if part is not None:
            headers.append(("content-range", part.content_range))
        length = attachment.size_bytes if part is None else part.length
        headers.append(("content-length", str(length)))
        status = 200 if part is None else 206
        if request.method == "HEAD" or not length:
            await self._begin(request, status, headers)
            await request.send({"type": "http.response.body", "body": b""})
            return
        if part is not None:
            wanted.offset, wanted.length = part.offset, part.length
        await self._send_bytes(request, wanted, status, headers, tenant_id)

    async def _send_bytes(
        self, request: Request, wanted: DownloadAttachmentRequest, status: int, headers: Headers, tenant_id: str
    ) -> None:
        path = grpc_path(RPCS[DOWNLOAD])
        async with self._loopback.stream(path, wanted.SerializeToString(), metadata(request)) as frames:
            # The header; an error before it has a status of its own.
            await anext(frames)
            await self._begin(request, status, headers)
            await until_left(self._pump(request, frames, tenant_id), left(request))

    async def _pump(self, request: Request, frames: AsyncIterator[bytes], tenant_id: str) -> None:
        try:
            async for frame in frames:
                await self._write(request, DownloadAttachmentResponse.FromString(frame).chunk, tenant_id)
        except CallFailed:
            # Too late for a status: the client sees fewer bytes than were announced.
            raise Gone from None
        await request.send({"type": "http.response.body", "body": b""})


def _upload(request: Request, rule: Rule, captured: Mapping[str, str]) -> UploadAttachmentRequest:
    """The first message of an upload. Raises Problem."""
    found: Any = requests.message(rule, captured, request.query, b"", request.headers)
    header, part = found.header, ranges.sent(request.headers)
    header.offset, header.size_bytes = part.offset, part.size
    header.sha256 = ranges.digest(request.headers)
    media_type = request.headers.get("content-type", "")
    header.media_type = media_type
    if (key := requests.idempotency_key(request.headers)) is not None:
        header.request_id = key
    assert isinstance(found, UploadAttachmentRequest)
    return found


def _without_tags(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name not in ("if-match", "if-none-match")}


class _Body:
    """The body of an upload on its way."""

    def __init__(self, request: Request, part: Part) -> None:
        self.gone = False
        """Whether the client left before the end. What has arrived is kept all the same."""
        self._request = request
        self._left = part.length
        self.is_part: Final = part.end < part.size
        """Whether it ends before the file does."""

    async def messages(self) -> AsyncIterator[bytes]:
        """The bytes, as messages of the upload. Raises Problem if they are more or fewer than were announced."""
        buffer, since = bytearray(), 0.0
        clock = asyncio.get_running_loop().time
        try:
            async for piece in pieces(self._request):
                self._left -= len(piece)
                if self._left < 0:
                    raise invalid("content-range", "must have as many bytes as the body")
                if not buffer:
                    since = clock()
                buffer += piece
                if len(buffer) >= CHUNK or clock() - since >= FLUSH:
                    yield _message(buffer)
                    buffer = bytearray()
        except Gone:
            self.gone = True
        if buffer:
            yield _message(buffer)
        if self._left and not self.gone:
            raise invalid("content-range", "must have as many bytes as the body")


def _message(data: bytearray) -> bytes:
    return UploadAttachmentRequest(chunk=bytes(data)).SerializeToString()
