"""The validators themselves: each broken promise is seen."""

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message, Part
from tests.faults.ledger import Ledger, Verdict, judge


def ledger() -> Ledger:
    made = Ledger()
    for seq, text in enumerate(("a", "b", "c"), start=2):
        made.attempt("s", text)
        made.acknowledge("s", text, seq)
    made.attempt("s", "d")
    return made


def stored(*texts: str) -> list[Message]:
    return [Message(seq=seq, parts=[Part(text=text)]) for seq, text in enumerate(texts, start=2)]


def log(*seqs: int) -> list[Event]:
    appended, created = EventType.EVENT_TYPE_MESSAGE_APPENDED, EventType.EVENT_TYPE_SESSION_CREATED
    return [Event(seq=seq, type=appended if seq > 1 else created) for seq in seqs]


@pytest.mark.parametrize(
    ("messages", "events", "version", "expected"),
    [
        (stored("a", "b", "c"), log(1, 2, 3, 4), 4, Verdict()),
        (stored("a", "b", "c", "d"), log(1, 2, 3, 4, 5), 5, Verdict()),
        (stored("a", "b"), log(1, 2, 3), 3, Verdict(lost=1)),
        (stored("a", "c", "b"), log(1, 2, 3, 4), 4, Verdict(lost=2)),
        (stored("a", "b", "c", "d", "d"), log(1, 2, 3, 4, 5, 6), 6, Verdict(doubled=1)),
        (stored("a", "b", "c", "x"), log(1, 2, 3, 4, 5), 5, Verdict(invented=1)),
        (stored("a", "b", "c"), log(1, 2, 3, 4), 5, Verdict(gaps=1)),
        (stored("a", "b", "c"), log(1, 3, 2, 4), 4, Verdict(gaps=3)),
        (stored("a", "b", "c"), log(1, 2, 3, 4, 5), 5, Verdict(gaps=1)),
    ],
    ids=["sound", "unacknowledged", "lost", "moved", "doubled", "invented", "short", "reordered", "extra"],
)
def test_judge(messages: list[Message], events: list[Event], version: int, expected: Verdict) -> None:
    assert judge(ledger(), "s", version, messages, events) == expected
