"""Values of imports: what has arrived of one, and the rows that it adds. Times and keys as in domain/rows.py."""

from dataclasses import dataclass, field

from sessiond_server.domain.attachments.rows import Extent
from sessiond_server.domain.rewinds.ranges import NOTHING, Ranges
from sessiond_server.domain.rows import EventRow, HeadRow, IndexRow, Key, RunRow, ToolCallRow


@dataclass(frozen=True, slots=True)
class ImportStart:
    """What an import begins with. Equal starts are of one import, whoever makes them."""

    import_id: str
    """Digest of the header and of the target: 32 hexadecimal digits."""
    key: Key
    """The session to make."""
    digest: bytes
    """Of the header's record."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """How far an import has come."""

    line: int
    """The last record that is stored, from 1."""
    digest: bytes
    """Of that record."""
    attachment_seq: int = 0
    """`seq` of the attachment of which bytes have arrived last; 0 before the first."""
    offset: int = 0
    """How many of its bytes."""


@dataclass(frozen=True, slots=True)
class Import:
    """An unfinished import, as one call took it up."""

    start: ImportStart
    stage_id: str
    """A UUID: tells it from an earlier import of the same file."""
    epoch: int
    """How many calls have taken it up. A call with a lower epoch is superseded and must stop."""
    arrived: Arrived
    extents: tuple[Extent, ...] = ()
    """Where the bytes of the attachment at `arrived.attachment_seq` are, in order."""


@dataclass(slots=True)
class ImportedFile:
    """An attachment that the session has or had."""

    attachment_id: str
    seq: int
    sha256: bytes
    size_bytes: int
    body: bytes
    """Serialised Attachment; b"" for a deleted one, which keeps its id."""


@dataclass(slots=True)
class StagedRows:
    """Rows of events that have arrived, to be kept beside the session's own until the import is complete. Of runs, tool
    calls and files only the last state counts."""

    events: list[EventRow] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)
    """(mark, seq) of messages."""
    runs: dict[str, RunRow] = field(default_factory=dict)
    tool_calls: dict[str, ToolCallRow] = field(default_factory=dict)
    files: dict[str, ImportedFile] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return sum(len(row.head) + len(row.body) + len(row.content or b"") for row in self.events)


@dataclass(frozen=True, slots=True)
class StagedPiece:
    """A part of an attachment whose bytes are stored durably."""

    attachment_id: str
    piece_id: str
    start: int
    """Offset in the attachment."""
    length: int


@dataclass(frozen=True, slots=True)
class Imported:
    """The rows of a session whose events are all staged."""

    head: HeadRow
    index: IndexRow
    run_counters: bytes
    """b"": no run has ended."""
    alive: bool
    """Whether it counts as one that has not ended."""
    attachment_bytes: int
    rewound: Ranges = NOTHING
    """What rewinds have hidden."""
