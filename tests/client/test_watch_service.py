"""Watches, feeds and drafts against the whole service, through a real channel."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import sessiond
from sessiond.fields import EventTypeLike
from tests.support.client_service import RECONNECT, Service
from tests.support.proxy import Proxy

BOTH_CLIENTS = True

DELETED = sessiond.EventType.EVENT_TYPE_SESSION_DELETED


async def take(events: AsyncIterator[sessiond.Event], count: int) -> list[sessiond.Event]:
    return [await anext(events) for _ in range(count)]


async def say(client: sessiond.Client, session_id: str, *texts: str) -> None:
    for text in texts:
        await client.append_messages(session_id, [sessiond.user(text)])


def texts(events: list[sessiond.Event]) -> list[str]:
    return [sessiond.text_of(event.message) for event in events]


async def test_watch_yields_a_snapshot_and_the_events_after_it(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True, state={"step": 1})).session_id
    await say(sessions, session_id, "before")
    async with sessions.watch(session_id) as watch:
        assert watch.snapshot == await sessions.get_session(session_id)
        assert (watch.seq, watch.head_seq, watch.caught_up) == (2, 2, True)
        await say(sessions, session_id, "one", "two")
        got = await take(watch, 2)
        assert texts(got) == ["one", "two"]
        assert [event.seq for event in got] == [3, 4]
    async with sessions.watch(session_id, view="basic") as watch:
        assert watch.snapshot is not None
        assert not watch.snapshot.HasField("state")


async def test_watch_yields_every_event_from_the_first_to_the_deletion(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    async with asyncio.TaskGroup() as group:
        watch = sessions.watch(session_id, from_beginning=True)

        async def read() -> list[sessiond.Event]:
            return [event async for event in watch]

        reading = group.create_task(read())
        await say(sessions, session_id, "one")
        await sessions.end_session(session_id)
        await sessions.delete_session(session_id)
        got = await reading
    # Deleting removes what a reader who is behind was still to get, but never the end.
    assert [event.seq for event in got] == sorted({event.seq for event in got})
    assert got[-1].type == DELETED
    assert got[-1].seq == 4
    with pytest.raises(sessiond.SessionNotFound):
        await anext(sessions.watch(session_id))


async def test_stored_position_resumes_a_watch(service: Service, sessions: sessiond.Client, tmp_path: Path) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    store = sessiond.FilePositions(tmp_path / "position")
    async with sessions.watch(session_id, store=store, from_beginning=True) as watch:
        await say(sessions, session_id, "one")
        await take(watch, 2)
        watch.ack()
        position = watch.position
    await say(sessions, session_id, "two", "three")
    async with sessiond.Client(service.target) as client:
        async with client.watch(session_id, position=position) as watch:
            assert texts(await take(watch, 2)) == ["two", "three"]
        # Not acknowledged, so they come once more.
        async with client.watch(session_id, store=store) as watch:
            assert texts(await take(watch, 2)) == ["two", "three"]
        listed = client.list_events(session_id, position=position, page_size=1)
        assert texts([event async for event in listed]) == ["two", "three"]


async def test_positions_of_lists_and_watches_are_the_same(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await say(sessions, session_id, "one", "two")
    pages = [page async for page in sessions.list_events(session_id, page_size=2).pages()]
    assert [[event.seq for event in page.events] for page in pages] == [[1, 2], [3]]
    assert pages[-1].version == 3
    async with sessions.watch(session_id, position=pages[0].position) as watch:
        assert texts(await take(watch, 1)) == ["two"]
    async with sessions.watch(session_id, position=pages[1].position) as watch:
        await say(sessions, session_id, "three")
        assert texts(await take(watch, 1)) == ["three"]


async def test_filters_belong_to_the_position(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await say(sessions, session_id, "one")
    await sessions.suspend_session(session_id)
    types: tuple[EventTypeLike, ...] = ("session_created", "session_suspended")
    async with sessions.watch(session_id, types=types, from_beginning=True) as watch:
        assert [event.seq for event in await take(watch, 2)] == [1, 3]
        watch.ack()
        position = watch.position
    for others in ((), types[:1]):
        with pytest.raises(sessiond.InvalidPosition):
            await anext(sessions.watch(session_id, position=position, types=others))
    with pytest.raises(sessiond.InvalidPosition):
        await anext(sessions.watch(session_id, position="forged"))
    other = (await sessions.create_session()).session_id
    with pytest.raises(sessiond.InvalidPosition):
        await anext(sessions.watch(other, types=types, position=position))


async def test_watch_of_a_missing_session_raises(sessions: sessiond.Client) -> None:
    with pytest.raises(sessiond.SessionNotFound):
        async with sessions.watch("nobody"):
            pytest.fail("entered")
    with pytest.raises(sessiond.InvalidFields):
        await anext(sessions.watch("no\nid"))


async def test_draft_is_received_by_a_watch(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    async with sessions.watch(session_id, deltas=True) as watch:
        async with sessions.draft(session_id, name="agent", interval=0) as draft:
            await draft.write("Mild, ")
            pieces: list[sessiond.Delta] = []
            while "".join(piece.text for piece in pieces) != "Mild, ":
                piece = await anext(watch)
                assert isinstance(piece, sessiond.Delta)
                pieces.append(piece)
            await draft.write("21 °C.")
        while not isinstance(kept := await anext(watch), sessiond.Event):
            pieces.append(kept)
        # What is kept is the whole, and has the name that its pieces had.
        assert sessiond.text_of(kept.message) == "Mild, 21 °C."
        assert {piece.message_id for piece in pieces} == {kept.message.message_id}
        assert "Mild, 21 °C.".startswith("".join(piece.text for piece in pieces))
    assert draft.appended is not None
    assert kept.seq == draft.appended.version


async def test_draft_in_an_ended_session_raises(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await sessions.end_session(session_id)

    async def write() -> None:
        async with sessions.draft(session_id, interval=0) as draft:
            while True:
                await draft.write("token ")

    with pytest.raises(sessiond.SessionEnded):
        await write()
    with pytest.raises(sessiond.SessionEnded):
        await sessions.typing(session_id)


async def test_feed_yields_the_events_of_all_sessions(sessions: sessiond.Client) -> None:
    before = (await sessions.create_session(active=True)).session_id
    async with sessions.watch_events() as feed:
        one = (await sessions.create_session(active=True, labels={"team": "a"})).session_id
        await say(sessions, one, "one")
        await say(sessions, before, "before")
        await sessions.delete_session(one)
        got = await take(feed, 4)
        assert [(event.session_id, event.seq) for event in got] == [(one, 1), (one, 2), (before, 2), (one, 3)]
        feed.ack()
        position = feed.position
    await say(sessions, before, "later")
    async with sessions.watch_events(position=position) as feed:
        assert texts(await take(feed, 1)) == ["later"]
    async with sessions.watch_events(from_beginning=True) as feed:
        assert [event.seq for event in await take(feed, 4)] == [1, 2, 3, 3]


async def test_filtered_feed_yields_selected_events_only(sessions: sessiond.Client) -> None:
    async with sessions.watch_events(labels={"team": "a"}, types=["message_appended"]) as feed:
        for team in "ab":
            session = await sessions.create_session(active=True, labels={"team": team})
            await say(sessions, session.session_id, f"of {team}", f"again {team}")
        await say(sessions, (await sessions.create_session(active=True)).session_id, "of none")
        await sessions.create_session("last", active=True, labels={"team": "a"})
        await say(sessions, "last", "last")
        assert texts(await take(feed, 3)) == ["of a", "again a", "last"]


async def test_events_arrive_once_in_order_through_broken_connections(
    service: Service, sessions: sessiond.Client
) -> None:
    """Connections are cut, sliced and stalled; the watch and the feed yield each event once, in order."""
    session_id = (await sessions.create_session(active=True)).session_id
    host, _, port = service.target.rpartition(":")
    async with (
        Proxy(host, int(port)) as proxy,
        sessiond.Client(f"127.0.0.1:{proxy.port}", reconnect=RECONNECT) as client,
        client.watch(session_id, idle_timeout=0.5) as watch,
        client.watch_events(idle_timeout=0.5) as feed,
    ):
        proxy.slicing = True
        for n in range(0, 30, 3):
            await say(sessions, session_id, str(n))
            proxy.cut()
            await say(sessions, session_id, str(n + 1))
            if n % 9 == 0:
                proxy.stall()
                await say(sessions, session_id, str(n + 2))
                proxy.cut()
                proxy.flow()
            else:
                await say(sessions, session_id, str(n + 2))
            expected = [str(n), str(n + 1), str(n + 2)]
            assert texts(await take(watch, 3)) == texts(await take(feed, 3)) == expected
        assert watch.streams > 5


READER = """
import asyncio, sys, sessiond

