"""The contract of a store for attachments and uploads. Every implementation passes tests/conformance.

This store has rows only; a BlobStore has the bytes (blobs/contract.py). A piece is recorded here before its first byte
is written, and its record is removed only after its bytes, so that every stored byte has a record. Attachments are
created and deleted by the commands `CompleteUpload` and `DeleteAttachment` through Commits.apply, with their events;
the other methods here prepare and clean up. Reads go to the primary. Errors and cancelling as in contract.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.attachment_pb2 import Attachment
from sessiond_server.domain.attachments.rows import Extent, Piece, Upload
from sessiond_server.domain.commands import Scope


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An attachment and the location of its bytes."""

    attachment: bytes
    """Serialised Attachment."""
    extents: Sequence[Extent]
    """Its parts, in order. Their lengths add up to the attachment's size."""


@dataclass(frozen=True, slots=True)
class AttachmentsPage:
    version: int
    """The session's version that the page describes."""
    attachments: Sequence[bytes]
    """Serialised Attachments, ascending `seq`."""
    last_seq: int
    """`seq` of the last of `attachments`; 0 if the page is empty."""
    more: bool


class AttachmentStore(Protocol):
    """Attachments, uploads, and the pieces that their bytes are in."""

    async def get_attachment(self, scope: Scope, session_id: str, attachment_id: str) -> bytes:
        """The serialised Attachment. Raises SessionNotFound, AttachmentNotFound (also for a deleted one)."""
        ...

    async def get_file(self, scope: Scope, session_id: str, attachment_id: str) -> StoredFile:
        """The attachment and the location of its bytes, from one snapshot. Errors as `get_attachment`."""
        ...

    async def list_attachments(self, scope: Scope, session_id: str, *, after_seq: int, limit: int) -> AttachmentsPage:
        """At most `limit` attachments with seq > after_seq, ascending, without deleted ones. Raises SessionNotFound."""
        ...

    async def get_upload(self, scope: Scope, session_id: str, attachment_id: str) -> Upload | None:
        """The upload as its last call began or resumed it; None if there is no unfinished upload of that id. Raises
        SessionNotFound."""
        ...

    async def begin_upload(self, scope: Scope, session_id: str, declared: Attachment, piece: Piece) -> Upload | None:
        """Begins an upload whose first call writes `piece`. None if an upload has the id, or an attachment has or had
        it.

        Runs `attachment_rules.check_upload` with the session locked, so that limits hold exactly under concurrent
        calls. Raises its errors, and SessionNotFound.
        """
        ...

    async def resume_upload(
        self, scope: Scope, upload: Upload, extents: Sequence[Extent], piece: Piece
    ) -> Upload | None:
        """Resumes an upload: returns it with the next epoch, the given `extents`, and `piece` for the new call.

        Pieces of the upload that are not among the extents are dropped after a grace period, in which a superseded call
        notices that it must stop. None if the stored upload is no longer equal to `upload`. Raises as `begin_upload`.
        """
        ...

    async def touch_upload(self, upload: Upload) -> bool:
        """Records that the upload is active. False if another call has resumed it, or if it is gone."""
        ...

    async def discard_upload(
        self, scope: Scope, session_id: str, attachment_id: str, epoch: int | None, blob_id: str | None = None
    ) -> bool:
        """Discards the upload and drops its pieces. False if there is no such upload, or if it has not this `blob_id`.
        Raises SessionNotFound.

        With an `epoch`, which must be the upload's last one, the pieces are dropped at once: the caller is the writer.
        With None they are dropped after the grace period, for another call may still be writing.
        """
        ...

    async def abandon_uploads(self, limit: int) -> int:
        """Discards at most `limit` uploads without activity for the store's `upload_retention`; returns how many."""
        ...

    async def release_blobs(self, limit: int) -> int:
        """Checks at most `limit` blobs that a deleted attachment referred to, and drops the pieces of those without any
        reference left. Returns how many it checked.

        Safe while uploads with the same content complete: such a blob is kept, or recreated from the upload's bytes.
        """
        ...

    async def dropped_pieces(self, limit: int) -> Sequence[Piece]:
        """At most `limit` dropped pieces. The caller removes their bytes and then calls `forget_pieces`."""
        ...

    async def forget_pieces(self, pieces: Sequence[Piece]) -> None:
        """Removes the records of dropped pieces whose bytes are gone. Pieces that were not dropped stay."""
        ...

    async def unknown_pieces(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Those of `pieces` that have no record: their records were lost in a failover, or the store was restored from
        an older backup."""
        ...
