"""PipeService: unary calls in one stream are served as plain calls are."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from sessiond.v1 import message_service_pb2 as m
from sessiond.v1 import session_service_pb2 as s
from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeCall, PipePiece
from sessiond.v1.session_pb2 import Session
from sessiond_server.auth import Authenticator, digest_of
from sessiond_server.rpc.pipe.limits import BEGUN_AT_ONCE, FRAME_BYTES, FRAME_ENTRIES, PipeLimits
from sessiond_server.rpc.pipe.pipe import Pipe
from sessiond_server.rpc.pipe.piped_context import PipedContext
from tests.support.held_store import Holding, HoldingWriter
from tests.support.pipe_client import opened
from tests.support.rows import table
from tests.support.waiting import until
from tests.support.wire import (
    ALICE,
    OTHER_TENANT,
    PATHS,
    PRINCIPALS,
    READER,
    RPCS,
    TENANT,
    UNARY,
    Failure,
    Wire,
    said,
    serving,
)

GET = s.GetSessionRequest(session_id="s")
COUNT = s.CountSessionsRequest()
STREAMS = [rpc for rpc in RPCS if rpc not in UNARY]


def large(size: int) -> m.AppendMessagesRequest:
    """An append of about `size` bytes."""
    return m.AppendMessagesRequest(session_id="s", messages=[said("x" * (size // 4)) for _ in range(4)])


async def test_calls_of_one_pipe_are_answered_as_they_end(wire: Wire) -> None:
    async with opened(wire) as pipe:
        created = await pipe.call("CreateSession", s.CreateSessionRequest(session=Session(session_id="s")))
        assert (created.session_id, created.version) == ("s", 1)
        numbers = [await pipe.begin("GetSession", GET) for _ in range(100)]
        answers = [await pipe.answer(number) for number in numbers]
        assert {Session.FromString(answer.response).session_id for answer in answers} == {"s"}
        await pipe.end()
        assert await pipe.ended() is None
    await until(lambda: wire.server.open_pipes == 0)


async def test_calls_of_one_frame_are_all_answered(wire: Wire) -> None:
    async with opened(wire) as pipe:
        loop = asyncio.get_running_loop()
        numbers = range(1, 3 * BEGUN_AT_ONCE)
        pipe.answers.update((number, loop.create_future()) for number in numbers)
        path = PATHS["CountSessions"]
        await pipe.send(OpenRequest(calls=[PipeCall(number=number, method=path) for number in numbers]))
        for number in numbers:
            assert not (await pipe.answer(number)).HasField("status")


async def test_other_than_unary_rpcs_are_unknown() -> None:
    async with serving(call_metrics=True) as wire, opened(wire) as pipe:
        with table() as rows:
            for name in (*STREAMS, "/sessiond.v1.PipeService/Open", "/grpc.health.v1.Health/Check", "no", ""):
                with rows.row(name):
                    failure = await pipe.failure(name, b"")
                    assert (failure.code, failure.reason) == (StatusCode.UNIMPLEMENTED, "")
        assert wire.server.refused_calls["unknown_method"] == rows.count


async def test_large_requests_and_answers_come_whole_and_let_small_ones_pass() -> None:
    async with serving(largest_message=3 * 1024 * 1024) as wire, opened(wire) as pipe:
        await wire.create("s")
        request = large(3_000_000)
        assert (await pipe.call("AppendMessages", request)).version == 5
        listing = await pipe.begin("ListMessages", m.ListMessagesRequest(session_id="s"))
        await until(lambda: listing in pipe.pieces)
        small = await pipe.begin("GetSession", GET)
        await pipe.answer(small)
        assert pipe.pieces[-1] == small or pipe.pieces[pipe.pieces.index(small) + 1] == listing
        listed = m.ListMessagesResponse.FromString((await pipe.answer(listing)).response)
        assert sorted(each.parts[0].text for each in listed.messages) == [x.parts[0].text for x in request.messages]


async def test_a_request_may_end_in_pieces_between_other_calls(wire: Wire) -> None:
    await wire.create("s")
    data = large(100_000).SerializeToString()
    loop = asyncio.get_running_loop()
    async with opened(wire) as pipe:
        cut = [data[at : at + 30_000] for at in range(0, len(data), 30_000)]
        call = PipeCall(number=1, method=PATHS["AppendMessages"], request=cut[0], request_size=len(data))
        pipe.answers[1] = loop.create_future()
        await pipe.send(OpenRequest(calls=[call]))
        for number, piece in enumerate(cut[1:], 2):
            assert (await pipe.call("GetSession", GET, number=number)).version == 1
            await pipe.send(OpenRequest(pieces=[PipePiece(number=1, data=piece)]))
        assert m.AppendMessagesResponse.FromString((await pipe.answer(1)).response).version == 5


async def test_a_call_has_its_own_id_database_and_log_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessiond.access")
    async with serving(call_metrics=True) as wire:
        await wire.create("s")
        caplog.clear()
        async with opened(wire, metadata=[("x-request-id", "of-the-pipe")]) as pipe:
            number = await pipe.begin("GetSession", GET, metadata={"x-request-id": "mine"})
            assert dict((await pipe.answer(number)).trailers) == {"x-request-id": "mine"}
            failure = await pipe.failure("GetSession", s.GetSessionRequest(session_id="no"))
            assert failure.trailers["x-request-id"] not in ("mine", "of-the-pipe", "")
            failure = await pipe.failure("GetSession", GET, metadata={"db_id": "elsewhere"})
            assert failure.reason == "SCOPE_MISSING"
            await pipe.end()
            await pipe.ended()
        await until(lambda: wire.server.calls == 0)
        records: Any = caplog.records
        found = [(record.method.rpartition("/")[2], record.code, record.tenant, record.key) for record in records]
        assert found == [
            ("GetSession", "OK", "acme", "tenant"),
            ("GetSession", "NOT_FOUND", "acme", "tenant"),
            ("GetSession", "PERMISSION_DENIED", "acme", "tenant"),
            ("Open", "OK", "acme", "tenant"),
        ]
        assert records[0].request_id == "mine"
        assert records[0].request_bytes == len(GET.SerializeToString())
        assert records[0].peer.startswith("ipv4:127.0.0.1:")
        codes = {each.method.rpartition("/")[2]: each.codes for each in wire.server.call_metrics if each.codes}
        assert codes["GetSession"] == {"OK": 1, "NOT_FOUND": 1, "PERMISSION_DENIED": 1}


async def test_scopes_and_users_of_the_key_hold_for_calls_of_the_pipe(wire: Wire) -> None:
    await wire.create("s")
    await wire.create("alice~mine", key=ALICE)
    async with opened(wire, key=READER) as pipe:
        assert (await pipe.failure("AppendMessages", large(40))).reason == "SCOPE_MISSING"
    async with opened(wire, key=OTHER_TENANT) as pipe:
        assert (await pipe.failure("GetSession", GET)).reason == "SESSION_NOT_FOUND"
    async with opened(wire, key=ALICE) as pipe:
        assert (await pipe.call("CountSessions", COUNT)).count == 1
        failure = await pipe.failure("GetSession", GET, metadata={"authorization": f"Bearer {TENANT}"})
        assert failure.violations.keys() == {"metadata[authorization]"}
        failure = await pipe.failure("GetSession", GET, metadata={str(number): "" for number in range(17)})
        assert failure.violations.keys() == {"metadata"}


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_a_pipe_needs_a_valid_key(wire: Wire, key: str) -> None:
    with pytest.raises(Failure) as caught:
        async with opened(wire, key=key):
            pass
    assert caught.value.reason == "UNAUTHENTICATED"
    assert wire.server.open_pipes == 0


async def test_deadlines_end_calls(wire: Wire) -> None:
    store = Holding()
    async with serving(store, longest_deadline=0.05) as wire, opened(wire) as pipe:
        while not store.entered.is_set():  # on a busy machine a deadline may pass before the work begins
            failure = await pipe.failure("GetSession", GET, timeout=0.02)
            assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "")
        await store.abandoned.wait()
        failure = await pipe.failure("GetSession", GET, timeout=None)
        assert (failure.code, failure.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        await until(lambda: wire.server.calls == 1)  # the pipe itself


async def test_a_cancelled_call_is_answered_once_and_others_go_on() -> None:
    store = Holding()
    async with serving(store) as wire, opened(wire) as pipe:
        number = await pipe.begin("GetSession", GET)
        await store.entered.wait()
        counting = await pipe.begin("CountSessions", COUNT)
        await pipe.send(OpenRequest(cancels=[number, number, 999]))
        answer = await pipe.answer(number)
        assert answer.status.code == StatusCode.CANCELLED.value[0]
        assert store.abandoned.is_set()
        assert not (await pipe.answer(counting)).HasField("status")
        await pipe.send(OpenRequest(cancels=[number]))
        await pipe.call("CountSessions", COUNT)


async def test_a_call_that_is_cancelled_in_its_own_frame_is_answered(wire: Wire) -> None:
    async with opened(wire) as pipe:
        pipe.answers[1] = asyncio.get_running_loop().create_future()
        await pipe.send(OpenRequest(calls=[PipeCall(number=1, method=PATHS["GetSession"])], cancels=[1]))
        assert (await pipe.answer(1)).HasField("status")
        await pipe.call("CountSessions", COUNT, number=2)


async def test_a_call_whose_request_does_not_arrive_can_be_cancelled_and_times_out(wire: Wire) -> None:
    async with opened(wire) as pipe:
        for number in (1, 2):
            pipe.answers[number] = asyncio.get_running_loop().create_future()
        partial = PipeCall(method=PATHS["AppendMessages"], request=b"1", request_size=50_000)
        await pipe.send(OpenRequest(calls=[PipeCall(number=1, **_fields(partial))]))
        await pipe.send(OpenRequest(calls=[PipeCall(number=2, timeout_ms=10, **_fields(partial))], cancels=[1]))
        assert (await pipe.answer(1)).status.code == StatusCode.CANCELLED.value[0]
        assert (await pipe.answer(2)).status.code == StatusCode.DEADLINE_EXCEEDED.value[0]
        await pipe.send(OpenRequest(pieces=[PipePiece(number=1, data=b"2")]))
        await pipe.call("CountSessions", COUNT, number=3)


def _fields(call: PipeCall) -> dict[str, Any]:
    return {field.name: value for field, value in call.ListFields()}


async def test_calls_are_abandoned_when_their_pipe_breaks() -> None:
    store = Holding()
    async with serving(store) as wire:
        async with opened(wire) as pipe:
            await pipe.begin("GetSession", GET)
            await store.entered.wait()
            pipe.cancel()
            await store.abandoned.wait()
        await until(lambda: (wire.server.calls, wire.server.open_pipes) == (0, 0))


async def test_numbers_end_where_every_language_counts_exactly(wire: Wire) -> None:
    await wire.create("s")
    async with opened(wire) as pipe:
        assert (await pipe.call("GetSession", GET, number=2**53 - 2)).version == 1
        assert (await pipe.call("GetSession", GET, number=2**53 - 1)).version == 1


async def test_fields_of_later_versions_in_a_frame_are_ignored(wire: Wire) -> None:
    """A number above 15 has a tag of two bytes; the other is a fixed64."""
    async with opened(wire) as pipe:
        later = b"\x82\x01\x01x" + b"\x79" + bytes(8)
        pipe.answers[1] = asyncio.get_running_loop().create_future()
        call = PipeCall(number=1, method=PATHS["CountSessions"], request=COUNT.SerializeToString())
        await pipe.send(later + OpenRequest(calls=[call]).SerializeToString() + later)
        assert not (await pipe.answer(1)).HasField("status")


BROKEN: dict[str, tuple[OpenRequest | bytes, str]] = {
    "frame.bytes": (bytes(FRAME_BYTES + 1), "frame"),
    "frame.entries": (OpenRequest(cancels=[1] * (FRAME_ENTRIES + 1)), "frame"),
    "frame.tiny": (b"\x0a\x00" * (FRAME_BYTES // 2), "frame"),
    "frame.packed": (OpenRequest(cancels=[1] * (FRAME_BYTES // 2)), "frame"),
    "number.zero": (OpenRequest(calls=[PipeCall(method="x")]), "calls.number"),
    "number.twice": (OpenRequest(calls=[PipeCall(number=7, method="x")] * 2), "calls.number"),
    "number.earlier": (
        OpenRequest(calls=[PipeCall(number=7, method="x"), PipeCall(number=6, method="x")]),
        "calls.number",
    ),
    "number.beyond": (OpenRequest(calls=[PipeCall(number=2**53, method="x")]), "calls.number"),
    "request.uncut": (OpenRequest(calls=[PipeCall(number=7, request=bytes(32 * 1024 + 1))]), "calls.request"),
    "size.less": (OpenRequest(calls=[PipeCall(number=7, request=b"abc", request_size=3)]), "calls.request_size"),
    "piece.unknown": (OpenRequest(pieces=[PipePiece(number=8, data=b"x")]), "pieces.number"),
    "piece.long": (
        OpenRequest(
            calls=[PipeCall(number=7, method=PATHS["AppendMessages"], request=b"1", request_size=2)],
            pieces=[PipePiece(number=7, data=b"23")],
        ),
        "pieces.data",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_frame_that_breaks_the_rules_ends_its_pipe_and_no_other(how: str) -> None:
    frame, field = BROKEN[how]
    store = Holding()
    async with serving(store) as wire, opened(wire) as pipe, opened(wire) as other:
        await pipe.begin("GetSession", GET)
        await store.entered.wait()
        await pipe.send(frame)
        failure = await pipe.ended()
        assert failure is not None
        assert (failure.code, list(failure.violations)) == (StatusCode.INVALID_ARGUMENT, [field])
        await store.abandoned.wait()
        await other.call("CountSessions", COUNT)
        await until(lambda: (wire.server.calls, wire.server.open_pipes) == (1, 1))


@pytest.mark.parametrize("data", [b"\xff", b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xff", b"\x0b"])
async def test_bytes_that_do_not_parse_end_the_pipe(wire: Wire, data: bytes) -> None:
    async with opened(wire) as pipe:
        await pipe.send(data)
        failure = await pipe.ended()
        assert failure is not None
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    async with opened(wire) as pipe:
        await pipe.send(OpenRequest(cancels=range(1, FRAME_ENTRIES)))
        failure = await pipe.failure("GetSession", b"\xff")
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_no_more_calls_than_the_window_has_are_begun() -> None:
    store = Holding()
    async with serving(store, pipes=PipeLimits(calls=3)) as wire, opened(wire) as pipe:
        assert pipe.window.calls == 3
        numbers = [await pipe.begin("GetSession", GET) for _ in range(10)]
        await until(lambda: wire.server.calls == 4)
        await asyncio.sleep(0)
        assert wire.server.calls == 4
        store.go.set()
        for number in numbers:
            assert (await pipe.answer(number)).status.code == StatusCode.NOT_FOUND.value[0]


async def test_requests_beyond_the_windows_bytes_or_the_budget_are_refused() -> None:
    async with serving(pipes=PipeLimits(request_bytes=100_000), call_metrics=True) as wire, opened(wire) as pipe:
        await wire.create("s")
        await pipe.call("AppendMessages", large(90_000))
        failure = await pipe.failure("AppendMessages", large(110_000))
        assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert failure.trailers["grpc-retry-pushback-ms"] == "500"
        await pipe.call("AppendMessages", large(90_000))
    async with serving(most_request_bytes=50_000, call_metrics=True) as wire, opened(wire) as pipe:
        await wire.create("s")
        for _ in range(2):
            assert (await pipe.failure("AppendMessages", large(60_000))).reason == "TOO_MANY_CALLS"
            await pipe.call("AppendMessages", large(30_000))
        assert wire.server.refused_calls["request_bytes"] == 2


async def test_window_of_bytes_is_free_again_when_the_answer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before the transport has told the server that the answer was sent."""
    told, begun, write, begin = asyncio.Event(), list[int](), Pipe._write, Pipe._begin

    def begins(pipe: Pipe, context: PipedContext, *served: Any) -> None:
        begin(pipe, context, *served)
        begun.append(context.number)

    async def writes(pipe: Pipe, frame: OpenResponse) -> None:
        await write(pipe, frame)
        if frame.answers:
            await told.wait()

    monkeypatch.setattr(Pipe, "_write", writes)
    monkeypatch.setattr(Pipe, "_begin", begins)
    request = large(60_000)
    async with serving(pipes=PipeLimits(request_bytes=len(request.SerializeToString()))) as wire, opened(wire) as pipe:
        await wire.create("s")
        await pipe.call("AppendMessages", request)
        second = await pipe.begin("AppendMessages", request)
        await until(lambda: second in begun)
        told.set()
        assert not (await pipe.answer(second)).HasField("status")


