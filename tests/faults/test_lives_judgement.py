"""Sessions that come and go: one that is taken for another one with its id is seen, in events, states and drafts."""

from typing import Any, cast

import pytest

import sessiond
from tests.faults.drafts import Joiner, content_of
from tests.faults.history import DELETION, Closed, Got, Opened, Record
from tests.faults.ledger import Ack
from tests.faults.lives import Life
from tests.faults.lives_judgement import LivesFigures, document_findings, life_findings, lives_figures, mistaken
from tests.faults.validators import Failover, Findings, Log, Truth

S = "s"


def ack(seq: int) -> Ack:
    return Ack(float(seq), S, seq, float(seq), float(seq), "")


def name(seq: int) -> bytes:
    return f"{S}{seq}".encode().ljust(16, b".")


def came(*seqs: int, first: int) -> list[Record]:
    """Events of a session that begins with `first`."""
    return [Got(float(seq), S, seq, name(seq), name(seq - 1) if seq > first else b"", 0) for seq in seqs]


def two_lives() -> tuple[Life, Life]:
    """Events 1 to 4, the last the deletion; 5 and 6."""
    before = Life(S, acks=[ack(1), ack(2), ack(3), ack(4)], deleted=ack(4), followed=True)
    *events, final = came(1, 2, 3, 4, first=1)
    before.records = [Opened(0.0, -1, 0, b"", b""), *events, cast("Got", final)._replace(text=DELETION)]
    after = Life(S, before, acks=[ack(5), ack(6)])
    after.records = [Opened(0.0, -1, 4, b"", b""), *came(5, 6, first=5)]
    return before, after


TRUTH = Truth({S: Log([b""] * 4 + [name(5), name(6)], [0] * 6, [0] * 6)})


def test_one_life_after_the_other_is_sound() -> None:
    for life in two_lives():
        assert life_findings(life, TRUTH) == (Findings(), 0)
        assert mistaken(life) == 0
    assert lives_figures(two_lives(), TRUTH).sound


@pytest.mark.parametrize(
    ("which", "records", "expected"),
    [
        (0, came(5, first=5), 1),  # the watcher went on into the next session
        (1, came(3, first=1), 1),  # or was shown an event of the one before
        (1, came(4, first=1), 1),
    ],
)
def test_event_of_another_life_is_seen(which: int, records: list[Record], expected: int) -> None:
    life = two_lives()[which]
    life.records += records
    assert mistaken(life) == expected
    assert not lives_figures([life], TRUTH).sound


def test_versions_that_begin_anew_are_seen() -> None:
    _, after = two_lives()
    after.acks = [ack(1), ack(2)]
    assert mistaken(after) == 1


def test_watcher_is_refused_only_where_another_session_has_the_id() -> None:
    before, after = two_lives()
    before.compacted = after.compacted = True
    assert (mistaken(before), mistaken(after)) == (0, 1)


def test_watcher_that_began_after_the_deletion_is_refused_rightly() -> None:
    gone = Truth({S: Log([b""] * 3 + [name(4)], [0] * 4, [0] * 4)})
    late = Life(S, acks=[ack(1), ack(2), ack(3), ack(4)], deleted=ack(4), compacted=True)
    opened, refused = Opened(0.0, -1, 0, b"", b""), Closed(5.0, "POSITION_COMPACTED")
    late.records = [refused]
    assert (life_findings(late, gone), mistaken(late)) == ((Findings(), 0), 0)
    late.records = [opened, refused]
    assert (life_findings(late, gone), mistaken(late)) == ((Findings(), 0), 0)
    late.records = [opened, refused._replace(at=3.0)]
    assert mistaken(late) == 1, "it was refused before the deletion"
    late.records = [opened, *came(1, first=1), refused]
    assert mistaken(late) == 1, "it had a position, which leads to the final event"
    assert life_findings(late, gone)[0].lost


def test_lost_events_and_deletions_are_seen() -> None:
    before, after = two_lives()
    after.records = [Opened(0.0, -1, 4, b"", b""), *came(5, first=5)]
    assert life_findings(after, TRUTH) == (Findings(lost=1), 0)
    still_there = Truth({S: Log([name(seq) for seq in range(1, 5)], [0] * 4, [0] * 4)})
    assert life_findings(before, still_there)[1] == 1


def test_what_a_failover_took_is_not_judged() -> None:
    before, after = two_lives()
    after.misread = 1
    assert lives_figures([before, after], TRUTH).state_wrong == 1
    lossy = Truth(TRUTH.logs, [Failover(began=3.5, ended=4.5, survived={S: 3})])
    assert lives_figures([before, after], lossy).sound


def test_documents_of_a_session_go_on_behind_those_of_the_one_before() -> None:
    before, after = two_lives()
    before.documents, after.documents = [(1, 1), (2, 2)], [(3, 3)]
    assert document_findings([before, after]) == (0, 0)
    after.documents = [(1, 3)]
    assert document_findings([before, after]) == (0, 1)


def joiner() -> Joiner:
    return Joiner(cast("Any", None), S, "m", content_of(S, 1, 0))


def test_pieces_of_another_draft_and_late_ones_are_seen() -> None:
    text, one = content_of(S, 1, 0), joiner()
    one._take(sessiond.Delta(message_id="m", offset=5, text=text[5:20]))
    one._take(sessiond.Delta(message_id="other", text="x"))
    assert (one.shown, one.pieces, one.wrong) == (True, 1, 0)
    one._take(sessiond.Delta(message_id="m", text=content_of(S, 2, 0)[:50]))
    assert one.wrong == 1
    one._stored = True
    one._take(sessiond.Delta(message_id="m", text=text[:5]))
    assert one.wrong == 2
    life = Life(S, acks=[ack(1)], joiners=[one])
    figures = lives_figures([life], Truth({S: Log([name(1)], [0], [0])}))
    assert figures == LivesFigures(lives=1, drafts=1, shown=1, draft_wrong=2)
    assert not figures.sound


def test_draft_that_is_interrupted_counts_as_shown() -> None:
    one = joiner()
    one._take(sessiond.Delta(message_id="m", typing=True))
    assert not one.shown
    one._take(sessiond.Delta(message_id="m", interrupted=True))
    assert one.shown
