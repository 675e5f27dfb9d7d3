"""The validators themselves: each broken promise is seen."""

import pytest

from sessiond.v1.event_pb2 import DeletedMessages, Event, EventType
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


def with_a_deletion(*, gone: bool = True, named: int = 5, there: bool = False) -> Verdict:
    """The verdict on a session whose last message, "e" at 5, was deleted by the event at 6."""
    made = ledger()
    made.attempt("s", "e")
    made.delete("s", "e", 5, 6)
    events = log(1, 2, 3, 4, 5)
    if gone:
        events[-1].message.delete_time.seconds = 1
    events.append(
        Event(seq=6, type=EventType.EVENT_TYPE_MESSAGES_DELETED, deleted_messages=DeletedMessages(seqs=[named]))
    )
    messages = stored("a", "b", "c")
    if there:
        messages.append(Message(seq=5, parts=[Part(text="e")]))
    return judge(made, "s", 6, messages, events)


def test_judge_of_deletions() -> None:
    assert with_a_deletion() == Verdict()
    assert with_a_deletion(there=True) == Verdict(lost=1, gaps=1)
    assert with_a_deletion(gone=False) == Verdict(gaps=1)
    assert with_a_deletion(named=4).lost == 1


def test_forfeited_deletion_is_not_owed() -> None:
    made = ledger()
    made.delete("s", "e", 5, 6)
    (ack,) = [ack for ack in made.acks if ack.seq == 6]
    kept = made.without([ack])
    assert (kept.deleted, kept.acknowledged) == ({}, made.acknowledged)
    assert made.without([]).deleted == made.deleted
