"""Which events a filter selects, and which it passes over."""

import dataclasses

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.rpc.events.filters import FeedSelection, SessionSelection

CREATED = EventType.EVENT_TYPE_SESSION_CREATED
UPDATED = EventType.EVENT_TYPE_SESSION_UPDATED
DELETED = EventType.EVENT_TYPE_SESSION_DELETED
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED


def entry(seq: int, kind: int) -> LogEntry:
    return LogEntry(seq, f"e{seq}", f"e{seq - 1}", kind, b"")


def event(
    kind: int = UPDATED, session_id: str = "s", user_id: str = "u", agent_id: str = "a", labels: str = "x=1 y=2"
) -> FeedEntry:
    pairs = dict(pair.split("=") for pair in labels.split())
    return FeedEntry(FeedPlace(1, session_id, 1), entry(1, kind), user_id, agent_id, pairs)


def deletion(session_id: str = "s", user_id: str = "u") -> FeedEntry:
    """A deleted session has neither agent nor labels left."""
    return event(DELETED, session_id, user_id, agent_id="", labels="")


def test_a_session_without_filter_is_delivered_whole() -> None:
    entries = [entry(1, CREATED), entry(2, APPENDED)]
    assert SessionSelection().of(entries) is entries


def test_a_session_is_filtered_by_type_but_its_deletion_always_comes() -> None:
    entries = [entry(1, CREATED), entry(2, APPENDED), entry(3, UPDATED), entry(4, DELETED)]
    selected = SessionSelection(frozenset([APPENDED, CREATED])).of(entries)
    assert [one.seq for one in selected] == [1, 2, 4]
    assert SessionSelection(frozenset([APPENDED])).of(entries[:1]) == []


def criteria(value: object) -> str:
    """Names a case by what it selects by; in sorted order, for a set of strings has another in each process."""
    if not isinstance(value, FeedSelection):
        return str(value)
    given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    listed = {name: sorted(each) if isinstance(each, frozenset) else each for name, each in given.items() if each}
    return ",".join(f"{name}={each}" for name, each in listed.items()) or "none"


@pytest.mark.parametrize(
    ("selection", "selects"),
    [
        (FeedSelection(), True),
        (FeedSelection(types=frozenset([UPDATED, CREATED])), True),
        (FeedSelection(types=frozenset([CREATED])), False),
        (FeedSelection(session_ids=frozenset(["r", "s"])), True),
        (FeedSelection(session_ids=frozenset(["r"])), False),
        (FeedSelection(agent_id="a"), True),
        (FeedSelection(agent_id="b"), False),
        (FeedSelection(user_id="u"), True),
        (FeedSelection(user_id="v"), False),
        (FeedSelection(owner="u"), True),
        (FeedSelection(owner="v"), False),
        (FeedSelection(owner="u", user_id="v"), False),
        (FeedSelection(labels=(("x", "1"),)), True),
        (FeedSelection(labels=(("x", "1"), ("y", "2"))), True),
        (FeedSelection(labels=(("x", "1"), ("y", "3"))), False),
        (FeedSelection(labels=(("z", ""),)), False),
        (FeedSelection("u", frozenset(["s"]), "a", "u", (("x", "1"),), frozenset([UPDATED])), True),
        (FeedSelection("u", frozenset(["s"]), "b", "u", (("x", "1"),), frozenset([UPDATED])), False),
    ],
    ids=criteria,
)
def test_a_feed_delivers_what_every_criterion_selects(selection: FeedSelection, selects: bool) -> None:
    assert selection.selects(event()) is selects
    assert list(selection.of([event()])) == [event()] * selects


@pytest.mark.parametrize(
    ("selection", "selects"),
    [
        (FeedSelection(agent_id="b", labels=(("x", "9"),)), True),
        (FeedSelection(user_id="u"), True),
        (FeedSelection(user_id="v"), False),
        (FeedSelection(owner="v"), False),
        (FeedSelection(session_ids=frozenset(["r"])), False),
        (FeedSelection(types=frozenset([DELETED])), True),
        (FeedSelection(types=frozenset([UPDATED])), False),
    ],
    ids=criteria,
)
def test_a_deletion_is_delivered_whatever_agent_and_labels_were(selection: FeedSelection, selects: bool) -> None:
    assert selection.selects(deletion()) is selects


def test_a_feed_keeps_the_order() -> None:
    events = [event(session_id=name) for name in ("b", "a", "c", "a")]
    selected = FeedSelection(session_ids=frozenset(["a", "c"])).of(events)
    assert [one.place.session_id for one in selected] == ["a", "c", "a"]


def test_a_feed_without_criteria_is_not_copied() -> None:
    events = [event()]
    assert FeedSelection().of(events) is events
    assert FeedSelection(owner="v").of(events) == []
