"""A ledger of acknowledged writes outside of the service, and the validators that compare it with the service.

G1 Durable, G2 Gapless, G4 Idempotent: an acknowledged append is there, exactly once, and every log is 1..version.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from tests.faults.history import deletion_of

MESSAGES_DELETED = EventType.EVENT_TYPE_MESSAGES_DELETED


class Ack(NamedTuple):
    """One acknowledged append. Times are seconds of the machine's clock."""

    at: float
    session_id: str
    seq: int
    began: float
    """When the call was made that was acknowledged, after whatever others for the same append."""
    tried: float
    """When the first call for it was made. It may have been committed at any time from then on."""
    text: str

    @property
    def crc(self) -> int:
        """As histories have texts."""
        return crc32(self.text.encode())


@dataclass
class Ledger:
    """Acknowledged appends: session -> text of the message -> seq that the acknowledgement named. Without messages that
    were deleted."""

    deleted: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    """Acknowledged deletions: session -> text of the message -> (its seq, seq of the deletion)."""

    acknowledged: dict[str, dict[str, int]] = field(default_factory=dict)
    attempted: dict[str, set[str]] = field(default_factory=dict)
    acks: list[Ack] = field(default_factory=list)
    """In the order of their times."""
    count: int = 0
    """Of acknowledged appends."""

    def attempt(self, session_id: str, text: str) -> None:
        self.attempted.setdefault(session_id, set()).add(text)

    def acknowledge(self, session_id: str, text: str, seq: int, began: float = 0.0, tried: float = 0.0) -> None:
        self.acknowledged.setdefault(session_id, {})[text] = seq
        self.acks.append(Ack(time.time(), session_id, seq, began, tried, text))
        self.count += 1

    def delete(
        self, session_id: str, text: str, seq: int, version: int, began: float = 0.0, tried: float = 0.0
    ) -> None:
        """The message, whose append was never acknowledged here, was deleted."""
        self.deleted.setdefault(session_id, {})[text] = (seq, version)
        self.acks.append(Ack(time.time(), session_id, version, began, tried, deletion_of([seq])))
        self.count += 1

    def without(self, forfeited: Collection[Ack]) -> "Ledger":
        """As if these had been tried and never acknowledged."""
        other = Ledger(attempted=self.attempted)
        gone = set(forfeited)
        deletions = {
            (session_id, version, deletion_of([seq])): (text, seq)
            for session_id, deleted in self.deleted.items()
            for text, (seq, version) in deleted.items()
        }
        for ack in self.acks:
            if ack in gone:
                continue
            other.acks.append(ack)
            if (deletion := deletions.get((ack.session_id, ack.seq, ack.text))) is not None:
                other.deleted.setdefault(ack.session_id, {})[deletion[0]] = (deletion[1], ack.seq)
            else:
                other.acknowledged.setdefault(ack.session_id, {})[ack.text] = ack.seq
        other.count = len(other.acks)
        return other


@dataclass
class Verdict:
    """How many promises were broken. A sound run has zeros only."""

    lost: int = 0
    """Acknowledged and not there, or not where the acknowledgement said. Or deleted, and there all the same."""
    doubled: int = 0
    """There more than once."""
    gaps: int = 0
    """Places in a log that are missing, repeated or out of order; a version that is not the last place."""
    invented: int = 0
    """There and never sent."""

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.gaps or self.invented)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.gaps + other.gaps,
            self.invented + other.invented,
        )


def judge(
    ledger: Ledger, session_id: str, version: int, messages: Iterable[Message], events: Iterable[Event]
) -> Verdict:
    """One session: what the ledger says against what the service says."""
    stored = list(messages)
    acknowledged = ledger.acknowledged.get(session_id, {})
    texts = Counter(message.parts[0].text for message in stored)
    places = {message.parts[0].text: message.seq for message in stored}
    log = list(events)
    deletions = {event.seq: list(event.deleted_messages.seqs) for event in log if event.type == MESSAGES_DELETED}
    deleted = ledger.deleted.get(session_id, {})
    verdict = Verdict(
        lost=sum(places.get(text) != seq for text, seq in acknowledged.items())
        + sum(text in places or seq not in deletions.get(version, ()) for text, (seq, version) in deleted.items()),
        doubled=sum(times - 1 for times in texts.values()),
        invented=len(texts.keys() - ledger.attempted.get(session_id, set())),
    )
    seqs = [event.seq for event in log]
    verdict.gaps += sum(a != b for a, b in zip(seqs, range(1, len(seqs) + 1), strict=True))
    verdict.gaps += abs(version - len(seqs))
    popped = Counter(seq for taken in deletions.values() for seq in taken)
    verdict.doubled += sum(times - 1 for times in popped.values())
    appended = [event for event in log if event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED]
    verdict.gaps += [event.seq for event in appended if event.seq not in popped] != [message.seq for message in stored]
    # What a deletion leaves of a message has no content, and no other message is without.
    verdict.gaps += sum(event.message.HasField("delete_time") != (event.seq in popped) for event in appended)
    verdict.lost += sum(bool(event.message.parts) for event in appended if event.seq in popped)
    return verdict
