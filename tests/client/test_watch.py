"""Watching one session: the events that the caller receives over streams that break."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

import sessiond
from sessiond.fields import EventTypeLike
from sessiond.v1.event_service_pb2 import WatchSessionResponse
from sessiond_server import errors as server_errors
from tests.support.client_service import RECONNECT
from tests.support.scripted_server import (
    QUIET,
    UNAVAILABLE,
    Fail,
    ScriptedServer,
    Step,
    Steps,
    Wait,
    asked,
    failing,
    scripted_server,
)
from tests.support.waiting import until
from tests.support.watch_frames import (
    APPENDED,
    DELETED,
    batch,
    bookmark,
    deltas,
    event,
    going_away,
    of_feed,
    position,
    resumed,
    seqs,
    snapshot,
)


async def test_events_follow_the_snapshot(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(4, 5), batch(6), QUIET])
    async with client.watch("s") as watch:
        assert watch.snapshot is not None
        assert (watch.snapshot.version, watch.seq, watch.head_seq, watch.caught_up) == (3, 3, 3, True)
        assert await seqs(watch, 3) == [4, 5, 6]
        assert (watch.seq, watch.streams) == (6, 1)
    request = server.seen[0].request
    assert (request.session_id, request.position, request.deltas, request.from_beginning) == ("s", "", False, False)
    assert not request.HasField("filter")
    assert server.seen[0].time_remaining > 3600


async def test_watch_works_without_a_block(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(4, 5), QUIET])
    watch = client.watch("s")
    assert (watch.snapshot, watch.position, watch.seq, watch.streams) == (None, "", 0, 0)
    async for received in watch:
        if received.seq == 5:
            break
    assert watch.snapshot is not None
    await watch.aclose()
    await server.cancelled.wait()
    assert [received async for received in watch] == []


async def test_every_argument_is_sent(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = [resumed(0), batch(1), UNAVAILABLE]
    types: list[EventTypeLike] = ["message_appended", DELETED]
    async with client.watch("s", types=types, from_beginning=True, deltas=True, view="basic") as watch:
        await anext(watch)
    async with client.watch("s", position=position(7)) as resuming:
        server.script.append([resumed(7), QUIET])
        assert resuming.position == position(7)
    first, second = (seen.request for seen in server.seen)
    assert list(first.filter.types) == [APPENDED, DELETED]
    assert (first.from_beginning, first.deltas, first.view) == (True, True, 1)
    assert (second.position, second.from_beginning, second.view) == (position(7), False, 2)


# Resuming.


BREAKS: dict[str, list[Step]] = {
    "unavailable": [UNAVAILABLE],
    "draining": [failing(server_errors.Draining())],
    "starting": [failing(server_errors.Starting())],
    "database away": [failing(server_errors.StoreUnavailable())],
    "cancelled": [Fail(grpc.StatusCode.CANCELLED)],
    "deadline": [Fail(grpc.StatusCode.DEADLINE_EXCEEDED)],
    "too slow": [failing(server_errors.WatcherTooSlow(position(1), 0.01))],
    "too many watchers": [failing(server_errors.TooManyWatchers(0.01))],
    "too many calls": [failing(server_errors.TooManyCalls(0.01))],
    "reset": [Fail(grpc.StatusCode.INTERNAL)],
    "unknown": [Fail(grpc.StatusCode.UNKNOWN)],
    "a defect": [failing(server_errors.InternalError("e"))],
    "exhausted": [Fail(grpc.StatusCode.RESOURCE_EXHAUSTED)],
    "going away": [going_away(4), QUIET],
    "ended with OK": [],
}


@pytest.mark.parametrize("name", BREAKS)
async def test_broken_stream_is_resumed(name: str, client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend(
        [
            BREAKS[name] if name not in ("going away", "ended with OK") else [UNAVAILABLE],
            [snapshot(3), batch(4), *BREAKS[name]],
            [resumed(4), *BREAKS[name]],
            [resumed(4), batch(5, 6), QUIET],
        ]
    )
    async with client.watch("s") as watch:
        assert await seqs(watch, 3) == [4, 5, 6]
        assert watch.streams == 4
        assert watch.last_error is None
    assert asked(server) == ["", "", position(4), position(4)]


async def test_a_bookmark_moves_the_position(client: sessiond.Client, server: ScriptedServer) -> None:
    passed = WatchSessionResponse()
    passed.bookmark.position, passed.bookmark.head_seq = "after what the filter passed over", 9
    server.script.extend([[snapshot(3), passed, UNAVAILABLE], [resumed(9), batch(12), QUIET]])
    async with client.watch("s", types=["message_redacted"]) as watch:
        assert await seqs(watch, 1) == [12]
    assert asked(server) == ["", "after what the filter passed over"]


async def test_repeated_events_are_dropped(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend(
        [
            [snapshot(3), batch(2, 3, 4), batch(3, 4), batch(4, 5), UNAVAILABLE],
            [resumed(5), batch(4, 5), batch(5, 6), QUIET],
        ]
    )
    async with client.watch("s") as watch:
        assert await seqs(watch, 3) == [4, 5, 6]


async def test_first_stream_that_fails_is_opened_again_from_the_beginning(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.extend([[UNAVAILABLE], [resumed(0), batch(1), QUIET]])
    async with client.watch("s", from_beginning=True) as watch:
        assert await seqs(watch, 1) == [1]
    assert [seen.request.from_beginning for seen in server.seen] == [True, True]


async def test_resumed_stream_does_not_ask_for_the_beginning(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([[resumed(0), batch(1), UNAVAILABLE], [resumed(1), batch(2), QUIET]])
    async with client.watch("s", from_beginning=True) as watch:
        assert await seqs(watch, 2) == [1, 2]
    assert [(seen.request.position, seen.request.from_beginning) for seen in server.seen] == [
        ("", True),
        (position(1), False),
    ]


async def test_watch_survives_restarts_of_the_server(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/restarted"
    got = []
    async with sessiond.Client(listen, reconnect=RECONNECT) as client:
        watch = client.watch("s", from_beginning=True)
        for last in range(1, 4):
            async with scripted_server(listen) as server:
                server.always = [resumed(last - 1), batch(last), QUIET]
                got += await seqs(watch, 1)
        await watch.aclose()
    assert got == [1, 2, 3]


async def test_streams_alternate_between_replicas(tmp_path: Path) -> None:
    async with scripted_server() as one, scripted_server() as two:
        target = "ipv4:" + ",".join(server.target for server in (one, two))
        one.always = two.always = [resumed(0), UNAVAILABLE]
        async with sessiond.Client(target, reconnect=RECONNECT) as client:
            async with asyncio.TaskGroup() as group:
                watch = client.watch("s", from_beginning=True)
                waiting = group.create_task(anext(watch))
                while not (one.seen and two.seen):
                    await asyncio.gather(*(client.get_session("s") for _ in range(2)))
                one.always = two.always = [resumed(0), batch(1), QUIET]
                assert (await waiting).seq == 1
            await watch.aclose()


@pytest.mark.parametrize("last_words", [[], [resumed(1)], [resumed(1), batch(2)]], ids=len)
async def test_silent_stream_is_replaced(
    last_words: list[Step], client: sessiond.Client, server: ScriptedServer
) -> None:
    """A half-open connection or a server that hangs, any number of times."""

    def answer(request: Any) -> Steps:
        if not request.position:
            return [snapshot(1), QUIET]
        if len(server.seen) < 5:
            return [*last_words, QUIET]
        at = int(request.position.removeprefix("after "))
        return [resumed(at), *(batch(seq) for seq in range(at + 1, 4)), QUIET]

    server.always = answer
    async with client.watch("s", idle_timeout=0.05) as watch:
        assert await seqs(watch, 2) == [2, 3]
        assert watch.streams >= 5


async def test_backoff_grows_and_is_bounded(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(self: object, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("sessiond.tail.Tail._pause", pause)
    busy = failing(server_errors.TooManyWatchers(7.5))
    failed: list[Step] = [resumed(0), UNAVAILABLE]
    server.script.extend([*[failed] * 8, [busy], [resumed(0), batch(1), UNAVAILABLE], [batch(2)]])
    async with sessiond.Client(server.target) as patient:
        assert await seqs(patient.watch("s", from_beginning=True), 2) == [1, 2]
    for n, seconds in enumerate(pauses[:8]):
        longest = min(2.0, 0.1 * 2**n)
        assert longest / 2 <= seconds <= longest
    assert pauses[8] == 7.5
    assert 0.05 <= pauses[9] <= 0.1


# What no other stream would change.


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (server_errors.SessionNotFound("s"), sessiond.SessionNotFound),
        (server_errors.InvalidPosition(), sessiond.InvalidPosition),
        (server_errors.PositionLost("s", 4), sessiond.PositionLost),
        (server_errors.PositionCompacted("s", 9), sessiond.PositionCompacted),
        (server_errors.Unauthenticated(), sessiond.Unauthenticated),
        (server_errors.ScopeMissing("sessions:read"), sessiond.ScopeMissing),
        (server_errors.InvalidFields([server_errors.Violation("session_id", "no")]), sessiond.InvalidFields),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_permanent_error_is_raised_each_time(
    error: server_errors.SessiondError,
    kind: type[sessiond.SessiondError],
    client: sessiond.Client,
    server: ScriptedServer,
) -> None:
    server.script.append([snapshot(3), batch(4), failing(error)])
    server.always = [failing(error)]
    watch = client.watch("s")
    assert await seqs(watch, 1) == [4]
    for _ in range(2):  # the next read raises again
        with pytest.raises(kind):
            await anext(watch)
    with pytest.raises(kind):
        async with client.watch("s"):
            pytest.fail("entered")


async def test_missing_method_is_raised(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = [Fail(grpc.StatusCode.UNIMPLEMENTED)]
    with pytest.raises(sessiond.SessiondError) as caught:
        await anext(client.watch("s"))
    assert caught.value.code == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
async def test_fifth_ambiguous_failure_in_a_row_is_raised(
    code: grpc.StatusCode, client: sessiond.Client, server: ScriptedServer
) -> None:
    server.always = [resumed(0), Fail(code)]
    watch = client.watch("s", from_beginning=True)
    with pytest.raises(sessiond.SessiondError) as caught:
        await anext(watch)
    assert caught.value.code == code.name
    assert len(server.seen) == 5
    server.script.append([resumed(0), batch(1), QUIET])
    assert await seqs(watch, 1) == [1]
    await watch.aclose()


LOST: dict[str, list[Step]] = {
    "an event is missing": [batch(5)],
    "an event is missing within": [batch(4, 6)],
    "another history": [batch(event(4, history="b"))],
    "another event at the same place": [batch(event(3, history="b"))],
    "another history after a break": [batch(4), UNAVAILABLE, resumed(4), batch(event(5, history="b"))],
    "an event is missing after a break": [batch(4), UNAVAILABLE, resumed(4), batch(6)],
    "a snapshot instead of what follows": [batch(4), UNAVAILABLE, snapshot(9)],
    "a bookmark beyond what came": [bookmark(5)],
    "a bookmark before what came": [batch(4), bookmark(3)],
    "a bookmark beyond what came after a break": [batch(4), UNAVAILABLE, resumed(4), bookmark(5)],
}


@pytest.mark.parametrize("name", LOST)
async def test_gap_in_the_chain_is_raised(name: str, client: sessiond.Client, server: ScriptedServer) -> None:
    streams: list[list[Step]] = [[snapshot(3)]]
    for step in LOST[name]:
        streams[-1].append(step)
        if isinstance(step, Fail):
            streams.append([])
    # A watch that continued would raise that error, and not the loss.
    server.always = [failing(server_errors.SessionNotFound("s"))]
    streams[-1] += [batch(7), failing(server_errors.SessionNotFound("s"))]
    server.script.extend(streams)
    watch = client.watch("s")
    got: list[int] = []

    async def read() -> None:
        async for received in watch:
            got.append(received.seq)  # noqa: PERF401  what came before the error counts

    with pytest.raises(sessiond.PositionLost) as caught:
        await read()
    assert got == ([4] if any(step == batch(4) for step in LOST[name]) else [])
    assert (caught.value.reason, caught.value.code) == ("POSITION_LOST", "DATA_LOSS")
    with pytest.raises(sessiond.PositionLost):
        await anext(watch)
    assert watch.position == position(4 if got else 3)
    await watch.aclose()


async def test_logs_of_early_servers_name_no_previous_event(client: sessiond.Client, server: ScriptedServer) -> None:
    early, last = event(4), event(6, history="b")
    early.previous_event_id = ""
    server.script.append([snapshot(3), batch(early, 5), batch(last)])
    watch = client.watch("s")
    assert await seqs(watch, 2) == [4, 5]
    with pytest.raises(sessiond.PositionLost):
        await anext(watch)


async def test_filtered_events_need_not_follow(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(6, head=8), batch(9), batch(event(10, history="b"))])
    watch = client.watch("s", types=["message_appended"])
    assert await seqs(watch, 2) == [6, 9]
    with pytest.raises(sessiond.PositionLost):  # but these two would
        await anext(watch)


class Clock:
    """Of the client's patience."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("sessiond.tail._now", lambda: self.now)


