"""What one tenant can take while another wants some."""

import asyncio
import hashlib
from contextlib import AsyncExitStack

import pytest

from sessiond.v1.attachment_service_pb2 import UploadAttachmentRequest, UploadHeader
from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.message_pb2 import Message, Part, Role
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.session_service_pb2 import CountSessionsRequest, GetSessionRequest, SessionFilter
from sessiond_server.domain.commands import Scope
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc import elements
from tests.support.hostile_target import Target
from tests.support.raw_http2 import message, raw_client, statuses
from tests.support.waiting import until
from tests.support.wire import OTHER_TENANT, TENANT, serving

COUNT = "/sessiond.v1.SessionService/CountSessions"
GET = "/sessiond.v1.SessionService/GetSession"
APPEND = "/sessiond.v1.MessageService/AppendMessages"
UPLOAD = "/sessiond.v1.AttachmentService/UploadAttachment"
WATCH = "/sessiond.v1.EventService/WatchSession"
MIB = 1024 * 1024
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED = 3, 4, 5, 8


@pytest.mark.long
async def test_partial_messages_hold_bounded_memory_and_do_not_stop_another_tenant(target: Target) -> None:
    before = target.resident_mib()
    async with raw_client(target.port) as raw, target.other() as quiet:
        for _ in range(200):
            raw.open(APPEND, target.key, message(bytes(4 * MIB), length=8 * MIB))
        await raw.flush()
        for _ in range(5):
            await quiet.count_sessions()
        assert target.resident_mib(highest=True) - before < 400


async def test_request_that_arrives_a_byte_at_a_time_gives_way_to_others_and_only_to_them() -> None:
    patience = 0.05
    whole = message(GetSessionRequest(session_id="s" * 100).SerializeToString())
    async with serving(most_reading=1, reading_patience=patience) as wire, raw_client(wire.port) as raw:
        await wire.create("s", key=OTHER_TENANT)

        async def dripped(others_wait: bool) -> tuple[int | None, float]:
            """The status, and how long it took."""
            began = asyncio.get_running_loop().time()
            call = raw.open(GET, TENANT)
            (number,) = (number for number, stream in raw.streams.items() if stream is call)
            rest = bytearray(whole)

            async def ended() -> bool:
                # The last byte is kept back from a call that is to give way.
                if len(rest) > others_wait and not call.ended:
                    raw.h2.send_data(number, bytes((rest.pop(0),)), end_stream=not rest)
                    await raw.flush()
                return call.ended

            if others_wait:
                await raw.flush()
                await until(lambda: wire.server.calls == 1)
                other = wire.start("GetSession", GetSessionRequest(session_id="s"), key=OTHER_TENANT)
            await until(ended)
            if others_wait:
                await other
            return call.status, asyncio.get_running_loop().time() - began

        status, seconds = await dripped(others_wait=False)
        assert (status, seconds > patience) == (NOT_FOUND, True)
        status, seconds = await dripped(others_wait=True)
        assert (status, seconds > patience) == (DEADLINE_EXCEEDED, True)


@pytest.mark.long
async def test_uploads_without_a_header_stop_no_unary_call(target: Target) -> None:
    async with target.other() as quiet, AsyncExitStack() as stack:
        session = await quiet.create_session(active=True)
        for _ in range(3):
            raw = await stack.enter_async_context(raw_client(target.port))
            uploads = [raw.open(UPLOAD, target.key) for _ in range(1500)]
            await raw.flush()
        await until(lambda: RESOURCE_EXHAUSTED in statuses(uploads))
        for _ in range(5):
            await quiet.get_session(session.session_id)
        await quiet.upload(session.session_id, b"content", name="a.txt")


async def test_slow_uploads_leave_places_to_another_tenant(target: Target) -> None:
    async with target.other() as quiet, raw_client(target.port) as raw:
        session = await quiet.create_session(active=True)
        header = UploadHeader(session_id="s", name="a", size_bytes=100, sha256=hashlib.sha256(b"").digest())
        data = message(UploadAttachmentRequest(header=header).SerializeToString())
        uploads = [raw.open(UPLOAD, target.key, data) for _ in range(64)]
        await raw.flush()
        await until(lambda: RESOURCE_EXHAUSTED in statuses(uploads) or any(each.ended for each in uploads))
        await quiet.upload(session.session_id, b"content", name="a.txt")