async def main(target, session_id, path):
    async with sessiond.Client(target) as client:
        store = sessiond.FilePositions(path)
        async with client.watch(session_id, store=store, from_beginning=True, save_events=1) as watch:
            async for event in watch:
                print(event.seq, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_reader_gets_its_unprocessed_events_again(
    service: Service, sessions: sessiond.Client, tmp_path: Path
) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    read: list[list[int]] = []
    for _ in range(2):
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, service.target, session_id, str(tmp_path / "position"),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert reader.stdout is not None
        seqs: list[int] = []
        while len(seqs) < 6:
            await say(sessions, session_id, "text")
            seqs.append(int(await reader.stdout.readline()))
        reader.kill()
        rest = (await reader.stdout.read()).split()
        read.append(seqs + [int(seq) for seq in rest])
        await reader.wait()
    first, second = read
    assert first == list(range(1, first[-1] + 1))
    # It was killed at its last event, which it may have said so of: that one comes again, and nothing is left out.
    assert 1 < second[0] <= first[-1] + 1
    assert second == list(range(second[0], second[-1] + 1))


async def test_late_watcher_gets_the_draft_from_its_beginning(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    early = sessions.watch(session_id, deltas=True)
    async with early, sessions.draft(session_id, name="agent", interval=0) as draft:
        await draft.think("hm")
        await draft.write("Mild, ")
        await draft.write("dry")
        await draft.show({"sun": 7}, number=3, media_type="chart")
        seen = ""
        while not ("dry" in seen and "chart" in seen):
            item = await anext(early)
            assert isinstance(item, sessiond.Delta)
            seen += item.text + item.data.media_type
        async with sessions.watch(session_id, deltas=True) as late:
            assert late.snapshot is not None
            pieces = [await anext(late) for _ in range(3)]
            thought, text, data = (piece for piece in pieces if isinstance(piece, sessiond.Delta))
            assert (thought.thinking, text.text, text.offset, text.name) == ("hm", "Mild, dry", 0, "agent")
            assert (data.part_index, data.data.json, data.data.media_type) == (3, '{"sun":7}', "chart")
            await draft.write(".")
            following = await anext(late)
            assert isinstance(following, sessiond.Delta)
            assert (following.text, following.offset, following.part_index) == (".", 9, text.part_index)
    await early.aclose()
    async with sessions.watch(session_id, deltas=True) as after:
        await sessions.append_messages(session_id, [sessiond.user("Thanks")])
        event = await anext(after)
        assert isinstance(event, sessiond.Event), "the message has superseded the draft"


async def test_watchers_are_told_that_a_failed_draft_is_interrupted(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id

    async def fail(early: sessiond.Watch[sessiond.Event | sessiond.Delta]) -> None:
        async with sessions.draft(session_id, message_id="m", interval=0) as draft:
            await draft.write("Half")
            while getattr(await anext(early), "text", "") != "Half":
                pass
            raise ZeroDivisionError

    async with sessions.watch(session_id, deltas=True) as early:
        with pytest.raises(ZeroDivisionError):
            await fail(early)
        told = await anext(early)
        assert isinstance(told, sessiond.Delta)
        assert told.interrupted
    async with sessions.watch(session_id, deltas=True) as late:
        half, told = await anext(late), await anext(late)
        assert isinstance(half, sessiond.Delta)
        assert isinstance(told, sessiond.Delta)
        assert (half.text, told.interrupted, told.message_id) == ("Half", True, "m")


async def test_draft_of_a_message_that_is_stored_is_not_shown(sessions: sessiond.Client) -> None:
    session_id = (await sessions.create_session(active=True)).session_id
    await sessions.append_messages(session_id, [sessiond.assistant("done", message_id="m")])
    await sessions.publish_delta(
        session_id, [sessiond.Delta(message_id="m", text="late"), sessiond.Delta(message_id="n", text="new")]
    )
    async with sessions.watch(session_id, deltas=True) as watch:
        piece = await anext(watch)
        assert isinstance(piece, sessiond.Delta)
        assert (piece.message_id, piece.text) == ("n", "new")


async def test_draft_of_a_deleted_session_is_gone(sessions: sessiond.Client) -> None:
    await sessions.create_session("s", active=True)
    await sessions.publish_delta("s", [sessiond.Delta(message_id="m", text="secret")])
    await sessions.delete_session("s")
    with pytest.raises(sessiond.SessionNotFound):
        async with sessions.watch("s", deltas=True):
            pytest.fail("entered")
