"""What surrounds every handler: nothing leaks, nothing hangs, everything is recorded."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc import StatusCode
from grpc.aio import InternalError as TransportError

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import Authenticator, Principal, digest_of
from sessiond_server.errors import NotFound
from sessiond_server.memory.store import MemoryStore
from sessiond_server.rpc.call import Call, Method
from sessiond_server.rpc.interceptors.boundary import Boundary
from tests.support.held_store import Holding, HoldingWriter
from tests.support.requests import VALID
from tests.support.rows import table
from tests.support.waiting import until
from tests.support.wire import PRINCIPALS, RPCS, TENANT, Failure, Wire, serving

SECRET = "postgres://sessiond:hunter2@db"
READ = s.GetSessionRequest(session_id="s")
WRITE = s.SuspendSessionRequest(session_id="s")


class Raising:
    """A store and a writer of which every method raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def token_key(self) -> bytes:
        return bytes(32)

    @property
    def search(self) -> "Raising":
        return self

    @property
    def erasures(self) -> "Raising":
        return self

    @property
    def templates(self) -> "Raising":
        return self

    @property
    def usage(self) -> "Raising":
        return self

    @property
    def retention(self) -> "Raising":
        return self

    @property
    def forks(self) -> "Raising":
        return self

    def __getattr__(self, name: str) -> Any:
        async def method(*args: object, **kwargs: object) -> Any:
            raise self.error.with_traceback(None)

        return method


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def raising() -> AsyncIterator[tuple[Raising, Wire]]:
    """A server whose store raises what a test has it raise."""
    store = Raising(RuntimeError())
    broken: Any = store
    async with serving(broken, writer=broken, work=broken, attachments=broken, documents=broken) as wire:
        yield store, wire