async def test_requests_that_are_too_large_are_refused_as_plain_ones() -> None:
    async with serving(largest_request=50_000, transport_limit=100_000) as wire, opened(wire) as pipe:
        await wire.create("s")
        with table() as rows:
            for size in (60_000, 120_000):
                with rows.row(size):
                    plain = await wire.failure("AppendMessages", large(size))
                    piped = await pipe.failure("AppendMessages", large(size))
                    assert (piped.code, piped.reason) == (plain.code, plain.reason)
        await pipe.call("AppendMessages", large(40_000))


async def test_pipes_are_bounded_and_shared_by_tenants() -> None:
    async with serving(pipes=PipeLimits(pipes=4), call_metrics=True) as wire:
        async with opened(wire), opened(wire), opened(wire):
            with pytest.raises(Failure) as caught:
                async with opened(wire):
                    pass
            assert caught.value.reason == "TOO_MANY_CALLS"
            assert wire.server.refused_calls["pipes"] == 1
            async with opened(wire, key=OTHER_TENANT) as pipe:
                await pipe.call("CountSessions", COUNT)
        await until(lambda: wire.server.open_pipes == 0)


async def test_a_server_without_pipes_does_not_know_the_service() -> None:
    async with serving(pipes=PipeLimits(pipes=0)) as wire:
        with pytest.raises(Failure) as caught:
            async with opened(wire):
                pass
        assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_a_pipe_whose_client_does_not_read_ends_and_its_calls_with_it() -> None:
    async with serving(watch_write_timeout=0.1) as wire:
        await wire.create("s")
        await wire.call("AppendMessages", large(800_000))
        async with opened(wire, reads=False) as pipe:
            for _ in range(100):
                try:
                    await asyncio.wait_for(pipe.begin("ListMessages", m.ListMessagesRequest(session_id="s")), 20)
                except grpc.aio.AioRpcError:
                    break
            await until(lambda: (wire.server.calls, wire.server.open_pipes) == (0, 0))
        await wire.call("CountSessions", COUNT)


