"""What ended calls held is freed at once. An error whose traceback leads back to itself would keep requests and chunks
until the garbage collector comes, which counts objects and not bytes."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any, NoReturn

import grpc
import pytest

from sessiond.v1.event_service_pb2 import WatchSessionRequest
from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeCall
from sessiond.v1.session_service_pb2 import GetSessionRequest
from sessiond_server.blobs import uploads
from sessiond_server.errors import Draining, SessiondError
from sessiond_server.rpc.call import Call
from sessiond_server.rpc.pipe.pipe import Pipe
from sessiond_server.rpc.pipe.piped_context import PipedContext
from tests.support.attachments import CountedBlobs, chunks, noise, site
from tests.support.attacks import pipe_frames
from tests.support.pipe_client import PipeClient, opened
from tests.support.requests import VALID
from tests.support.waiting import until
from tests.support.wire import UNARY, Failure, Wire, header

KEPT = (SessiondError, Call, Pipe, PipedContext, OpenRequest, OpenResponse, uploads._Writing)
"""What must not be left to the collector: errors, and what holds bytes of callers."""
KEPT_BY_GRPC = ("RPCState", "_ServicerContext")
"""The same of grpc's own types. They own a call of its C core, and freeing hundreds of these at once stops the loop."""
TIMES = 3

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextmanager
def nothing_for_the_collector() -> Iterator[None]:
    """Fails if something in KEPT, or an error that the server raised, is only reachable from itself in the end."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        found = sorted({_described(each) for each in gc.garbage if _is_kept(each)})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found


def _is_kept(each: object) -> bool:
    return isinstance(each, KEPT) or type(each).__name__ in KEPT_BY_GRPC or _raised_by_server(each)


def _described(kept: object) -> str:
    place = kept.__traceback__ if isinstance(kept, BaseException) else None
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" raised in {place.tb_frame.f_code.co_qualname}" if place is not None else ""
    return type(kept).__name__ + where


def _raised_by_server(kept: object) -> bool:
    """A task that is cancelled has a CancelledError, which is no Exception: calls and pipes tell of those."""
    place = kept.__traceback__ if isinstance(kept, Exception) else None
    while place is not None:
        if "sessiond_server" in place.tb_frame.f_code.co_filename:
            return True
        place = place.tb_next
    return False


async def quiet(wire: Wire) -> None:
    await until(lambda: wire.server.calls == 0)


async def end_of(pipe: PipeClient) -> Failure | None:
    try:
        while await pipe.read() is not None:
            pass
    except Failure as failure:
        return failure
    return None


@pytest.mark.asyncio(loop_scope="function")
async def test_check_sees_an_error_that_leads_to_itself() -> None:
    def fail() -> NoReturn:
        raise Draining

    def hold() -> None:
        try:
            fail()
        except Draining as error:
            kept = error
            assert kept

    with pytest.raises(AssertionError, match=r"Draining raised in .*fail"), nothing_for_the_collector():
        hold()


@pytest.mark.parametrize("rpc", UNARY)
async def test_refused_calls_leave_nothing_for_the_collector(common_wire: Wire, rpc: str) -> None:
    source = Random(1)
    requests = [VALID[rpc].SerializeToString(), b"\xff" * 100, source.randbytes(100)]
    with nothing_for_the_collector():
        for request in requests * TIMES:
            with suppress(Failure):
                await common_wire.call(rpc, request)
        await quiet(common_wire)


@pytest.mark.parametrize("path", ["/no.Such/Call", "/grpc.health.v1.Health/Check"])
async def test_refused_calls_of_other_services_leave_nothing_for_the_collector(common_wire: Wire, path: str) -> None:
    call: Any = common_wire.channel.unary_unary(path)
    with nothing_for_the_collector():
        for _ in range(TIMES):
            with suppress(grpc.aio.AioRpcError):
                await call(b"\x0a\x04none")
        await quiet(common_wire)


async def test_calls_given_up_leave_nothing_for_the_collector(common_wire: Wire) -> None:
    with nothing_for_the_collector():
        for _ in range(TIMES):
            call = common_wire.start("GetSession", GetSessionRequest(session_id="s"))
            call.cancel()
        await quiet(common_wire)


async def test_watches_that_end_leave_nothing_for_the_collector(common_wire: Wire) -> None:
    session = await common_wire.create("watched")
    with nothing_for_the_collector():
        for session_id in ("none", session.session_id) * TIMES:
            watch = common_wire.watch("WatchSession", WatchSessionRequest(session_id=session_id))
            with suppress(Failure):
                await watch.read()
            watch.call.cancel()
        await quiet(common_wire)


@pytest.mark.parametrize("attack", [name for name in pipe_frames("s") if name not in ("unknown", "streams")])
async def test_hostile_frames_leave_nothing_for_the_collector(common_wire: Wire, attack: str) -> None:
    # All but the five bytes before the first message of the attack.
    data = pipe_frames("none")[attack]
    length = int.from_bytes(data[1:5], "big")
    with nothing_for_the_collector():
        for _ in range(TIMES):
            async with opened(common_wire, reads=False) as pipe:
                await pipe.send(data[5 : 5 + length])
                await pipe.end()
                await end_of(pipe)
        await quiet(common_wire)


async def test_number_used_twice_leaves_nothing_for_the_collector(common_wire: Wire) -> None:
    call = PipeCall(number=1, method="/sessiond.v1.SessionService/GetSession", request=b"\x0a\x01s")
    with nothing_for_the_collector():
        for _ in range(TIMES):
            async with opened(common_wire, reads=False) as pipe:
                await pipe.send(OpenRequest(calls=[call, call]))
                failure = await end_of(pipe)
                assert failure is not None
                assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
        await quiet(common_wire)


async def test_failed_uploads_leave_nothing_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site() as there:
        content = noise(3 * CountedBlobs.segment)

        async def fail(*_: object) -> None:
            raise OSError

        with nothing_for_the_collector():
            for number in range(TIMES):
                await there.failure([header("s", f"short{number}", content), *chunks(content[:-1])])
            monkeypatch.setattr(there.blobs, "append", fail)
            for number in range(TIMES):
                await there.failure([header("s", f"fails{number}", content), *chunks(content)])
            await quiet(there.wire)


async def test_failed_downloads_leave_nothing_for_the_collector() -> None:
    async with site() as there:
        await there.upload("s", "a", noise(3 * CountedBlobs.segment))
        there.blobs._segments.clear()
        with nothing_for_the_collector():
            for _ in range(TIMES):
                with suppress(Failure):
                    await there.download("s", "a")
            await quiet(there.wire)
