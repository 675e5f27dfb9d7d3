"""The values of attachments: where bytes are, what is being uploaded, and the rows that the rules read and write."""

from dataclasses import dataclass
from uuid import UUID

Key = tuple[str, str]
"""As rows.Key: (tenant_id, session_id)."""

Content = tuple[str, bytes, int]
"""What makes files equal: (tenant_id, SHA-256, size in bytes)."""


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A run of bytes in a blob store, written from its beginning by one call of one process, and by nobody else ever.

    A file is one piece, or several where its upload was resumed: whoever resumes begins a piece of their own, so that
    a writer who does not know yet that it was replaced can hurt nobody.
    """

    tenant_id: str
    piece_id: str
    """A UUID."""

    @staticmethod
    def parse(tenant_id: str, name: str) -> "Piece | None":
        """The piece of that name in a storage; None where the name is no piece's: others leave things there too."""
        try:
            return Piece(tenant_id, name) if str(UUID(name)) == name else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Extent:
    """The first `length` bytes of a piece, as a part of a file. The piece may be longer."""

    piece: Piece
    length: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is not complete, as one call has taken it up."""

    key: Key
    attachment_id: str
    blob_id: str
    """A UUID: what its pieces belong to, and the attachment too, unless the tenant has the content already."""
    epoch: int
    """How many calls have taken it up. A call whose epoch is not the last any more may not go on."""
    declared: bytes
    """Serialised Attachment, as the client declared it: without place, time and run."""
    touch_time_us: int
    """When it was taken up, or its last sign of life."""
    extents: tuple[Extent, ...]
    """What earlier calls have stored, in order."""
    piece: Piece
    """What the last call writes, or wrote."""

    @property
    def start(self) -> int:
        """Where in the file `piece` begins."""
        return sum(extent.length for extent in self.extents)


@dataclass(slots=True)
class UploadRecord:
    """What the rules know of an upload."""

    blob_id: str
    epoch: int
    declared: bytes


@dataclass(slots=True)
class AttachmentRow:
    """An attachment, to be inserted or updated. A deleted one has neither blob nor body: its id stays taken."""

    key: Key
    attachment_id: str
    seq: int
    """Of the event that made it visible."""
    blob_id: str | None
    body: bytes
    """Serialised Attachment."""


@dataclass(slots=True)
class CompletedUpload:
    """An upload that became an attachment: its row goes."""

    key: Key
    attachment_id: str
    content: Content
    blob_id: str
    """The upload's own. Its pieces go where the tenant had the content already, as `kept`."""
    kept: str
    """The blob that has the content from now on."""


@dataclass(slots=True)
class Release:
    """An attachment that is no more: its blob goes too, unless others refer to it."""

    key: Key
    attachment_id: str
    blob_id: str
