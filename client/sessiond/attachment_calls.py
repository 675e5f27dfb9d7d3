"""The client's methods for attachments."""

# ruff: noqa: ASYNC109 - the deadline goes to the server with the call; asyncio.timeout would only stop waiting

from sessiond.connection import Connection
from sessiond.download import Download
from sessiond.fields import AttachmentTypeLike, Fence, enum_value, run_fence
from sessiond.options import Reconnect
from sessiond.pages import Pages
from sessiond.request_ids import new_request_id
from sessiond.transfer import GIVE_UP_AFTER, IDLE_TIMEOUT, Patience, Progress, Source
from sessiond.upload import Upload, declared, media_type_of, opened
from sessiond.v1.attachment_pb2 import Attachment, AttachmentType
from sessiond.v1.attachment_service_pb2 import (
    DeleteAttachmentRequest,
    DownloadAttachmentRequest,
    GetAttachmentRequest,
    GetUploadStatusRequest,
    ListAttachmentsRequest,
    ListAttachmentsResponse,
    UploadHeader,
    UploadStatus,
)


class AttachmentCalls:
    """AttachmentService; see `Client` for what all methods have in common. All methods raise SessionNotFound."""

    _connection: Connection
    _reconnect: Reconnect

    async def upload(
        self,
        session_id: str,
        source: Source,
        *,
        attachment_id: str = "",
        name: str | None = None,
        media_type: str | None = None,
        type: AttachmentTypeLike | None = None,
        run: Fence | None = None,
        progress: Progress | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
        request_id: str = "",
    ) -> Attachment:
        """Uploads a file, given as a path, as bytes, or as an async iterator of bytes, and returns the complete
        attachment.

        The source is read once for its size and SHA-256 before anything is sent. An iterator is read to its end first,
        into a temporary file beyond 8 MiB. Without `name` the attachment has the file name of the path, in which bytes
        that are not UTF-8 and control characters become U+FFFD. Without `media_type` the extension of the name decides.

        When the connection breaks, the upload resumes on another one, after the bytes that are stored. The last error
        is raised when there was no progress for `give_up_after` seconds. An attempt fails when no bytes move for
        `idle_timeout` seconds. With an `attachment_id` the upload resumes one that another process, or a cancelled
        call, has begun. It has no deadline.

        Raises SessionEnded, AttachmentAlreadyExists, UploadDeclaredOtherwise, AttachmentLimitReached,
        AttachmentTooLarge, AttachmentSpaceExhausted, RunFenced, ChecksumMismatch, UploadSuperseded (another call
        continues the upload); OSError of the file.
        """
        patience = self._patience(idle_timeout, give_up_after)
        async with opened(source) as (file, own_name):
            size, digest = await declared(file)
            called = own_name if name is None else name
            header = UploadHeader(
                session_id=session_id,
                attachment_id=attachment_id or new_request_id(),
                name=called,
                media_type=media_type_of(called) if media_type is None else media_type,
                type=enum_value(AttachmentType.DESCRIPTOR, type),
                size_bytes=size,
                sha256=digest,
                request_id=request_id or new_request_id(),
                run=run_fence(run),
            )
            upload = Upload(self._connection, header, file, patience, progress, idle_timeout)
            return await upload.run(begun=bool(attachment_id))

    def download(
        self,
        session_id: str,
        attachment_id: str,
        *,
        offset: int = 0,
        length: int = 0,
        progress: Progress | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> Download:
        """Downloads an attachment's bytes from `offset` on, at most `length` of them (0: all), as a stream, as one
        value, or into a file; see Download. It resumes by itself as `upload` does.

        Raises, when it is read: AttachmentNotFound, AttachmentLost, ChecksumMismatch.
        """
        self._patience(idle_timeout, give_up_after)
        request = DownloadAttachmentRequest(
            session_id=session_id, attachment_id=attachment_id, offset=offset, length=length
        )
        return Download(
            self._connection, request, lambda: self._patience(idle_timeout, give_up_after), progress, idle_timeout
        )

    async def get_upload_status(
        self, session_id: str, attachment_id: str, *, timeout: float | None = None
    ) -> UploadStatus:
        """Returns how far an upload has come; complete uploads included. Raises UploadNotFound."""
        request = GetUploadStatusRequest(session_id=session_id, attachment_id=attachment_id)
        return await self._connection.call(self._connection.attachments.GetUploadStatus, request, timeout)

    async def get_attachment(self, session_id: str, attachment_id: str, *, timeout: float | None = None) -> Attachment:
        """Returns an attachment without its bytes. Raises AttachmentNotFound."""
        request = GetAttachmentRequest(session_id=session_id, attachment_id=attachment_id)
        return await self._connection.call(self._connection.attachments.GetAttachment, request, timeout)

    def list_attachments(
        self, session_id: str, *, page_size: int = 0, page_token: str = "", timeout: float | None = None
    ) -> Pages[ListAttachmentsResponse, Attachment]:
        """Lists a session's attachments, in the order in which they became visible, for `async for`; see Pages.

        `page_size` 0 means 20; the maximum is 100. `timeout` applies to each page. Raises, when it is read:
        InvalidPageToken.
        """

        async def fetch(token: str) -> ListAttachmentsResponse:
            request = ListAttachmentsRequest(session_id=session_id, page_size=page_size, page_token=token)
            return await self._connection.call(self._connection.attachments.ListAttachments, request, timeout)

        return Pages(fetch, lambda page: page.attachments, page_token)

    async def delete_attachment(
        self,
        session_id: str,
        attachment_id: str,
        *,
        run: Fence | None = None,
        expected_version: int = 0,
        request_id: str = "",
        timeout: float | None = None,
    ) -> int:
        """Deletes an attachment or abandons an unfinished upload. Returns the session's version afterwards; 0 for an
        upload.

        Raises AttachmentNotFound, SessionEnded, RunFenced.
        """
        request = DeleteAttachmentRequest(
            session_id=session_id,
            attachment_id=attachment_id,
            run=run_fence(run),
            request_id=request_id or new_request_id(),
            expected_version=expected_version,
        )
        call = self._connection.attachments.DeleteAttachment
        return (await self._connection.call(call, request, timeout, request.request_id)).version

    def _patience(self, idle_timeout: float, give_up_after: float) -> Patience:
        if min(idle_timeout, give_up_after) <= 0:
            raise ValueError("idle_timeout and give_up_after: must be above 0")
        return Patience(self._reconnect, give_up_after)