def records(caplog: pytest.LogCaptureFixture, logger: str) -> list[Any]:
    return [record for record in caplog.records if record.name == logger]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        RecursionError(SECRET),
        TimeoutError(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
        NotFound(SECRET),
        asyncio.CancelledError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_unforeseen_error_is_internal_with_an_id_that_the_log_has(
    raising: tuple[Raising, Wire], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    store, wire = raising
    store.error = error
    with table() as rows:
        for rpc in RPCS.keys() - {"VerifyErasureReport"}:  # which asks no store
            with rows.row(rpc):
                caplog.clear()
                failure = await wire.failure(rpc, VALID[rpc], metadata=(("x-request-id", "call-1"),))
                await wire.failure(rpc, VALID[rpc])
                assert (failure.code, failure.text, failure.reason) == (
                    StatusCode.INTERNAL,
                    "internal error",
                    "INTERNAL",
                )
                assert SECRET not in str(failure)
                (first, _) = records(caplog, "sessiond.rpc")
                assert (first.error_id, first.request_id) == (failure.metadata["error_id"], "call-1")
                assert type(first.exc_info[1]) is type(error)


async def test_error_ids_differ() -> None:
    broken: Any = Raising(RuntimeError())
    async with serving(broken, writer=broken) as wire:
        ids = {(await wire.failure("GetSession", READ)).metadata["error_id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(("rpc", "request_"), [("GetSession", READ), ("SuspendSession", WRITE)])
async def test_a_caller_that_leaves_takes_its_call_along(
    rpc: str, request_: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sessiond.access")
    store = Holding()
    writer = HoldingWriter(store)
    async with serving(store, writer=writer) as wire:
        held = store if rpc == "GetSession" else writer
        call = wire.start(rpc, request_)
        await held.entered.wait()
        assert wire.server.calls == 1
        call.cancel()
        await held.abandoned.wait()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await wire.failure("GetMessage", VALID["GetMessage"])).reason == "SESSION_NOT_FOUND"
    record = records(caplog, "sessiond.access")[0]
    assert (record.code, record.reason) == ("CANCELLED", "")
    assert not records(caplog, "sessiond.rpc")


async def test_a_failed_write_waits_for_grpc_to_say_that_the_caller_is_gone() -> None:
    failed = asyncio.Event()

    async def handler(request: Any, call: Call) -> None:
        failed.set()
        raise TransportError

    class Gone:
        def invocation_metadata(self) -> None: ...

    gone: Any = Gone()
    method = Method("/sessiond.v1.EventService/WatchSession", False, True, 0)
    call = Call(method, gone)
    task = asyncio.ensure_future(Boundary(max_wait=600.0).around(method, handler)(b"", call))
    await failed.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TransportError):
        await Boundary(max_wait=0.0).around(method, handler)(b"", call)


@pytest.mark.parametrize("given", [None, 1e9])
async def test_a_call_without_a_near_deadline_gets_the_longest(given: float | None) -> None:
    store = Holding()
    async with serving(store, longest_deadline=0.05) as wire:
        failure = await wire.failure("GetSession", READ, timeout=given)
        assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        assert store.abandoned.is_set()


async def test_a_write_that_never_began_is_withdrawn_at_the_deadline() -> None:
    store = MemoryStore()
    writer = HoldingWriter(store)
    async with serving(store, writer=writer, longest_deadline=0.05) as wire:
        failure = await wire.failure("CreateSession", VALID["CreateSession"], timeout=None)
        assert failure.reason == "DEADLINE_EXCEEDED"
        assert writer.abandoned.is_set()
        writer.go.set()
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


async def test_the_callers_own_deadline_ends_the_work() -> None:
    store = Holding()
    async with serving(store) as wire:
        seconds = 0.1
        while not store.entered.is_set():  # on a busy machine a deadline may pass before the work begins
            failure = await wire.failure("GetSession", READ, timeout=seconds)
            assert failure.code is StatusCode.DEADLINE_EXCEEDED
            seconds *= 2
        await store.abandoned.wait()
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


ONE_TENANT = Authenticator({digest_of(TENANT): PRINCIPALS[TENANT]})
"""It may hold all that there is."""


async def test_calls_beyond_the_limits_are_refused_at_once_and_room_comes_back() -> None:
    store = Holding()
    async with serving(store, most_calls=2, most_searches=1, most_waiting=1, authenticator=ONE_TENANT) as wire:
        held = [wire.start("GetSession", READ) for _ in range(3)]
        await until(lambda: wire.server.calls == 3)
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0  # has places of its own
        failure = await wire.failure("GetSession", READ)
        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert failure.trailers["grpc-retry-pushback-ms"] == "500"
        store.go.set()
        await asyncio.gather(*held, return_exceptions=True)
        await until(lambda: wire.server.calls == 0)
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


@pytest.mark.parametrize("given", ["a", "A-z.0_9:~", "x" * 128])
async def test_a_given_call_id_is_echoed_on_success_and_failure(given: str) -> None:
    async with serving() as wire:
        await wire.create("s")
        call = wire.start("GetSession", READ, metadata=(("x-request-id", given),))
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == given
        failure = await wire.failure("GetSession", b"\xff", metadata=(("x-request-id", given),))
        assert failure.trailers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a/b"])
async def test_another_call_id_is_made(given: str | None) -> None:
    metadata = () if given is None else (("x-request-id", given),)
    async with serving() as wire:
        failures = [await wire.failure("GetSession", READ, metadata=metadata) for _ in range(2)]
    first, second = (failure.trailers["x-request-id"] for failure in failures)
    assert re.fullmatch("[0-9a-f]{32}", str(first))
    assert first != second


async def test_every_call_is_recorded_without_contents_or_keys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessiond.access")
    async with serving() as wire:
        session = Session(session_id="id-of-it", name="name-of-it", summary="content-of-it")
        request = s.CreateSessionRequest(session=session)
        await wire.call("CreateSession", request, metadata=(("x-request-id", "call-1"),))
        await wire.failure("CreateSession", request)
        await wire.failure("GetSession", READ, key="unknown-key")
    created, taken, unknown = records(caplog, "sessiond.access")
    path = "/sessiond.v1.SessionService/CreateSession"
    assert (created.method, created.code, created.reason) == (path, "OK", "")
    assert (created.tenant, created.key, created.request_id) == ("acme", "tenant", "call-1")
    assert created.peer.startswith("ipv4:127.0.0.1:")
    assert created.request_bytes == request.ByteSize()
    assert created.response_bytes > 0
    assert created.duration_ms > 0
    assert (taken.code, taken.reason, taken.response_bytes) == ("ALREADY_EXISTS", "SESSION_ALREADY_EXISTS", 0)
    assert (unknown.code, unknown.tenant, unknown.key) == ("UNAUTHENTICATED", "", "")
    said = "".join(str(vars(record)) for record in caplog.records)
    assert not re.search("name-of-it|content-of-it|id-of-it|unknown-key", said)


async def test_access_log_records_nothing_when_its_level_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sessiond.access")
    async with serving() as wire:
        await wire.create("s")
    assert not records(caplog, "sessiond.access")


async def test_without_keys_loopback_is_the_default_tenant() -> None:
    store = MemoryStore()
    async with serving(store, authenticator=Authenticator()) as wire:
        await wire.create("s", key="")
    page = await store.read_log(("default", "s"), after_seq=0, limit=10)
    assert b"local" in page.entries[0].data


async def test_event_names_the_key_that_wrote_it() -> None:
    store = MemoryStore()
    async with serving(store) as wire:
        await wire.create("s", key=TENANT)
    page = await store.read_log(("acme", "s"), after_seq=0, limit=10)
    assert b"tenant" in page.entries[0].data


async def test_a_call_without_service_or_method_is_unimplemented() -> None:
    async with serving() as wire:
        for path in ("/sessiond.v1.SessionService/Nothing", "/sessiond.v1.Nothing/GetSession"):
            invoke: Any = wire.channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await invoke(b"")
            assert Failure.of(caught.value).code is StatusCode.UNIMPLEMENTED


async def test_metadata_beyond_its_bound_is_refused_and_the_channel_lives() -> None:
    async with serving() as wire:
        failure = await wire.failure("GetSession", READ, metadata=(("x-big", "x" * 20_000),))
        assert failure.code is StatusCode.RESOURCE_EXHAUSTED
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


async def test_what_the_transport_does_not_read_leaves_the_channel_usable() -> None:
    async with serving() as wire:
        failure = await wire.failure("AppendMessages", b"\x00" * (9 * 1024 * 1024))
        assert failure.code is StatusCode.RESOURCE_EXHAUSTED
        assert (await wire.call("CountSessions", s.CountSessionsRequest())).count == 0


async def test_a_principal_is_known_by_its_key_alone() -> None:
    class Known(Authenticator):
        def authenticate(self, metadata: Any, peer: Callable[[], str]) -> Principal:
            assert ("authorization", "Bearer k") in [tuple(pair) for pair in metadata]
            assert peer().startswith("ipv4:127.0.0.1:")
            return Principal("t", "", "n", frozenset())

    async with serving(authenticator=Known()) as wire:
        failure = await wire.failure("ListMessages", m.ListMessagesRequest(session_id="s"), key="k")
    assert failure.reason == "SCOPE_MISSING"