async def test_answers_that_wait_to_be_read_hold_up_new_calls_of_the_pipe() -> None:
    async with serving(watch_write_timeout=60.0) as wire:
        await wire.create("s")
        await wire.call("AppendMessages", large(800_000))
        async with opened(wire, reads=False) as pipe:
            for _ in range(100):
                await pipe.begin("ListMessages", m.ListMessagesRequest(session_id="s"))
            # 4 MiB of answers may wait, and those of the calls that had begun by then.
            await until(lambda: wire.server.calls > 6)
            await wire.call("CountSessions", COUNT)
            assert wire.server.calls < 100
            while (frame := await pipe.read()) is not None:
                if any(answer.number == 100 for answer in frame.answers):
                    break


async def test_stopping_serves_calls_of_pipes_and_tells_their_clients() -> None:
    store = Holding()
    async with serving(store, grace=600.0) as wire, opened(wire) as pipe:
        held = await pipe.begin("GetSession", GET)
        await store.entered.wait()
        stopping = asyncio.create_task(wire.server.stop())
        await pipe.going_away.wait()
        late = await pipe.begin("CountSessions", COUNT)
        assert not (await pipe.answer(late)).HasField("status")
        assert not stopping.done()
        store.go.set()
        assert (await pipe.answer(held)).status.code == StatusCode.NOT_FOUND.value[0]
        await pipe.end()
        assert await pipe.ended() is None
        await stopping


