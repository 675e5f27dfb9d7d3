"""The tenant-wide feed: the events that the caller receives over streams that break."""

import asyncio

import grpc
import pytest

import sessiond
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.event_service_pb2 import FeedStart
from sessiond_server import errors as server_errors
from tests.support.scripted_server import QUIET, Fail, ScriptedServer, Step, asked, failing
from tests.support.watch_frames import CREATED, DELETED, batch, bookmark, event, going_away, of_feed, resumed

UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)


async def ids(feed: sessiond.Feed, count: int) -> list[str]:
    return [f"{got.session_id}{got.seq}" for got in [await anext(feed) for _ in range(count)]]


def of(*seqs: str, history: str = "a") -> list[sessiond.Event]:
    """Such as "s4": event 4 of session s."""
    return [event(int(each[1:]), session_id=each[0], history=history) for each in seqs]


def feed_of(*seqs: str, at: str) -> Step:
    return of_feed(batch(*of(*seqs)), at)


async def test_feed_begins_now_by_default(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([of_feed(resumed(0), "now"), feed_of("s4", "t9", "s5", at="x"), QUIET])
    async with client.watch_events() as feed:
        assert (feed.position, feed.caught_up) == ("", False)
        assert await ids(feed, 3) == ["s4", "t9", "s5"]
        assert feed.position == "now"
        feed.ack()
        assert feed.position == "x"
    request = server.seen[0].request
    assert (request.start, request.position) == (FeedStart.FEED_START_NOW, "")
    assert server.seen[0].time_remaining > 3600


async def test_every_argument_is_sent(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = [of_feed(resumed(0), "p"), QUIET]
    async with client.watch_events(
        from_beginning=True,
        session_ids=["s", "t"],
        agent_id="a",
        user_id="u",
        labels={"k": "v"},
        types=["session_ended"],
    ):
        pass
    request = server.seen[0].request
    assert request.start == FeedStart.FEED_START_BEGINNING
    assert list(request.filter.session_ids) == ["s", "t"]
    assert (request.filter.agent_id, request.filter.user_id, dict(request.filter.labels)) == ("a", "u", {"k": "v"})
    assert list(request.filter.types) == [EventType.EVENT_TYPE_SESSION_ENDED]


async def test_lost_stream_is_resumed_at_the_position(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend(
        [
            [of_feed(resumed(0), "p0"), feed_of("s1", "t1", at="p1"), UNAVAILABLE],
            [of_feed(resumed(0), "p1"), of_feed(bookmark(0), "p2"), of_feed(going_away(0), "p2")],
            [],
            [of_feed(resumed(0), "p2"), feed_of("s2", at="p3"), QUIET],
        ]
    )
    async with client.watch_events(from_beginning=True) as feed:
        assert await ids(feed, 3) == ["s1", "t1", "s2"]
    assert asked(server) == ["", "p1", "p2", "p2"]


async def test_repeated_events_are_dropped(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend(
        [
            [of_feed(resumed(0), "p0"), feed_of("s1", "t1", "s2", at="p1"), UNAVAILABLE],
            [of_feed(resumed(0), "p1"), feed_of("t1", "s2", at="p1"), feed_of("s2", "t2", at="p2"), QUIET],
        ]
    )
    async with client.watch_events(from_beginning=True) as feed:
        assert await ids(feed, 4) == ["s1", "t1", "s2", "t2"]


@pytest.mark.parametrize(
    "then",
    [
        of("t5", "s6"),
        of("s5", history="b"),
        of("s4", history="b"),
    ],
    ids=["a hole", "another history", "another event at the same place"],
)
async def test_gap_in_a_chain_is_raised(
    then: list[sessiond.Event], client: sessiond.Client, server: ScriptedServer
) -> None:
    beyond = failing(server_errors.ScopeMissing("sessions:read"))
    server.script.append([of_feed(resumed(0), "p0"), feed_of("s4", "t4", at="p1"), of_feed(batch(*then), "p2"), beyond])
    server.always = [beyond]
    feed = client.watch_events(session_ids=["s", "t"])
    assert await ids(feed, 2) == ["s4", "t4"]
    for _ in range(2):
        with pytest.raises(sessiond.PositionLost) as caught:
            await anext(feed)
    assert (caught.value.session_id, caught.value.seq) == ("s", 4)
    assert feed.position == "p1"
    await feed.aclose()


async def test_filtered_feed_accepts_gaps(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([of_feed(resumed(0), "p0"), feed_of("s1", "s4", "t2", "s9", at="p1"), QUIET])
    async with client.watch_events(agent_id="a") as feed:
        assert await ids(feed, 4) == ["s1", "s4", "t2", "s9"]


async def test_deletion_may_follow_anything_and_the_id_may_come_back(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    gone = event(9, session_id="s", type=DELETED)
    reborn = event(1, session_id="s", history="b", type=CREATED)
    events = [*of("s1", "s2"), gone, gone, *of("s2"), reborn, *of("s2", history="b")]
    server.script.append([of_feed(resumed(0), "p0"), of_feed(batch(*events), "p1"), QUIET])
    async with client.watch_events(from_beginning=True) as feed:
        assert await ids(feed, 5) == ["s1", "s2", "s9", "s1", "s2"]


async def test_number_of_remembered_sessions_is_bounded(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.chain._MOST_SESSIONS", 2)
    server.script.append([of_feed(resumed(0), "p0"), feed_of("a1", "b1", "a2", "c1", "b5", "a6", at="p1"), QUIET])
    feed = client.watch_events()
    # b was forgotten when c came, and a when b came anew.
    assert await ids(feed, 6) == ["a1", "b1", "a2", "c1", "b5", "a6"]
    assert len(feed._chains._chains) == 2
    await feed.aclose()


async def test_bookmark_sets_caught_up(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(
        [of_feed(resumed(0), "p0"), of_feed(bookmark(0), "p1"), feed_of("s1", at="p2"), QUIET],
    )
    async with client.watch_events() as feed:
        frames = feed.frames()
        got: list[object] = []
        told = [feed.caught_up]
        for _ in range(2):
            got.append(await anext(frames))
            told.append(feed.caught_up)
    assert told == [False, True, False]
    assert [type(frame) for frame in got] == [sessiond.Bookmark, sessiond.EventBatch]


async def test_feed_does_not_end_by_itself(client: sessiond.Client, server: ScriptedServer) -> None:
    gone = event(9, session_id="s", type=DELETED)
    server.script.extend([[of_feed(resumed(0), "p0"), of_feed(batch(gone), "p1")], [QUIET]])
    async with client.watch_events() as feed:
        assert await ids(feed, 1) == ["s9"]
        waiting = asyncio.create_task(anext(feed))
        while len(server.seen) < 2:
            server.arrived.clear()
            await server.arrived.wait()
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
