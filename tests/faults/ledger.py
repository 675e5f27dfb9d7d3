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


class Ack(NamedTuple):
    """One acknowledged append. Times are seconds of the machine's clock."""

    at: float
    session_id: str
    seq: int
    began: float
    """When the call was made that was acknowledged, after whatever others for the same append."""
    text: str

    @property
    def crc(self) -> int:
        """As histories have texts."""
        return crc32(self.text.encode())


@dataclass
class Ledger:
    """Acknowledged appends: session -> text of the message -> seq that the acknowledgement named."""

    acknowledged: dict[str, dict[str, int]] = field(default_factory=dict)
    attempted: dict[str, set[str]] = field(default_factory=dict)
    acks: list[Ack] = field(default_factory=list)
    """In the order of their times."""
    count: int = 0
    """Of acknowledged appends."""

    def attempt(self, session_id: str, text: str) -> None:
        self.attempted.setdefault(session_id, set()).add(text)

    def acknowledge(self, session_id: str, text: str, seq: int, began: float = 0.0) -> None:
        self.acknowledged.setdefault(session_id, {})[text] = seq
        self.acks.append(Ack(time.time(), session_id, seq, began, text))
        self.count += 1

    def without(self, forfeited: Collection[Ack]) -> "Ledger":
        """As if these had been tried and never acknowledged."""
        other = Ledger(attempted=self.attempted)
        gone = set(forfeited)
        for ack in self.acks:
            if ack not in gone:
                other.acknowledged.setdefault(ack.session_id, {})[ack.text] = ack.seq
                other.acks.append(ack)
        other.count = len(other.acks)
        return other


@dataclass
class Verdict:
    """How many promises were broken. A sound run has zeros only."""

    lost: int = 0
    """Acknowledged and not there, or not where the acknowledgement said."""
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
    verdict = Verdict(
        lost=sum(places.get(text) != seq for text, seq in acknowledged.items()),
        doubled=sum(times - 1 for times in texts.values()),
        invented=len(texts.keys() - ledger.attempted.get(session_id, set())),
    )
    log = list(events)
    seqs = [event.seq for event in log]
    verdict.gaps += sum(a != b for a, b in zip(seqs, range(1, len(seqs) + 1), strict=True))
    verdict.gaps += abs(version - len(seqs))
    appended = [event.seq for event in log if event.type == EventType.EVENT_TYPE_MESSAGE_APPENDED]
    verdict.gaps += appended != [message.seq for message in stored]
    return verdict
