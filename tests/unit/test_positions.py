"""Positions: what was sealed comes back for the same reader, and nothing else is ever accepted."""

import random
import string
from collections.abc import Sequence

import pytest

from sessiond.v1.event_pb2 import EventType
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.log import FeedPlace
from sessiond_server.errors import InvalidPosition
from sessiond_server.events.contract import Cursor, FeedCursor
from sessiond_server.rpc.events.filters import FeedSelection, SessionSelection
from sessiond_server.rpc.events.positions import LONGEST_POSITION, FeedPositions, Positions, SessionPositions
from sessiond_server.rpc.paging import PageTokens
from sessiond_server.rpc.seals import Seal

KEY = b"k" * 32
SCOPE = Scope("acme", "alice")
EVENT = "0197a2b4-0000-7000-8000-000000000001"
CURSOR = Cursor(7, EVENT)
APPENDED = EventType.EVENT_TYPE_MESSAGE_APPENDED
REDACTED = EventType.EVENT_TYPE_MESSAGE_REDACTED


def of_session(
    key: bytes = KEY, scope: Scope = SCOPE, session_id: str = "s", types: Sequence[int] = ()
) -> SessionPositions:
    return Positions(key).of_session(scope, session_id, SessionSelection(frozenset(types)))


def of_feed(key: bytes = KEY, scope: Scope = SCOPE, selection: FeedSelection | None = None) -> FeedPositions:
    return Positions(key).of_feed(scope, selection or FeedSelection())


def feed_cursor(anchors: int, session_id: str = "s", late_commits: int = 0) -> FeedCursor:
    places = [FeedPlace(2**63 - 1 - number, session_id, 2**53) for number in range(anchors + late_commits)]
    named = tuple((place, EVENT) for place in places)
    return FeedCursor(FeedPlace(2**63 - 1, session_id, 2**53), named[:anchors], named[anchors:])


@pytest.mark.parametrize("cursor", [CURSOR, Cursor(0, ""), Cursor(2**53, EVENT)])
def test_a_position_of_a_session_gives_its_cursor_back(cursor: Cursor) -> None:
    assert of_session().open(of_session().seal(cursor)) == cursor


@pytest.mark.parametrize(("anchors", "late_commits"), [(0, 0), (1, 0), (8, 0), (1, 1), (8, 4)])
def test_a_position_of_a_feed_gives_its_cursor_back(anchors: int, late_commits: int) -> None:
    cursor = feed_cursor(anchors, late_commits=late_commits)
    assert of_feed().open(of_feed().seal(cursor)) == cursor


def test_positions_of_earlier_versions_without_late_commits_are_accepted() -> None:
    cursor = feed_cursor(2)
    seal = Seal(KEY, of_feed().binding)
    listed = [[place.commit_xid, place.session_id, place.seq, event_id] for place, event_id in cursor.anchors]
    position = seal.seal([cursor.place.commit_xid, cursor.place.session_id, cursor.place.seq, listed])
    assert of_feed().open(position) == cursor


def test_no_position_is_none() -> None:
    assert of_session().open("") is None
    assert of_feed().open("") is None


def test_the_longest_position_fits() -> None:
    cursor = feed_cursor(8, "s" * 128, late_commits=4)
    position = of_feed().seal(cursor)
    assert len(position) <= LONGEST_POSITION
    assert of_feed().open(position) == cursor


@pytest.mark.parametrize(
    "other",
    [
        of_session(key=b"x" * 32),
        of_session(scope=Scope("globex", "alice")),
        of_session(scope=Scope("acme", "bob")),
        of_session(scope=Scope("acme")),
        of_session(session_id="t"),
        of_session(types=[APPENDED]),
        of_session(scope=Scope("acmealice")),
    ],
    ids=["key", "tenant", "user", "no user", "session", "filter", "joined"],
)
def test_a_position_of_another_stream_is_refused(other: SessionPositions) -> None:
    with pytest.raises(InvalidPosition):
        of_session().open(other.seal(CURSOR))
    with pytest.raises(InvalidPosition):
        other.open(of_session().seal(CURSOR))


@pytest.mark.parametrize(
    "other",
    [
        of_feed(key=b"x" * 32),
        of_feed(scope=Scope("globex", "alice")),
        of_feed(scope=Scope("acme", "bob")),
        of_feed(selection=FeedSelection(agent_id="a")),
        of_feed(selection=FeedSelection(user_id="a")),
        of_feed(selection=FeedSelection(session_ids=frozenset("a"))),
        of_feed(selection=FeedSelection(labels=(("a", ""),))),
        of_feed(selection=FeedSelection(types=frozenset([APPENDED]))),
    ],
    ids=["key", "tenant", "user", "agent", "user filter", "sessions", "labels", "types"],
)
def test_a_position_of_another_feed_is_refused(other: FeedPositions) -> None:
    with pytest.raises(InvalidPosition):
        of_feed().open(other.seal(feed_cursor(2)))


def test_session_feed_and_list_tokens_are_not_interchangeable() -> None:
    page_token = (
        PageTokens(KEY)
        .of(SCOPE, "/sessiond.v1.EventService/ListEvents", "s", SessionSelection().digest)
        .seal([7, EVENT])
    )
    with pytest.raises(InvalidPosition):
        of_feed().open(of_session().seal(CURSOR))
    for position in (of_feed().seal(feed_cursor(1)), page_token):
        with pytest.raises(InvalidPosition):
            of_session().open(position)


def test_filters_that_select_the_same_share_positions() -> None:
    position = of_session(types=[APPENDED, REDACTED]).seal(CURSOR)
    assert of_session(types=[REDACTED, APPENDED, REDACTED]).open(position) == CURSOR
    one = FeedSelection.made("", ["a", "b"], "", "", {"x": "1", "y": "2"}, [REDACTED, APPENDED])
    same = FeedSelection.made("", ["b", "a", "b"], "", "", {"y": "2", "x": "1"}, [APPENDED, REDACTED])
    assert of_feed(selection=same).open(of_feed(selection=one).seal(feed_cursor(1))) == feed_cursor(1)


def test_filters_that_concatenate_alike_have_different_digests() -> None:
    digests = {
        FeedSelection(session_ids=frozenset(["a", "b"])).digest,
        FeedSelection(labels=(("a", "b"),)).digest,
        FeedSelection(agent_id="a", user_id="b").digest,
        FeedSelection(agent_id="ab").digest,
        FeedSelection(session_ids=frozenset(["ab"])).digest,
    }
    assert len(digests) == 5


def test_every_changed_character_is_noticed() -> None:
    position = of_session().seal(CURSOR)
    alphabet = string.ascii_letters + string.digits + "-_=+/ \n\u00e9"
    for index in range(len(position)):
        for character in alphabet:
            if character != position[index]:
                with pytest.raises(InvalidPosition):
                    of_session().open(position[:index] + character + position[index + 1 :])


def test_anything_else_is_refused() -> None:
    source = random.Random(7)
    junk = ["".join(source.choices(string.ascii_letters + "-_", k=source.randrange(1, 200))) for _ in range(500)]
    junk += ["0", "null", "-", "\x00", "\ud800", "A" * (LONGEST_POSITION + 1), "A" * 1_000_000]
    for position in junk:
        with pytest.raises(InvalidPosition):
            of_session().open(position)
        with pytest.raises(InvalidPosition):
            of_feed().open(position)
