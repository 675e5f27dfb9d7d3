"""Values of attachments: pieces of bytes, uploads, and the rows that the rules read and write."""

from dataclasses import dataclass
from uuid import UUID

Key = tuple[str, str]
"""As rows.Key: (tenant_id, session_id)."""

Content = tuple[str, bytes, int]
"""Identity of a file's content: (tenant_id, SHA-256, size in bytes)."""


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A sequence of bytes in a blob store, written from its start by exactly one UploadAttachment call.

    A file is one piece, or several if its upload was resumed. Each resuming call writes a new piece, so that a call
    that was superseded and does not know it yet cannot corrupt the file.
    """

    tenant_id: str
    piece_id: str
    """A UUID."""

    @staticmethod
    def parse(tenant_id: str, name: str) -> "Piece | None":
        """Parses the name of a piece in a storage. None if it is not the name of a piece: a storage may hold other
        files."""
        try:
            return Piece(tenant_id, name) if str(UUID(name)) == name else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file: the first `length` bytes of a piece. The piece may be longer."""

    piece: Piece
    length: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished upload, as one UploadAttachment call began or resumed it."""

    key: Key
    attachment_id: str
    blob_id: str
    """A UUID. The upload's pieces belong to this blob. So will the attachment, unless the tenant has the content
    already."""
    epoch: int
    """How many calls have begun or resumed the upload. A call with a lower epoch is superseded and must stop."""
    declared: bytes
    """Serialised Attachment as the client declared it: without seq, create time and run."""
    touch_time_us: int
    """When the upload was begun, resumed or last touched."""
    extents: tuple[Extent, ...]
    """The parts that earlier calls have stored, in order."""
    piece: Piece
    """The piece that the last call writes."""

    @property
    def start(self) -> int:
        """Offset of `piece` in the file."""
        return sum(extent.length for extent in self.extents)


@dataclass(slots=True)
class UploadRecord:
    """The fields of an upload that the rules read."""

    blob_id: str
    epoch: int
    declared: bytes


@dataclass(slots=True)
class AttachmentRow:
    """An attachment, to insert or update. A deleted one has neither blob nor body; its row keeps the id taken."""

    key: Key
    attachment_id: str
    seq: int
    """`seq` of the event that created it."""
    blob_id: str | None
    body: bytes
    """Serialised Attachment."""


@dataclass(slots=True)
class CompletedUpload:
    """An upload that became an attachment. The store removes the upload's row."""

    key: Key
    attachment_id: str
    content: Content
    blob_id: str
    """The upload's blob. If it differs from `kept`, the tenant had the content already: its pieces are dropped."""
    kept: str
    """The blob that holds the content from now on."""


@dataclass(slots=True)
class Release:
    """An attachment that was deleted. Its blob is removed too, unless other attachments refer to it."""

    key: Key
    attachment_id: str
    blob_id: str
