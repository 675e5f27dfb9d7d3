"""Streams that the server ends: drained, too old, too slow, half open. No event is lost and no resource is kept."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from sessiond.v1 import event_service_pb2 as e
from sessiond.v1 import session_service_pb2 as s
from sessiond_server.events.limits import HubLimits
from sessiond_server.memory.store import MemoryStore
from tests.support.proxy import Proxy
from tests.support.waiting import until
from tests.support.wire import Failure, Watch, Wire, serving

LARGE = "x" * 900_000
QUICK = HubLimits(poll=0.02, fast_poll=0.02, bookmark=0.02)


def watch(wire: Wire, position: str = "", session_id: str = "s", channel: grpc.aio.Channel | None = None) -> Watch:
    """Without a deadline: it would end what the test is about."""
    request = e.WatchSessionRequest(session_id=session_id, position=position)
    return wire.watch("WatchSession", request, channel=channel, timeout=None)


def watch_feed(wire: Wire, position: str = "") -> Watch:
    return wire.watch("WatchEvents", e.WatchEventsRequest(position=position))


async def read_events(watcher: Watch, last: int) -> list[int]:
    """The `seq` of all events up to that one."""
    found: list[int] = []
    while not found or found[-1] < last:
        found += [event.seq for event in (await watcher.read()).events.events]
    return found


@asynccontextmanager
async def channel_to(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own that takes no more than 64 KiB of what its application has not read."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 65_536),
    ]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


async def went_away(watcher: Watch) -> str:
    """The position of the GoingAway that is next, with the status behind it."""
    position: str = (await watcher.read()).going_away.position
    assert position
    with pytest.raises(Failure) as caught:
        await watcher.read()
    assert (caught.value.code, caught.value.reason) == (StatusCode.UNAVAILABLE, "DRAINING")
    return position


async def test_drain_sends_going_away_with_a_position_to_every_watcher() -> None:
    store = MemoryStore()
    async with serving(store, grace=600.0) as wire:
        await wire.create("s")
        watchers = [watch(wire) for _ in range(5)]
        feed = watch_feed(wire)
        for watcher in (*watchers, feed):
            await watcher.read()
        await wire.append("s", "one")
        assert [await read_events(watcher, 2) for watcher in (*watchers, feed)] == [[2]] * 6
        await wire.server.stop()
        positions = {await went_away(watcher) for watcher in watchers}
        assert len(positions) == 1
        feeds = await went_away(feed)
        assert wire.server.calls == 0
    async with serving(store) as other:
        await other.append("s", "two")
        for again in (watch(other, positions.pop()), watch_feed(other, feeds)):
            assert (await again.read()).HasField("resumed")
            assert await read_events(again, 3) == [3]


async def test_the_pause_of_a_drain_still_takes_watchers() -> None:
    async with serving(drain_pause=600.0, grace=600.0) as wire:
        await wire.create("s")
        before = watch(wire)
        assert (await before.read()).HasField("snapshot")
        stopping = asyncio.create_task(wire.server.stop())
        await asyncio.sleep(0)
        after = watch(wire)
        assert (await after.read()).HasField("snapshot")
        await wire.append("s", "one")
        assert [await read_events(watcher, 2) for watcher in (before, after)] == [[2], [2]]
        stopping.cancel()
        for watcher in (before, after):
            await went_away(watcher)
        await asyncio.gather(stopping, return_exceptions=True)


async def test_stream_ends_at_its_maximum_age_and_resumes_at_the_same_server() -> None:
    async with serving(watch_age=0.05) as wire:
        await wire.create("s")
        watcher = watch(wire)
        position = (await watcher.read()).snapshot.position
        assert await went_away(watcher) == position
        again = watch(wire, position)
        assert (await again.read()).HasField("resumed")


async def test_watcher_that_does_not_read_is_disconnected_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its connection works, but its application does not read."""
    caplog.set_level(logging.INFO, "sessiond.access")
    async with serving(watch_write_timeout=0.3) as wire, channel_to(wire.port) as channel:
        for session_id in ("s", "other"):
            await wire.create(session_id)
        slow, well, besides = (
            watch(wire, channel=channel),
            watch(wire),
            watch(wire, session_id="other", channel=channel),
        )
        for watcher in (slow, well, besides):
            assert (await watcher.read()).HasField("snapshot")
        for number in range(4):
            await wire.append("s", LARGE)
            assert await read_events(well, 2 + number) == [2 + number]
        # Neither the call nor its stream is left, though its status waits in the transport.
        await until(lambda: wire.server.calls == 2)
        assert wire.hub.state().streams == 2
        await wire.append("other", "small")
        assert await read_events(besides, 2) == [2], "the connection serves its other streams"

        found, failure = [], None
        try:
            while True:
                found += [event.seq for event in (await slow.read()).events.events]
        except Failure as caught:
            failure = caught
        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) == 1000
        again = watch(wire, failure.metadata["position"], channel=channel)
        assert (await again.read()).HasField("resumed")
        rest = await read_events(again, 5)
        # The frame that was being written arrives, and comes again: the client drops what it has.
        assert found == list(range(2, 2 + len(found)))
        assert rest == list(range(rest[0], 6))
        assert rest[0] <= 2 + len(found)
    records: list[Any] = [record for record in caplog.records if record.name == "sessiond.access"]
    assert [record.reason for record in records if record.code == "RESOURCE_EXHAUSTED"] == ["WATCHER_TOO_SLOW"]
    assert "xxxx" not in caplog.text


