"""AttachmentService. Each RPC makes four moves: check, authorise, call, answer."""

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Final, cast

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.attachment_service_pb2 import (
    DeleteAttachmentRequest,
    DeleteAttachmentResponse,
    DownloadAttachmentRequest,
    DownloadAttachmentResponse,
    DownloadHeader,
    GetAttachmentRequest,
    GetUploadStatusRequest,
    ListAttachmentsRequest,
    ListAttachmentsResponse,
    UploadHeader,
    UploadStatus,
)
from sessiond_server.auth import SESSIONS_READ, SESSIONS_WRITE
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.domain import encoding
from sessiond_server.domain.attachments.rows import Upload
from sessiond_server.domain.commands import (
    AttachmentDeleted,
    AttachmentUploaded,
    CompleteUpload,
    DeleteAttachment,
    Scope,
)
from sessiond_server.domain.times import set_timestamp
from sessiond_server.rpc import answers
from sessiond_server.rpc.attachments import checks as requests
from sessiond_server.rpc.attachments.checks import UploadStart
from sessiond_server.rpc.attachments.transfers import Transfers
from sessiond_server.rpc.call import Call, taking_bytes
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.store.commits import Writer

CHECKSUM_KEY: Final = "sessiond-sha256"
CALL_KEY: Final = "sessiond-upload-call"

_CHUNK: Final = encoding.tag(DownloadAttachmentResponse.CHUNK_FIELD_NUMBER)
_LISTED: Final = encoding.tag(ListAttachmentsResponse.ATTACHMENTS_FIELD_NUMBER)


class AttachmentServicer:
    """The RPCs of sessiond.v1.AttachmentService."""

    def __init__(
        self, files: AttachmentAccess, writer: Writer, tokens: PageTokens, transfers: Transfers, upload_retention: float
    ) -> None:
        """`upload_retention`: seconds that the store keeps an upload without activity."""
        self._store = files.store
        self._uploads = files.uploads
        self._downloads = files.downloads
        self._writer = writer
        self._tokens = tokens
        self._transfers = transfers
        self._upload_retention_us = round(upload_retention * 1_000_000)

    @taking_bytes
    async def upload_attachment(self, messages: AsyncIterator[bytes], call: Call) -> bytes:
        principal = call.principal
        # The place is taken before anything is read, because a client that sends no header needs one too.
        with self._transfers.place(principal.tenant_id):
            arriving = self._transfers.arriving(messages)
            first = await anext(arriving, None)
            start = requests.upload_header(first, Scope(principal.tenant_id, principal.user_id))
            scope = call.admit(SESSIONS_WRITE)
            return await self._uploads.receive(
                scope,
                start.header.session_id,
                start.declared,
                start.header.offset,
                requests.upload_chunks(arriving, start.declared.size_bytes),
                partial(self._complete, call, scope, start),
                partial(_taken_up, call),
            )

    async def _complete(self, call: Call, scope: Scope, start: UploadStart, upload: Upload | None) -> bytes:
        declared, header = start.declared, UploadHeader()
        header.CopyFrom(start.header)
        header.ClearField("offset")  # belongs to this attempt, not to the request's content
        epoch, blob_id = (0, "") if upload is None else (upload.epoch, upload.blob_id)
        action = CompleteUpload(declared.attachment_id, epoch, declared.sha256, declared.size_bytes, blob_id)
        command = call.command(scope, header, header.session_id, action)
        # The size excludes the bytes of the file, which are not part of the command.
        command = replace(command, fence=start.fence, size=header.ByteSize())
        return answers.outcome(AttachmentUploaded, await self._writer.write(command)).attachment

    async def get_upload_status(self, request: GetUploadStatusRequest, call: Call) -> bytes:
        requests.get_upload_status(request)
        scope = call.admit(SESSIONS_READ)
        state = await self._uploads.state(scope, request.session_id, request.attachment_id)
        status = UploadStatus(
            attachment_id=request.attachment_id,
            committed_bytes=state.committed_bytes,
            size_bytes=state.attachment.size_bytes,
            sha256=state.attachment.sha256,
            attachment=None if state.calls else state.attachment,
            calls=state.calls,
        )
        if state.calls:
            set_timestamp(status.keep_until, state.touch_time_us + self._upload_retention_us)
        return status.SerializeToString()

    async def download_attachment(self, request: DownloadAttachmentRequest, call: Call) -> None:
        requests.download_attachment(request)
        scope = call.admit(SESSIONS_READ)
        with self._transfers.place(scope.tenant_id):
            session_id, attachment_id = request.session_id, request.attachment_id
            file = await self._store.get_file(scope, session_id, attachment_id)
            attachment = Attachment.FromString(file.attachment)
            start, end = requests.download_range(request, attachment.size_bytes)
            header = DownloadHeader(attachment=attachment, offset=start, length=end - start)
            await self._transfers.moved(call.write(DownloadAttachmentResponse(header=header).SerializeToString()))
            async for data in self._downloads.read(scope, session_id, attachment_id, file, start, end):
                await self._transfers.moved(call.write(b"".join((_CHUNK, encoding.varint(len(data)), data))))
                self._transfers.sent += len(data)
        call.add_trailer(CHECKSUM_KEY, attachment.sha256.hex())

    async def get_attachment(self, request: GetAttachmentRequest, call: Call) -> bytes:
        requests.get_attachment(request)
        scope = call.admit(SESSIONS_READ)
        return await self._store.get_attachment(scope, request.session_id, request.attachment_id)

    async def list_attachments(self, request: ListAttachmentsRequest, call: Call) -> bytes:
        limit = requests.list_attachments(request)
        scope = call.admit(SESSIONS_READ)
        tokens = self._tokens.of(scope, call.method.path, request.session_id)
        (after_seq,) = cast("list[int]", tokens.open(request.page_token)) or (0,)
        page = await self._store.list_attachments(scope, request.session_id, after_seq=after_seq, limit=limit)
        following = tokens.seal([page.last_seq]) if page.more else ""
        rest = ListAttachmentsResponse(next_page_token=following, version=page.version)
        return encoding.repeated(_LISTED, page.attachments, rest.SerializeToString())

    async def delete_attachment(self, request: DeleteAttachmentRequest, call: Call) -> bytes:
        fence = requests.delete_attachment(request)
        scope = call.admit(SESSIONS_WRITE)
        session_id, attachment_id = request.session_id, request.attachment_id
        action = DeleteAttachment(attachment_id)
        command = replace(call.command(scope, request, session_id, action, request.expected_version), fence=fence)
        done = await self._uploads.deleted(command, attachment_id, self._writer.write)
        version = answers.outcome(AttachmentDeleted, done).version if done else 0
        return DeleteAttachmentResponse(version=version).SerializeToString()


async def _taken_up(call: Call, epoch: int) -> None:
    await call.begin_answer(CALL_KEY, str(epoch))
