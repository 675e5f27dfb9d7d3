"""What a store knows of attachments beside the log. Every implementation passes tests/conformance.

Rows only: bytes are a BlobStore's (blobs/contract.py). Which pieces belong to what is written here before they get
their first byte, and a piece is forgotten only after its bytes were removed, so nothing is stored that nobody knows.
Attachments appear and go by commands (`CompleteUpload`, `DeleteAttachment`) through Store.apply, with their events;
what is here besides prepares and cleans up. Reads are of the truth. Errors and cancelling as in contract.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.attachment_pb2 import Attachment
from sessiond_server.domain.attachments.rows import Extent, Piece, Upload
from sessiond_server.domain.commands import Scope


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An attachment, and where its bytes are."""

    attachment: bytes
    """Serialised Attachment."""
    extents: Sequence[Extent]
    """In order; together as long as the attachment."""


@dataclass(frozen=True, slots=True)
class AttachmentsPage:
    version: int
    """The session's version that the page describes."""
    attachments: Sequence[bytes]
    """Serialised Attachments, ascending `seq`."""
    last_seq: int
    """`seq` of the last of them; 0 when there is none."""
    more: bool


class AttachmentStore(Protocol):
    """Attachments, uploads, and the pieces that their bytes are in."""

    async def get_attachment(self, scope: Scope, session_id: str, attachment_id: str) -> bytes:
        """The serialised Attachment. Raises SessionNotFound, AttachmentNotFound (deleted ones too)."""
        ...

    async def get_file(self, scope: Scope, session_id: str, attachment_id: str) -> StoredFile:
        """The attachment and where its bytes are, of one snapshot. Errors as `get_attachment`."""
        ...

    async def list_attachments(self, scope: Scope, session_id: str, *, after_seq: int, limit: int) -> AttachmentsPage:
        """At most `limit` attachments with seq > after_seq, ascending, and not the deleted. Raises SessionNotFound."""
        ...

    async def get_upload(self, scope: Scope, session_id: str, attachment_id: str) -> Upload | None:
        """The upload, as its last call has taken it up; None where there is none, or none any more. Raises
        SessionNotFound."""
        ...

    async def begin_upload(self, scope: Scope, session_id: str, declared: Attachment, piece: Piece) -> Upload | None:
        """A new upload whose first call writes `piece`; None where an upload or attachment has the id, or had it.

        Checks what `attachment_rules.check_upload` does, with the session locked, so that limits hold exactly among
        concurrent calls. Raises its errors, and SessionNotFound.
        """
        ...

    async def resume_upload(
        self, scope: Scope, upload: Upload, extents: Sequence[Extent], piece: Piece
    ) -> Upload | None:
        """The upload with the next epoch: it consists of `extents` from now on, and its last call writes `piece`.

        Pieces of the upload that are not among the extents are dropped, after the grace that a writer who does not know
        yet needs to notice. None where `upload` is not how the upload is by now. Raises as `begin_upload`.
        """
        ...

    async def touch_upload(self, upload: Upload) -> bool:
        """Shows that the upload is alive. False when another call has taken it up, or it is gone."""
        ...

    async def discard_upload(self, scope: Scope, session_id: str, attachment_id: str, epoch: int | None) -> bool:
        """Gives the upload up and drops its pieces: at once with an `epoch`, which is the caller's own and must be the
        last; with None whoever writes is given the grace. False where there is no such upload. Raises SessionNotFound.
        """
        ...

    async def abandon_uploads(self, limit: int) -> int:
        """Gives up at most `limit` uploads that have shown no life for the store's `upload_retention`; how many."""
        ...

    async def release_blobs(self, limit: int) -> int:
        """Looks at no more than `limit` blobs that a deleted attachment referred to, and drops the pieces of those that
        nothing refers to any more; how many it looked at. Exact against uploads that complete with the same content at
        the same time: such a blob is kept, or is complete anew with the bytes of that upload."""
        ...

    async def dropped_pieces(self, limit: int) -> Sequence[Piece]:
        """At most `limit` pieces whose bytes are to be removed, and then forgotten."""
        ...

    async def forget_pieces(self, pieces: Sequence[Piece]) -> None:
        """Forgets dropped pieces, whose bytes are gone. Those that were not dropped stay."""
        ...

    async def unknown_pieces(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Those that the store does not know: it has lost what it knew, in a failover, or is an older backup."""
        ...
