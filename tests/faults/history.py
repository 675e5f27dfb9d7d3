"""The records of what one subscriber received, in memory and on disk.

Times are seconds of the machine's clock, which all processes of a campaign share with its Postgres. Event ids are the
16 bytes of their UUIDs.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from zlib import crc32

from sessiond.v1.event_pb2 import Event, EventType

DELETION = 2**32 - 1
REMOVED = 2**32 - 2
End = tuple[int, str]
"""`seq` and `event_id` of a session's last event."""


class Opened(NamedTuple):
    """A stream said where it begins."""

    at: float
    replica: int
    """Which one it is of; -1: unknown."""
    seq: int
    """Session streams: after which event. Feeds: 0 for one that begins now, -1 for one that resumes, -2 for one that
    begins with the oldest event. Both: -3 when the answer names another position than was given."""
    event_id: bytes
    snapshot: bytes
    """The session, serialised; b"" when the stream resumed."""


class Got(NamedTuple):
    """An event arrived."""

    at: float
    session_id: str
    seq: int
    event_id: bytes
    previous_event_id: bytes
    text: int
    """CRC of the message's first text, or of `deletion_of`; 0 without one; REMOVED if the message was deleted; DELETION
    for the end of a deleted session."""


class Marked(NamedTuple):
    """A bookmark arrived: nothing is missing."""

    at: float
    seq: int
    """Session streams: the session's head; else 0."""
    read_time: float


class Closed(NamedTuple):
    """The stream ended; the subscriber comes back with its position."""

    at: float
    reason: str


class Lost(NamedTuple):
    """The subscriber got POSITION_LOST and begins again."""

    at: float
    reason: str


Record = Opened | Got | Marked | Closed | Lost


@dataclass
class Segment:
    """The records of a subscriber from one beginning to the loss of its position, or to the end."""

    records: list[Record] = field(default_factory=list)
    lost: Lost | None = None

    @property
    def events(self) -> Iterator[Got]:
        return (record for record in self.records if isinstance(record, Got))

    @property
    def first(self) -> Opened | None:
        return next((record for record in self.records if isinstance(record, Opened)), None)


def segments(records: Iterable[Record]) -> Iterator[Segment]:
    """The history in pieces, each of one history of the database as far as its subscriber was told."""
    segment = Segment()
    for record in records:
        if isinstance(record, Lost):
            segment.lost = record
            yield segment
            segment = Segment()
        else:
            segment.records.append(record)
    if segment.records:
        yield segment


def identity(text: str) -> bytes:
    """An event's id, short."""
    return bytes.fromhex(text.replace("-", ""))


def deletion_of(seqs: Iterable[int]) -> str:
    """Stands for the text of an event that deleted these messages."""
    return f"deleted {list(seqs)}"


def got(at: float, event: Event) -> Got:
    parts = event.message.parts
    text = DELETION if event.type == EventType.EVENT_TYPE_SESSION_DELETED else 0
    if event.message.HasField("delete_time"):
        text = REMOVED
    elif event.HasField("deleted_messages"):
        text = crc32(deletion_of(event.deleted_messages.seqs).encode())
    elif parts:
        text = crc32(parts[0].text.encode())
    return Got(at, event.session_id, event.seq, identity(event.event_id), identity(event.previous_event_id), text)


_KINDS = (Opened, Got, Marked, Closed, Lost)
_GOT = struct.Struct("<dHq16s16sI")
_OPENED = struct.Struct("<diq16sI")
_MARKED = struct.Struct("<dqd")
_SAID = struct.Struct("<dH")
_NAME = 255
"""A record that names a session, so that events need only its number."""


class Recorder:
    """Writes a history to a file. Use as `with Recorder(path) as recorder`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 18)
        self._numbers: dict[str, int] = {}

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, record: Record) -> None:
        data = b""
        if isinstance(record, Got):
            number = self._numbers.get(record.session_id)
            if number is None:
                number = self._numbers[record.session_id] = len(self._numbers)
                name = record.session_id.encode()
                self._file.write(bytes((_NAME, len(name))) + name)
            body = _GOT.pack(record.at, number, *record[2:4], record.previous_event_id, record.text)
        elif isinstance(record, Opened):
            data = record.snapshot
            body = _OPENED.pack(*record[:4], len(data))
        elif isinstance(record, Marked):
            body = _MARKED.pack(*record)
        else:
            data = record.reason.encode()[:1000]
            body = _SAID.pack(record.at, len(data))
        self._file.write(bytes((_KINDS.index(type(record)),)) + body + data)


def read(path: Path) -> Iterator[Record]:
    """What was recorded. A record that was being written when its process died is left out."""
    content = path.read_bytes()
    names: list[str] = []
    place = 0
    while place < len(content):
        kind = content[place]
        place += 1
        try:
            if kind == _NAME:
                size = content[place]
                names.append(content[place + 1 : place + 1 + size].decode())
                place += 1 + size
            elif kind == 1:
                at, number, *rest = _GOT.unpack_from(content, place)
                place += _GOT.size
                seq, event_id, previous, text = rest
                yield Got(at, names[number], seq, event_id, previous.strip(b"\0") and previous, text)
            elif kind == 0:
                at, replica, seq, event_id, size = _OPENED.unpack_from(content, place)
                place += _OPENED.size + size
                if place > len(content):
                    return
                yield Opened(at, replica, seq, event_id.strip(b"\0") and event_id, content[place - size : place])
            elif kind == 2:
                yield Marked(*_MARKED.unpack_from(content, place))
                place += _MARKED.size
            else:
                at, size = _SAID.unpack_from(content, place)
                place += _SAID.size + size
                if place > len(content):
                    return
                yield (Closed if kind == 3 else Lost)(at, content[place - size : place].decode())
        except struct.error:
            return