async def test_a_client_that_does_not_leave_holds_up_a_stop_for_a_moment_only() -> None:
    async with serving(grace=600.0) as wire, opened(wire) as pipe:
        await pipe.call("CountSessions", COUNT)
        await wire.server.stop()
        assert await pipe.ended() is None


async def test_calls_of_pipes_that_outlast_the_grace_are_cancelled() -> None:
    writer = HoldingWriter(Holding())
    async with serving(writer=writer, grace=0.05) as wire, opened(wire) as pipe:
        await pipe.begin("AppendMessages", large(40))
        await writer.entered.wait()
        await wire.server.stop()
        assert writer.abandoned.is_set()
        failure = await pipe.ended()
        assert failure is not None
        assert failure.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)


async def test_a_stopping_server_opens_no_pipe() -> None:
    store = Holding()
    async with serving(store, grace=600.0) as wire, opened(wire) as pipe:
        held = await pipe.begin("GetSession", GET)
        await store.entered.wait()
        stopping = asyncio.create_task(wire.server.stop())
        await pipe.going_away.wait()
        with pytest.raises(Failure) as caught:
            async with opened(wire):
                pass
        assert caught.value.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
        store.go.set()
        await pipe.answer(held)
        await pipe.end()
        await stopping


async def test_idle_and_old_pipes_are_told_to_leave() -> None:
    for settings in ({"pipes": PipeLimits(idle=0.05)}, {"watch_age": 0.05}):
        async with serving(**settings) as wire, opened(wire) as pipe:
            await pipe.going_away.wait()
            assert (await pipe.call("CountSessions", COUNT)).count == 0
            await pipe.end()
            assert await pipe.ended() is None