async def test_last_error_is_raised_after_give_up_after(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def answer(request: Any) -> Steps:
        clock.now += 25
        return [UNAVAILABLE]

    server.always = answer
    watch = client.watch("s", give_up_after=60)
    for tried in (3, 6):
        with pytest.raises(sessiond.Unavailable):
            await anext(watch)
        assert len(server.seen) == tried
        assert isinstance(watch.last_error, sessiond.Unavailable)
    server.script.append([snapshot(1), batch(2), QUIET])
    assert await seqs(watch, 1) == [2]
    await watch.aclose()


async def test_unreachable_service_is_raised_after_give_up_after(tmp_path: Path) -> None:
    async with sessiond.Client(f"unix:{tmp_path}/nobody") as client:
        with pytest.raises(sessiond.Unavailable):
            await anext(client.watch("s", give_up_after=0.05))


async def test_quiet_stream_does_not_count_as_an_outage(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    late = asyncio.Event()
    server.script.extend([[resumed(1), Wait(late), UNAVAILABLE], [resumed(1), batch(2), QUIET]])
    async with client.watch("s", position=position(1), give_up_after=60) as watch:
        clock.now += 1000
        late.set()
        assert await seqs(watch, 1) == [2]


async def test_streams_that_begin_well_restart_the_count_of_an_outage(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy cuts idle streams repeatedly, each after some time without a connection."""
    clock = Clock(monkeypatch)

    def cut(request: Any) -> Steps:
        clock.now += 40
        return [resumed(1), UNAVAILABLE]

    server.script.extend([*[cut] * 8, [resumed(1), batch(2), QUIET]])
    async with client.watch("s", position=position(1), give_up_after=60) as watch:
        assert await seqs(watch, 1) == [2]
        assert watch.streams == 9


def begun(server: ScriptedServer, watch: sessiond.Watch[sessiond.Event], streams: int) -> bool:
    """Whether so many streams were opened, and the last one has brought its first frame."""
    return len(server.seen) == streams and watch._tail is not None and watch._tail._begun_at is not None


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_cut_idle_streams_do_not_count_as_failures_in_a_row(
    code: grpc.StatusCode, client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    idle = [asyncio.Event() for _ in range(30)]
    cuts: list[Steps] = [[resumed(1), Wait(event), Fail(code)] for event in idle]
    server.script.extend([*cuts, [resumed(1), batch(2), QUIET]])
    async with client.watch("s", position=position(1)) as watch:
        reading = asyncio.ensure_future(anext(watch))
        for number, event_ in enumerate(idle, 1):
            await until(partial(begun, server, watch, number))
            clock.now += 10
            event_.set()
        received = await reading
        assert isinstance(received, sessiond.Event)
        assert received.seq == 2


async def test_shorter_bookmark_interval_is_requested(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([[snapshot(1), QUIET], [of_feed(resumed(1)), QUIET], [snapshot(1), QUIET]])
    async with client.watch("s", bookmark_interval=2.5), client.watch_events(bookmark_interval=1), client.watch("s"):
        asked_for = [seen.request.bookmark_interval.ToMilliseconds() for seen in server.seen]
        assert asked_for == [2500, 1000, 0]
        assert not server.seen[2].request.HasField("bookmark_interval")


async def test_new_event_restarts_the_count_of_an_outage(
    client: sessiond.Client, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)

    def away(request: Any) -> Steps:
        clock.now += 40
        return [UNAVAILABLE]

    def back(request: Any) -> Steps:
        at = int(request.position.removeprefix("after "))
        return [resumed(at), batch(at + 1), UNAVAILABLE]

    server.script.extend([away, back] * 3)
    watch = client.watch("s", position=position(1), give_up_after=60)
    assert await seqs(watch, 3) == [2, 3, 4]
    await watch.aclose()


# The end.


async def test_deletion_of_the_session_ends_the_watch(client: sessiond.Client, server: ScriptedServer) -> None:
    gone = event(9, type=DELETED)
    server.script.append([snapshot(3), batch(4), batch(gone)])
    watch = client.watch("s")
    assert [received.seq async for received in watch] == [4, 9]
    assert watch.position == position(9)
    assert len(server.seen) == 1
    assert [received async for received in watch] == []
    await watch.aclose()


async def test_leaving_the_block_cancels_the_call(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(1), batch(2), QUIET])
    async with client.watch("s") as watch:
        await anext(watch)
    await server.cancelled.wait()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    await watch.aclose()
    client_tasks = {task for task in asyncio.all_tasks() if "server" not in repr(task)} - {asyncio.current_task()}
    assert not client_tasks


async def test_unread_events_are_discarded_when_the_block_is_left(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.append([snapshot(1), batch(2, 3, 4), QUIET])
    async with client.watch("s") as watch:
        await anext(watch)
    assert [received async for received in watch] == []
    assert watch.position == position(1)


async def test_unread_first_frame_is_discarded_when_the_block_is_left(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.append([snapshot(1), QUIET])
    async with client.watch("s") as watch:
        pass
    assert [received async for received in watch] == []
    assert watch.position == ""


async def test_garbage_collected_watch_cancels_its_call(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(1), batch(2), QUIET])
    async for _ in client.watch("s"):
        break
    gc.collect()
    await server.cancelled.wait()


async def test_unread_watch_opens_no_stream(client: sessiond.Client, server: ScriptedServer) -> None:
    client.watch("s")
    watch = client.watch("s")
    await watch.aclose()
    assert [received async for received in watch] == []
    assert not server.seen


async def test_close_from_another_task_ends_the_iteration(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(1), QUIET])
    watch = client.watch("s")

    async def read() -> list[sessiond.Event]:
        return [received async for received in watch]

    reading = asyncio.create_task(read())
    await server.arrived.wait()
    await watch.aclose()
    assert await reading == []


async def test_close_during_a_backoff_ends_the_iteration(server: ScriptedServer) -> None:
    server.always = [failing(server_errors.TooManyWatchers(3600))]
    async with sessiond.Client(server.target) as client:
        watch = client.watch("s")
        reading = asyncio.create_task(anext(watch))
        while watch.last_error is None:  # what sets it is the client's own affair
            await client.get_session("s")
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await reading


async def test_close_of_the_client_ends_the_watch(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(1), batch(2), QUIET])
    watch = client.watch("s")
    await anext(watch)
    reading = asyncio.create_task(anext(watch))
    await asyncio.sleep(0)
    await client.close(grace=60)
    with pytest.raises(sessiond.ClientClosed):
        await reading
    with pytest.raises(sessiond.ClientClosed):
        await anext(watch)


async def test_cancellation_loses_no_event(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([[snapshot(1), batch(2), QUIET], [resumed(2), batch(3), QUIET]])
    async with client.watch("s") as watch:
        assert await seqs(watch, 1) == [2]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await anext(watch)
        assert await seqs(watch, 1) == [3]
    assert asked(server) == ["", position(2)]


async def test_watch_continues_after_cancellations_before_the_connection(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/later"
    async with sessiond.Client(listen, reconnect=RECONNECT) as client:
        watch = client.watch("s")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(watch)
        async with scripted_server(listen) as server:
            server.always = [snapshot(1), batch(2), QUIET]
            assert await seqs(watch, 1) == [2]
            assert len(server.seen) == 1


async def test_second_reader_is_refused(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(1), QUIET])
    async with client.watch("s") as watch:
        reading = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task"):
            await anext(watch)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


# Positions.


async def test_position_follows_processed_frames(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(4, 5), batch(6), bookmark(6), batch(7), QUIET])
    async with client.watch("s") as watch:
        positions = [watch.position]
        for _ in range(4):
            await anext(watch)
            positions.append(watch.position)
        # Never after the event that the caller is at; nor in the midst of a frame.
        assert positions == ["", position(3), position(3), position(5), position(6)]
        watch.ack()
        assert watch.position == position(7)
        watch.ack()
    assert watch.position == position(7)


async def test_ack_within_a_frame_keeps_the_position_before_it(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(4, 5), QUIET])
    async with client.watch("s") as watch:
        await anext(watch)
        watch.ack()
        assert watch.position == position(3)
        await anext(watch)
        watch.ack()
        assert watch.position == position(5)


async def test_frames_yields_whole_frames(client: sessiond.Client, server: ScriptedServer) -> None:
    frames = [snapshot(3), batch(4, 5), bookmark(5), deltas("to", "ken"), batch(4, 5, 6, head=8)]
    server.script.append([*frames, QUIET])
    async with client.watch("s", deltas=True) as watch:
        read = watch.frames()
        got: list[Any] = [await anext(read) for _ in range(5)]
        assert (got[0], got[1]) == (frames[0].snapshot, frames[1].events)
        assert (got[2], got[3]) == (frames[2].bookmark, frames[3].deltas)
        assert [received.seq for received in got[4].events] == [6]
        assert (watch.position, got[4].position, watch.head_seq) == (position(5), position(6), 8)
        watch.ack()
        assert watch.position == position(6)


async def test_frames_omits_resumed(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([[resumed(3), batch(4), UNAVAILABLE], [resumed(4), batch(5), QUIET]])
    async with client.watch("s", position=position(3)) as watch:
        got = [await anext(frames) for frames in itertools.repeat(watch.frames(), 2)]
        assert all(isinstance(frame, sessiond.EventBatch) for frame in got)


async def test_frames_is_refused_while_items_are_left(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), batch(4, 5), QUIET])
    async with client.watch("s") as watch:
        await anext(watch)
        with pytest.raises(RuntimeError, match="items left"):
            await anext(watch.frames())


async def test_requested_deltas_are_yielded_as_items(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([snapshot(3), deltas("to", "ken"), batch(4), QUIET])
    async with client.watch("s", deltas=True) as watch:
        items = [await anext(watch) for _ in range(3)]
        assert [type(item) for item in items] == [sessiond.Delta, sessiond.Delta, sessiond.Event]
        assert watch.position == position(3)
    assert server.seen[0].request.deltas


async def test_seq_head_seq_and_caught_up_follow_the_stream(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append([resumed(3, head=6), batch(4, head=6), batch(5, head=7), batch(6, 7), QUIET])
    async with client.watch("s", position=position(3)) as watch:
        told = [(watch.seq, watch.head_seq, watch.caught_up)]
        for _ in range(3):
            await anext(watch)
            told.append((watch.seq, watch.head_seq, watch.caught_up))
    assert told == [(0, 6, False), (4, 6, False), (5, 7, False), (7, 7, True)]


async def test_bookmark_sets_caught_up_and_a_newer_head_clears_it(
    client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.append([resumed(3), bookmark(3), batch(4, head=9), QUIET])
    async with client.watch("s", position=position(3)) as watch:
        frames = watch.frames()
        assert not watch.caught_up
        await anext(frames)
        assert watch.caught_up
        await anext(frames)
        assert not watch.caught_up


# Bounds.


async def test_a_slow_reader_holds_one_frame(client: sessiond.Client, server: ScriptedServer) -> None:
    """Frames that were not requested stay in the transport, whose window bounds them."""
    large = "x" * 1_000_000
    sent = 0

    async def flood() -> AsyncIterator[Message]:
        nonlocal sent
        for seq in itertools.count(2):
            padded = event(seq)
            padded.message.parts.add(text=large)
            yield batch(padded)
            sent += 1

    server.script.append([snapshot(1), flood()])
    async with client.watch("s") as watch:
        assert await seqs(watch, 1) == [2]
        await client.get_session("s")
        before = sent
        for _ in range(50):
            await client.get_session("s")
        assert sent - before < 50
        assert sent < 60
        assert await seqs(watch, 3) == [3, 4, 5]


async def test_watches_beyond_one_connection_open_another(server: ScriptedServer) -> None:
    server.always = [snapshot(1), batch(2), QUIET]
    async with sessiond.Client(server.target) as client:
        watches = [client.watch("s") for _ in range(250)]
        for watch in watches:
            assert await seqs(watch, 1) == [2]
        await client.get_session("s")
        assert len({seen.peer for seen in server.seen}) == 4
        for watch in watches[:100]:
            await watch.aclose()
        del watches[100:200], watch
        gc.collect()
        again = [client.watch("s") for _ in range(200)]
        for watch in again:
            assert await seqs(watch, 1) == [2]
        assert len({seen.peer for seen in server.seen}) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda client: client.watch("s", idle_timeout=0),
        lambda client: client.watch("s", give_up_after=0),
        lambda client: client.watch("s", types=["no such thing"]),
        lambda client: client.watch("s", store=sessiond.FilePositions("f"), position="p"),
        lambda client: client.watch("s", store=sessiond.FilePositions("f"), save_events=0),
        lambda client: client.watch("s", store=sessiond.FilePositions("f"), save_seconds=0),
        lambda client: sessiond.Reconnect(initial_backoff=0),
        lambda client: sessiond.Reconnect(max_backoff=-1),
        lambda client: sessiond.Reconnect(bookmark_interval=0.9),
        lambda client: client.watch("s", bookmark_interval=0),
        lambda client: client.watch_events(bookmark_interval=0.5),
    ],
)
async def test_arguments_out_of_bounds_are_refused(make: Any, client: sessiond.Client) -> None:
    with pytest.raises(ValueError, match=r"must|comes"):
        make(client)
