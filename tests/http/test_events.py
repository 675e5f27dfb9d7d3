"""Streams of events by HTTP: what is sent, where they resume, and how they end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sessiond_server.rpc.loopback import CallFailed, Loopback
from tests.support.waiting import until
from tests.support.web import Reader, Web, opened_web
from tests.support.wire import ALICE, OTHER_TENANT


async def seqs(reader: Reader, last: int) -> list[int]:
    """Of the events up to that one."""
    found: list[int] = []
    while not found or found[-1] < last:
        batch = await reader.until("events")
        found += [int(event["seq"]) for event in batch.data["events"]]
    return found


async def test_stream_begins_with_the_session_and_goes_on_with_events(web: Web) -> None:
    await web.wire.create("s")
    async with web.events("/v1/sessions/s/events") as reader:
        assert reader.response.headers["content-type"] == "text/event-stream"
        assert reader.response.headers["cache-control"] == "no-store"
        first = await reader.read()
        assert first is not None
        assert (first.event, first.data["session"]["version"]) == ("snapshot", "1")
        assert 500 <= reader.retry <= 1500
        await web.wire.append("s", "one")
        batch = await reader.until("events")
        assert batch.data["events"][0]["message"]["parts"] == [{"text": "one"}]
        assert batch.id == batch.data["position"]
        assert batch.id != first.id


async def test_stream_resumes_where_it_was(web: Web) -> None:
    await web.wire.create("s")
    await web.wire.append("s", *map(str, range(9)))
    async with web.events("/v1/sessions/s/events?start=FEED_START_BEGINNING") as reader:
        assert (await reader.read()).event == "resumed"  # type: ignore[union-attr]
        first = await reader.until("events")
    await web.wire.append("s", "more")
    expected = list(range(int(first.data["events"][-1]["seq"]) + 1, 12))
    # A browser's header counts more than the parameter of the address that it was made with.
    for url, headers in (
        (f"/v1/sessions/s/events?position={first.id}", {}),
        ("/v1/sessions/s/events", {"last_event_id": first.id}),
        ("/v1/sessions/s/events?position=old&start=FEED_START_BEGINNING", {"last_event_id": first.id}),
    ):
        async with web.events(url, **headers) as reader:
            resumed = await reader.read()
            assert resumed is not None
            assert resumed.event == "resumed"
            assert await seqs(reader, 11) == expected


async def test_feed_of_the_tenant_is_filtered_by_parameters(web: Web) -> None:
    async with web.events("/v1/events?user_id=ann&types=EVENT_TYPE_SESSION_CREATED") as reader:
        assert (await reader.read()).event == "resumed"  # type: ignore[union-attr]
        await web.wire.create("b", user_id="bob")
        await web.wire.create("a", user_id="ann")
        batch = await reader.until("events")
        assert [event["session_id"] for event in batch.data["events"]] == ["a"]


async def test_deltas_come_to_those_who_ask(web: Web) -> None:
    await web.wire.create("s")
    async with (
        web.events("/v1/sessions/s/events?deltas=true") as asking,
        web.events("/v1/sessions/s/events") as other,
    ):
        await asking.until("snapshot")
        await other.until("snapshot")
        body = {"deltas": [{"message_id": "m", "text": "so"}]}
        assert (await web.post("/v1/sessions/s/deltas", body)).json() == {}
        found = await asking.until("deltas")
        assert found.data["deltas"] == [{"message_id": "m", "text": "so"}]
        await web.wire.append("s", "done")
        following = await other.read()
        assert following is not None
        assert following.event == "events"


async def test_stream_that_cannot_begin_has_a_status(web: Web) -> None:
    await web.wire.create("s", user_id="bob")
    for url, headers, code, reason in (
        ("/v1/sessions/none/events", {}, 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/s/events", {"authorization": f"Bearer {OTHER_TENANT}"}, 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/s/events", {"authorization": f"Bearer {ALICE}"}, 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/s/events?position=x", {}, 400, "INVALID_POSITION"),
        ("/v1/sessions/s/events", {"last_event_id": "x"}, 400, "INVALID_POSITION"),
        ("/v1/sessions/s/events?deltas=yes", {}, 400, "INVALID_FIELD"),
        ("/v1/sessions/s/events", {"authorization": "Bearer no"}, 401, "UNAUTHENTICATED"),
    ):
        async with web.events(url, **headers) as reader:
            assert (reader.response.status_code, reader.response.json()["reason"]) == (code, reason), url


async def test_event_source_comes_back_to_a_server_that_is_starting(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def starting(*_: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        async def frames() -> AsyncIterator[bytes]:
            raise CallFailed("UNAVAILABLE", "the service is starting", b"")
            yield b""

        yield frames()

    monkeypatch.setattr(Loopback, "stream", starting)
    async with web.events("/v1/sessions/s/events", accept="text/event-stream") as reader:
        assert reader.response.status_code == 200
        end = await reader.read()
        assert end is not None
        assert (end.event, end.id, end.data["reason"], end.data["come_back"]) == ("end", "", "UNAVAILABLE", True)
        assert 500 <= reader.retry <= 1500
        assert await reader.read() is None
    async with web.events("/v1/sessions/s/events") as other:
        assert other.response.status_code == 503


async def test_deletion_ends_the_stream_for_good(web: Web) -> None:
    await web.wire.create("s")
    async with web.events("/v1/sessions/s/events") as reader:
        await reader.until("snapshot")
        assert (await web.client.delete("/v1/sessions/s")).status_code == 200
        last = await reader.until("events")
        assert last.data["events"][-1]["type"] == "EVENT_TYPE_SESSION_DELETED"
        end = await reader.until("end")
        assert (end.data["reason"], end.data["come_back"]) == ("SESSION_DELETED", False)
        assert await reader.read() is None


async def test_silent_stream_has_bookmarks_and_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond_server.http.events.HEARTBEAT", 0.02)
    async with opened_web() as web:
        await web.wire.create("s")
        async with web.events("/v1/sessions/s/events?bookmark_interval=1s") as reader:
            await reader.until("snapshot")
            bookmark = await reader.until("bookmark")
            assert bookmark.comments
            assert bookmark.id


async def test_reader_that_leaves_ends_the_call_and_no_run(web: Web) -> None:
    await web.wire.create("s")
    run = (await web.post("/v1/sessions/s/runs", {"run": {"run_id": "r"}})).json()
    async with web.events("/v1/sessions/s/events") as reader:
        await reader.until("snapshot")
        assert web.wire.hub.state().streams == 1
    await until(lambda: web.wire.hub.state().streams == 0)
    assert (await web.get("/v1/sessions/s/runs/r")).json() == run


async def test_reader_that_receives_nothing_is_disconnected() -> None:
    async with opened_web(write_timeout=0.2) as web:
        await web.wire.create("s")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", web.port))
            head = b"GET /v1/sessions/s/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key\r\n\r\n"
            await loop.sock_sendall(slow, head)
            await until(lambda: web.wire.hub.state().streams == 1)
            for _ in range(16):
                await web.wire.append("s", "x" * 500_000)
            await until(lambda: web.wire.hub.state().streams == 0)


async def test_many_streams_share_connections_and_all_get_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond_server.rpc.loopback.STREAMS", 3)
    async with opened_web() as web:
        await web.wire.create("s")

        async def read() -> Any:
            async with web.events("/v1/sessions/s/events") as reader:
                await reader.until("snapshot")
                begun.release()
                return (await reader.until("events")).data["events"][0]["message"]["parts"]

        begun = asyncio.Semaphore(0)
        reading = [asyncio.create_task(read()) for _ in range(10)]
        for _ in reading:
            await begun.acquire()
        await web.wire.append("s", "to all")
        assert await asyncio.gather(*reading) == [[{"text": "to all"}]] * 10


async def test_stream_without_room_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond_server.http.door.MOST_UNSENT", 10_000)
    async with opened_web() as web:
        await web.wire.create("s")
        await web.wire.append("s", "x" * 20_000)
        head = b"Host: x\r\nAuthorization: Bearer acme-key\r\n\r\n"
        got = await web.raw(b"GET /v1/sessions/s/events?start=FEED_START_BEGINNING HTTP/1.1\r\n" + head)
        assert b"event: resumed" in got
        assert b"event: events" not in got
        assert not got.endswith(b"0\r\n\r\n"), "the body ends as if it were complete"