async def test_stalled_peer_is_disconnected() -> None:
    """No bytes pass in either direction, as when a machine has vanished or a process is stopped."""
    async with (
        serving(watch_write_timeout=0.3, keepalive_time=1.0, keepalive_timeout=1.0) as wire,
        Proxy("127.0.0.1", wire.port) as proxy,
        channel_to(proxy.port) as channel,
    ):
        await wire.create("s")
        stalled, well = watch(wire, channel=channel), watch(wire)
        for watcher in (stalled, well):
            assert (await watcher.read()).HasField("snapshot")
        proxy.stall()
        for number in range(3):
            await wire.append("s", LARGE)
            assert await read_events(well, 2 + number) == [2 + number]
        await until(lambda: wire.server.calls == 1)
        assert wire.hub.state().streams == 1


async def test_a_half_open_connection_of_an_idle_watcher_ends_by_keepalive() -> None:
    async with (
        serving(keepalive_time=0.5, keepalive_timeout=0.5) as wire,
        Proxy("127.0.0.1", wire.port) as proxy,
        channel_to(proxy.port) as channel,
    ):
        await wire.create("s")
        idle, well = watch(wire, channel=channel), watch(wire)
        for watcher in (idle, well):
            assert (await watcher.read()).HasField("snapshot")
        proxy.stall()
        await until(lambda: wire.server.calls == 1)
        assert wire.hub.state().streams == 1


async def test_drain_waits_for_watchers_that_do_not_read_no_longer_than_the_grace() -> None:
    async with serving(grace=0.3) as wire, channel_to(wire.port) as channel:
        await wire.create("s")
        stuck = watch(wire, channel=channel)
        assert (await stuck.read()).HasField("snapshot")
        for _ in range(3):
            await wire.append("s", LARGE)
        await wire.server.stop()
        await until(lambda: wire.server.calls == 0)


async def test_drain_does_not_wait_for_answers_that_are_not_read() -> None:
    """Nothing is in progress any more: what is left in the transport gets a moment, not the grace. The same holds for a
    call that grpc has lost, of which only its client knows."""
    async with serving(grace=600.0, flush=0.1, watch_write_timeout=0.1) as wire, channel_to(wire.port) as channel:
        await wire.create("s")
        stuck = watch(wire, channel=channel)
        assert (await stuck.read()).HasField("snapshot")
        for _ in range(3):
            await wire.append("s", LARGE)
        await until(lambda: wire.server.calls == 0)
        await wire.server.stop()


async def test_a_stream_is_recorded_once_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessiond.access")
    async with serving(limits=QUICK) as wire:
        await wire.create("s", name="name-of-it")
        watcher, gone = watch(wire), watch(wire)
        for one in (watcher, gone):
            assert (await one.read()).HasField("snapshot")
        await wire.append("s", "content-of-it")
        assert await read_events(watcher, 2) == [2]
        gone.cancel()
        await until(lambda: wire.server.calls == 1)
        await wire.call("DeleteSession", s.DeleteSessionRequest(session_id="s"))
        assert await read_events(watcher, 3) == [3]
        assert await watcher.read() is None
        await until(lambda: wire.server.calls == 0)
    records: list[Any] = [record for record in caplog.records if record.name == "sessiond.access"]
    ends = [(record.code, record.reason) for record in records if record.method.endswith("WatchSession")]
    assert ends == [("CANCELLED", ""), ("OK", "")]
    assert all(record.response_bytes > 0 for record in records if record.method.endswith("WatchSession"))
    assert "name-of-it" not in caplog.text
    assert "content-of-it" not in caplog.text


async def test_watchers_that_leave_during_a_write_end_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Their writes fail before grpc knows why, are cancelled, or have succeeded; all cases end the same way."""
    caplog.set_level(logging.INFO)
    # However slow the machine: none of them is slow.
    async with serving(watch_write_timeout=600.0) as wire:
        await wire.create("s")
        for _ in range(8):
            await wire.append("s", LARGE)
        request = e.WatchSessionRequest(session_id="s", from_beginning=True)
        for _ in range(6):
            async with channel_to(wire.port) as channel:
                watchers = [wire.watch("WatchSession", request, channel=channel, timeout=None) for _ in range(5)]
                for watcher in watchers:
                    assert (await watcher.read()).HasField("resumed")
        await until(lambda: wire.server.calls == 0)
        assert wire.hub.state().streams == 0
    ends = [record for record in caplog.records if getattr(record, "method", "").endswith("WatchSession")]
    assert [record.__dict__["code"] for record in ends] == ["CANCELLED"] * 30
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
