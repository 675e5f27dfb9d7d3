"""How the server starts, reports its health, and stops."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sessiond.v1 import session_service_pb2 as s
from sessiond_server.auth import Authenticator
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.domain.rows import Policy
from sessiond_server.events.announcer import Announcer
from sessiond_server.events.hub import EventHub
from sessiond_server.exports.receiving import Imports
from sessiond_server.memory.blobs import MemoryBlobs
from sessiond_server.memory.bus import MemoryBus
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc.routing import Database, Reads
from sessiond_server.rpc.server import PIPE, SERVICES, RpcServer
from sessiond_server.rpc.wire_settings import WireSettings
from tests.support.held_store import Holding
from tests.support.waiting import until
from tests.support.wire import DirectWriter, Failure, Wire, serving

READ = s.GetSessionRequest(session_id="s")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = [
    "",
    *(
        f"sessiond.v1.{name}Service"
        for name in (
            "Session",
            "Message",
            "Run",
            "ToolCall",
            "Event",
            "Attachment",
            "Document",
            "Context",
            "Search",
            "Usage",
            "Template",
            "Export",
            "Retention",
            "Pipe",
        )
    ),
]


async def health(wire: Wire, service: str = "") -> Any:
    """Asked without a key."""
    stub: Any = health_pb2_grpc.HealthStub(wire.channel)
    return (await stub.Check(HealthCheckRequest(service=service), timeout=20)).status


def test_every_service_is_known_to_health() -> None:
    assert NAMES[1:] == [service.full_name for service in (*SERVICES, PIPE)]


@pytest.mark.parametrize("service", NAMES)
async def test_health_is_not_serving_until_opened_and_follows_status_changes(service: str) -> None:
    async with serving(ready=False) as wire:
        assert await health(wire, service) == NOT_SERVING
        await wire.server.open(bytes(32))
        assert await health(wire, service) == SERVING
        await wire.server.set_serving(False)
        assert await health(wire, service) == NOT_SERVING


async def test_health_of_an_unknown_service_is_not_found(wire: Wire) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(wire, "sessiond.v1.Nothing")
    assert caught.value.code() is StatusCode.NOT_FOUND


async def test_a_watch_of_health_sees_the_drain_and_does_not_hold_it_up() -> None:
    async with serving(drain_pause=0.05, grace=600.0) as wire:
        await wire.server.set_serving(True)
        stub: Any = health_pb2_grpc.HealthStub(wire.channel)
        watch = stub.Watch(HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await wire.server.stop()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_the_pause_of_a_drain_still_serves() -> None:
    async with serving(drain_pause=600.0) as wire:
        await wire.server.set_serving(True)
        stopping = asyncio.create_task(wire.server.stop())
        while await health(wire) == SERVING:
            pass
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0
        await wire.server.set_serving(True)
        assert await health(wire) == NOT_SERVING
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping


async def test_stopping_waits_for_calls_in_progress_and_refuses_new_ones() -> None:
    store = Holding()
    async with serving(store, grace=600.0) as wire:
        held = wire.start("GetSession", READ)
        await store.entered.wait()
        stopping = asyncio.create_task(wire.server.stop())
        while (failure := await refused(wire)) is None:
            pass
        # CANCELLED: grpc's core had taken the call and not yet handed it over when it was told to stop.
        # DEADLINE_EXCEEDED: it took the call while it was told to, and has lost it (decision 14).
        assert failure.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED)
        assert not stopping.done()
        store.go.set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await held
        assert Failure.of(caught.value).reason == "SESSION_NOT_FOUND"
        await stopping


async def refused(wire: Wire) -> Failure | None:
    try:
        await wire.call("CountSessions", s.CountSessionsRequest(), timeout=1.0)
    except Failure as failure:
        return failure
    return None


async def test_calls_that_outlast_the_grace_are_cancelled() -> None:
    store = Holding()
    async with serving(store, grace=0.05) as wire:
        held = wire.start("GetSession", READ)
        await store.entered.wait()
        await wire.server.stop()
        assert store.abandoned.is_set()
        with pytest.raises(grpc.aio.AioRpcError):
            await held


async def test_stopping_twice_and_together_is_stopping_once() -> None:
    async with serving() as wire:
        await asyncio.gather(*(wire.server.stop() for _ in range(3)))
        await wire.server.stop()
        assert (await wire.failure("CountSessions", s.CountSessionsRequest())).code is StatusCode.UNAVAILABLE


def unstarted(settings: WireSettings) -> RpcServer:
    store, bus, blobs = MemoryStore(), MemoryBus(), MemoryBlobs()
    files = AttachmentAccess(store.attachments, Uploads(store.attachments, blobs), Downloads(store.attachments, blobs))
    beside = (store.documents, store.forks, store.erasures, store.usage, store.retention, store.templates)
    reads = Reads(store, store, store, store, store, *beside, store.search, None)
    hub = EventHub(store, bus)
    imports = Imports(store.imports, store, store, blobs, Announcer(hub, bus), Policy())
    database = Database("default", reads, DirectWriter(store), hub, bus, files, imports)
    return RpcServer([database], Authenticator(), settings)


async def test_a_server_that_never_started_can_be_stopped() -> None:
    server = unstarted(WireSettings())
    await server.stop()
    assert server.calls == 0


async def test_calls_are_refused_until_the_server_is_opened() -> None:
    async with serving(ready=False) as wire:
        failure = await wire.failure("CountSessions", s.CountSessionsRequest())
        assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "STARTING")
        await wire.server.open(bytes(32))
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


async def test_start_on_a_taken_port_fails() -> None:
    async with serving() as wire:
        with pytest.raises(RuntimeError):
            await unstarted(WireSettings(listen=f"127.0.0.1:{wire.port}")).start()


async def test_a_port_is_free_again_after_stopping() -> None:
    async with serving() as wire:
        await wire.server.stop()
        async with serving(listen=f"127.0.0.1:{wire.port}") as again:
            assert (await again.call("CountSessions", s.CountSessionsRequest())).count == 0


async def listed_services(wire: Wire) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(wire.channel)  # type: ignore[arg-type]  # the stubs know one kind of channel
    stream = stub.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await stream.done_writing()
    answer = await stream.read()
    return sorted(service.name for service in answer.list_services_response.service)


async def test_reflection_lists_the_services_when_asked_for() -> None:
    async with serving(reflection=True) as wire:
        assert await listed_services(wire) == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            *sorted(service.full_name for service in (*SERVICES, PIPE)),
        ]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_finds_services_methods_messages_and_fields(version: str) -> None:
    async with serving(reflection=True) as wire:
        call: Any = wire.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")()
        for symbol, file in {
            "sessiond.v1.SessionService": "sessiond/v1/session_service.proto",
            "sessiond.v1.SessionService.CreateSession": "sessiond/v1/session_service.proto",
            "sessiond.v1.Session": "sessiond/v1/session.proto",
            "sessiond.v1.Session.session_id": "sessiond/v1/session.proto",
            "sessiond.v1.SessionService.Absent": "",
            "sessiond.v1.Absent.Absent": "",
            "Absent": "",
            f"grpc.reflection.{version}.ServerReflection": f"grpc_reflection/{version}/reflection.proto",
            f"grpc.reflection.{version}.ServerReflection.ServerReflectionInfo": (
                f"grpc_reflection/{version}/reflection.proto"
            ),
        }.items():
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol).SerializeToString())
            answer = reflection_pb2.ServerReflectionResponse.FromString(await call.read())
            found = [
                FileDescriptorProto.FromString(data).name
                for data in answer.file_descriptor_response.file_descriptor_proto
            ]
            assert (file in found) if file else (answer.error_response.error_code == 5 and not found), symbol
        await call.done_writing()


async def test_reflection_is_off_by_default(wire: Wire) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(wire.channel)  # type: ignore[arg-type]  # as above
    # Nothing is written: grpc answers INTERNAL in place of a refusal that overtakes a message.
    assert await stub.ServerReflectionInfo().code() is StatusCode.UNIMPLEMENTED


async def test_count_of_open_calls_returns_to_zero(wire: Wire) -> None:
    await wire.failure("GetSession", READ)
    await wire.failure("GetSession", b"\xff")
    await until(lambda: wire.server.calls == 0)
