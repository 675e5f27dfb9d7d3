"""The interceptors around all four kinds of RPC, on a service made for the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode

from sessiond_server.auth import SESSIONS_READ, Authenticator
from sessiond_server.domain.shares import Shares
from sessiond_server.errors import SessionNotFound, Starting
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.interceptors.access_log import AccessLog
from sessiond_server.rpc.interceptors.admission import Admission
from sessiond_server.rpc.interceptors.authentication import Authentication
from sessiond_server.rpc.interceptors.boundary import Boundary
from sessiond_server.rpc.interceptors.call_id import CallId
from sessiond_server.rpc.interceptors.deadline import Deadline
from sessiond_server.rpc.interceptors.gate import Gate
from sessiond_server.rpc.interceptors.occupancy import Occupancy
from sessiond_server.rpc.interceptors.reading import Reading
from sessiond_server.rpc.interceptors.refusals import Refusals
from sessiond_server.rpc.methods import generic_handler, served_methods, snake_case
from sessiond_server.rpc.places import Places
from sessiond_server.rpc.wire_settings import MIB
from tests.support.waiting import until
from tests.support.wire import Failure

KINDS = {
    "UnaryUnary": (False, False),
    "UnaryStream": (False, True),
    "StreamUnary": (True, False),
    "StreamStream": (True, True),
}


def service() -> Any:
    file = FileDescriptorProto(name="four.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    kinds = file.service.add(name="Four")
    for name, (incoming, outgoing) in KINDS.items():
        kinds.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=incoming,
            server_streaming=outgoing,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(StringValue.DESCRIPTOR.file.serialized_pb)
    pool.Add(file)
    return pool.FindServiceByName("test.Four")


class Four:
    """Echoes its request; "fail" raises a typed error, "break" raises an unforeseen one, "hold" waits for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def unary_unary(self, request: Any, call: Call) -> bytes:
        call.admit(SESSIONS_READ)
        return await self._echo(request)

    async def unary_stream(self, request: Any, call: Call) -> None:
        call.admit(SESSIONS_READ)
        await call.write(await self._echo(request))
        await call.write(await self._echo(request))

    async def stream_unary(self, requests: AsyncIterator[Any], call: Call) -> bytes:
        call.admit(SESSIONS_READ)
        return b"".join([await self._echo(request) async for request in requests])

    async def stream_stream(self, requests: AsyncIterator[Any], call: Call) -> None:
        call.admit(SESSIONS_READ)
        async for request in requests:
            await call.write(await self._echo(request))

    async def _echo(self, request: Any) -> bytes:
        if request.value == "fail":
            raise SessionNotFound("s")
        if request.value == "break":
            raise RuntimeError("secret")
        if request.value == "hold":
            await self.go.wait()
        data: bytes = request.SerializeToString()
        return data


class Served:
    def __init__(self, four: Four, gate: Gate, occupancy: Occupancy, channel: grpc.aio.Channel) -> None:
        self.four = four
        self.gate = gate
        self.occupancy = occupancy
        self.channel = channel

    def start(self, rpc: str, *requests: bytes) -> Any:
        incoming, outgoing = KINDS[rpc]
        kind = f"{'stream' if incoming else 'unary'}_{'stream' if outgoing else 'unary'}"
        invoke = getattr(self.channel, kind)(f"/test.Four/{rpc}")
        return invoke(iter(requests) if incoming else requests[0], timeout=20)

    async def call(self, rpc: str, *requests: bytes) -> list[bytes]:
        call = self.start(rpc, *requests)
        try:
            return [answer async for answer in call] if KINDS[rpc][1] else [await call]
        except grpc.aio.AioRpcError as error:
            raise Failure.of(error) from None


@asynccontextmanager
async def serving(longest: float = 20.0, most: int = 10, gate: Gate | None = None) -> AsyncIterator[Served]:
    four, gate, occupancy, places = Four(), gate or Gate(), Occupancy(), Places(most, waiting=Shares(0))
    stack = (
        CallId(),
        AccessLog(successes=True),
        Boundary(),
        gate,
        occupancy,
        Deadline(longest),
        Authentication(Authenticator(), Refusals()),
        Admission(places, places, Shares(MIB), alone=lambda: True),
        Reading(Places(10, waiting=Shares(10)), Shares(MIB)),
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([generic_handler(service(), served_methods(service(), four, stack, 100, places))])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.use_local_subchannel_pool", 1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield Served(four, gate, occupancy, channel)
    finally:
        await server.stop(None)


def said(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


@pytest.mark.parametrize("rpc", KINDS)
async def test_each_kind_answers(rpc: str) -> None:
    incoming, outgoing = KINDS[rpc]
    async with serving() as four:
        answers = await four.call(rpc, said("a"), *([said("b")] if incoming else []))
        await until(lambda: four.occupancy.calls == 0)
    expected = [said("a"), said("b") if incoming else said("a")]
    assert b"".join(answers) == b"".join(expected if incoming or outgoing else expected[:1])


@pytest.mark.parametrize("rpc", KINDS)
async def test_each_kind_fails_by_the_table(rpc: str) -> None:
    async with serving() as four:
        for request, code, reason in (
            (said("fail"), StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
            (said("break"), StatusCode.INTERNAL, "INTERNAL"),
            (b"\xff", StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"),
        ):
            with pytest.raises(Failure) as caught:
                await four.call(rpc, request)
            assert (caught.value.code, caught.value.reason) == (code, reason)
            assert "secret" not in str(caught.value)
            assert caught.value.trailers["x-request-id"]


@pytest.mark.parametrize("rpc", KINDS)
async def test_each_kind_is_refused_until_the_gate_opens(rpc: str) -> None:
    async with serving(gate=Gate(Starting)) as four:
        with pytest.raises(Failure) as caught:
            await four.call(rpc, said("a"))
        assert caught.value.reason == "STARTING"
        four.gate.open()
        assert said("a") in (await four.call(rpc, said("a")))


async def test_unary_calls_have_a_longest_deadline() -> None:
    async with serving(longest=0.05) as four:
        with pytest.raises(Failure) as caught:
            await four.call("UnaryUnary", said("hold"))
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_streamed_requests_have_none() -> None:
    async with serving(longest=0.0) as four:
        held = asyncio.create_task(four.call("StreamUnary", said("hold")))
        await until(lambda: four.occupancy.calls == 1)
        four.four.go.set()
        assert said("hold") in await held


async def test_unary_calls_have_a_limit() -> None:
    async with serving(most=0) as four:
        with pytest.raises(Failure) as caught:
            await four.call("UnaryUnary", said("a"))
    assert caught.value.reason == "TOO_MANY_CALLS"


@pytest.mark.parametrize("rpc", [rpc for rpc, (_, outgoing) in KINDS.items() if outgoing])
async def test_streamed_answers_have_neither(rpc: str) -> None:
    async with serving(longest=0.0, most=0) as four:
        held = asyncio.create_task(four.call(rpc, said("hold")))
        await until(lambda: four.occupancy.calls == 1)
        four.four.go.set()
        assert (await held)[0] == said("hold")


async def test_a_servicer_without_an_rpc_is_noticed_when_built() -> None:
    with pytest.raises(AttributeError, match="unary_unary"):
        served_methods(service(), object(), (), 100, Places(1, waiting=Shares(1)))


@pytest.mark.parametrize(
    ("name", "snake"), [("GetSession", "get_session"), ("A", "a"), ("BatchGetAll", "batch_get_all")]
)
def test_rpcs_are_named_in_snake_case(name: str, snake: str) -> None:
    assert snake_case(name) == snake