async def test_requests_of_tiny_elements_are_refused_before_they_are_parsed(target: Target) -> None:
    before = target.resident_mib()
    empty = b"\x12\x00" * (2 * MIB - 100)
    nested = AppendMessagesRequest(messages=[Message(parts=[Part()] * 500_000)]).SerializeToString()
    async with raw_client(target.port) as raw, target.other() as quiet:
        calls = [raw.open(APPEND, target.key, message(data), end=True) for data in (empty, nested) * 2]
        await raw.flush()
        await until(lambda: all(call.ended for call in calls))
        assert set(statuses(calls)) == {INVALID_ARGUMENT}
        assert all(str(elements.MOST) in call.headers["grpc-message"] for call in calls)
        await quiet.count_sessions()
        assert target.resident_mib(highest=True) - before < 150


async def test_watchers_that_take_nothing_hold_bounded_memory_and_leave_no_traceback(target: Target) -> None:
    loud = target.other()
    async with loud as client:
        session = await client.create_session(active=True)
        for _ in range(3):
            await client.append_messages(
                session.session_id, [Message(role=Role.ROLE_USER, parts=[Part(text="x" * 900_000)])]
            )
        before = target.resident_mib()
        request = WatchSessionRequest(session_id=session.session_id, from_beginning=True).SerializeToString()
        async with AsyncExitStack() as stack:
            raws = [await stack.enter_async_context(raw_client(target.port, window=10)) for _ in range(4)]
            for raw in raws:
                for _ in range(200):
                    raw.open(WATCH, target.other_key, message(request), end=True)
                await raw.flush()
            # Sent away, or refused for want of room: either way no handler is left.
            await target.server.until_metric("sessiond_watchers", 0)
            assert target.resident_mib(highest=True) - before < 600
        await client.get_session(session.session_id)
    log = target.server.log.read_text()
    assert "Traceback" not in log
    assert log.count("  File ") == 0


class Slow(MemoryStore):
    """Its counts wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.counting: list[str] = []

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        self.counting.append(scope.tenant_id)
        await self.go.wait()
        return await super().count_sessions(scope, where)


async def test_searches_of_one_tenant_leave_the_store_to_others() -> None:
    store = Slow()
    async with serving(store, most_searches=5) as wire:
        await wire.create("s", key=OTHER_TENANT)
        filtered = CountSessionsRequest(filter=SessionFilter(name_contains="a"))
        searches = [wire.start("CountSessions", filtered, key=TENANT) for _ in range(180)]
        await until(lambda: wire.server.calls == 180)
        other = wire.start("CountSessions", filtered, key=OTHER_TENANT)
        await until(lambda: "globex" in store.counting)
        assert store.counting.count("acme") <= 4
        await wire.call("GetSession", GetSessionRequest(session_id="s"), key=OTHER_TENANT)
        store.go.set()
        await asyncio.gather(other, *searches)


async def test_lone_call_does_not_wait_behind_all_calls_of_another_tenant() -> None:
    async with serving() as wire, AsyncExitStack() as stack:
        await wire.create("s", key=OTHER_TENANT)
        get = message(GetSessionRequest(session_id="s").SerializeToString())
        raws = [await stack.enter_async_context(raw_client(wire.port)) for _ in range(4)]
        under_way = {raw: [raw.open(GET, TENANT, get, end=True) for _ in range(160)] for raw in raws}
        ended = 0
        stopped = False

        async def go_on() -> bool:
            """Another call for each that has ended."""
            nonlocal ended
            for raw, calls in under_way.items():
                left = [call for call in calls if not call.ended]
                ended += len(calls) - len(left)
                under_way[raw] = left + [raw.open(GET, TENANT, get, end=True) for _ in range(160 - len(left))]
                await raw.flush()
            return stopped

        load = asyncio.create_task(until(go_on))
        overtaken = []
        try:
            await until(lambda: wire.server.calls > 500)
            for _ in range(5):
                before = ended
                await wire.call("GetSession", GetSessionRequest(session_id="s"), key=OTHER_TENANT)
                overtaken.append(ended - before)
        finally:
            stopped = True
            await load
        assert sorted(overtaken)[2] < 320, "calls in progress go before it, and not those that wait"
