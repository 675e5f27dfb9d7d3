"""The attachments and uploads of one session while a batch is decided."""

from dataclasses import dataclass, field

from sessiond.v1.attachment_pb2 import Attachment
from sessiond_server.domain.attachments.rows import AttachmentRow, CompletedUpload, Content, Key, Release, UploadRecord
from sessiond_server.domain.rows import Known, Writes


@dataclass(slots=True)
class AttachmentChanges:
    """The attachments and uploads that commands of the batch name, and the changes that the batch makes to them."""

    key: Key
    known: Known
    _changed: dict[str, AttachmentRow] = field(default_factory=dict)
    _completed: list[CompletedUpload] = field(default_factory=list)
    _released: list[Release] = field(default_factory=list)

    def attachment(self, attachment_id: str) -> AttachmentRow | None:
        """The attachment's row, also if it is deleted; None if no attachment has had the id."""
        return self._changed.get(attachment_id) or self.known.attachments.get((self.key, attachment_id))

    def upload(self, attachment_id: str) -> UploadRecord | None:
        return self.known.uploads.get((self.key, attachment_id))

    def add(self, upload: UploadRecord, attachment: Attachment, body: bytes) -> None:
        """Turns the upload into the attachment. If the tenant has the content already, its blob is reused."""
        attachment_id = attachment.attachment_id
        content: Content = (self.key[0], attachment.sha256, attachment.size_bytes)
        kept = self.known.blobs.setdefault(content, upload.blob_id)
        self._changed[attachment_id] = AttachmentRow(self.key, attachment_id, attachment.seq, kept, body)
        self._completed.append(CompletedUpload(self.key, attachment_id, content, upload.blob_id, kept))

    def remove(self, row: AttachmentRow) -> None:
        """Deletes the attachment and releases its blob. The row stays, so that its id is not used again."""
        assert row.blob_id is not None, "it was removed before"
        self._changed[row.attachment_id] = AttachmentRow(self.key, row.attachment_id, row.seq, None, b"")
        self._released.append(Release(self.key, row.attachment_id, row.blob_id))

    def write(self, writes: Writes) -> None:
        """Adds the rows that changed."""
        writes.attachments += self._changed.values()
        writes.completed_uploads += self._completed
        writes.releases += self._released
