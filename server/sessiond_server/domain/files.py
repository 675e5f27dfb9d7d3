"""The values of attachments: what is being uploaded, and where bytes are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A run of bytes in a blob store, written from its beginning by one call of one process, and by nobody else ever.

    A file is one piece, or several where its upload was resumed: whoever resumes begins a piece of their own, so that
    a writer who does not know yet that it was replaced can hurt nobody.
    """

    tenant_id: str
    piece_id: str
    """A UUID."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The first `length` bytes of a piece, as a part of a file. The piece may be longer."""

    piece: Piece
    length: int


Manifest = tuple[Extent, ...]
"""A file: its extents in order."""


def size(manifest: Manifest) -> int:
    """Bytes of the file."""
    return sum(extent.length for extent in manifest)