async def test_a_pipe_that_is_used_is_not_idle() -> None:
    store = Holding()
    async with serving(store, pipes=PipeLimits(idle=0.02)) as wire, opened(wire) as pipe:
        number = await pipe.begin("GetSession", GET)
        loop = asyncio.get_running_loop()
        later = loop.time() + 0.1
        await until(lambda: loop.time() > later)
        assert not pipe.going_away.is_set()
        store.go.set()
        await pipe.answer(number)
        await pipe.going_away.wait()


async def test_a_removed_key_ends_its_pipes_and_refuses_their_calls_at_once() -> None:
    keys = {digest_of(key): replace(who, key=digest_of(key)) for key, who in PRINCIPALS.items()}
    authenticator = Authenticator(keys)
    async with serving(authenticator=authenticator) as wire, opened(wire) as pipe, opened(wire, key=ALICE) as other:
        await pipe.call("CountSessions", COUNT)
        del keys[digest_of(TENANT)]
        authenticator.use(keys)
        assert (await pipe.failure("CountSessions", COUNT)).reason == "UNAUTHENTICATED"
        assert wire.server.revoke(authenticator.holds) == 1
        await pipe.going_away.wait()
        await pipe.end()
        failure = await pipe.ended()
        assert failure is not None
        assert failure.reason == "UNAUTHENTICATED"
        await other.call("CountSessions", COUNT)


async def test_a_pipe_waits_for_its_server_to_be_ready() -> None:
    async with serving(ready=False) as wire:
        with pytest.raises(Failure) as caught:
            async with opened(wire):
                pass
        assert (caught.value.code, caught.value.reason) == (StatusCode.UNAVAILABLE, "STARTING")


async def test_calls_of_pipes_take_the_places_of_plain_calls() -> None:
    """With one place, a plain call waits for that of a pipe, and the other way round."""
    store = Holding()
    async with serving(store, most_calls=1) as wire, opened(wire) as pipe:
        held = await pipe.begin("GetSession", GET)
        await store.entered.wait()
        plain = wire.start("GetSession", GET)
        await until(lambda: wire.server.calls == 3)
        assert not plain.done()
        store.go.set()
        assert (await pipe.answer(held)).status.code == StatusCode.NOT_FOUND.value[0]
        with pytest.raises(grpc.aio.AioRpcError):
            await plain
