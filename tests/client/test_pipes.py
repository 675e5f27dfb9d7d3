"""Calls through pipes: what a client does in its own way there. The other tests of this folder run over pipes with
SESSIOND_TEST_PIPE=on."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]

import sessiond
from sessiond import pipe as one_pipe
from sessiond import pipes
from sessiond.v1.pipe_service_pb2 import OpenRequest, OpenResponse, PipeAnswer, PipePiece, PipeWindow
from sessiond_server.errors import SessionNotFound
from tests.support.both_clients import connected
from tests.support.client_service import QUICK, Service
from tests.support.scripted_pipe import WINDOW
from tests.support.scripted_server import Fail, ScriptedServer, Wait, failing, scripted_server
from tests.support.waiting import until

UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)
USES: tuple[pipes.PipeUse, ...] = ("off", "on")
ONCE = sessiond.Retry(max_attempts=1)


def own_tasks() -> set[str]:
    """Tasks of pipes in this loop."""
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("sessiond-pipe")}


@pytest.fixture
async def piped(server: ScriptedServer) -> AsyncIterator[sessiond.Client]:
    """A client that makes all calls through pipes."""
    async with sessiond.Client(server.target, pipe="on", retry=QUICK) as client:
        yield client


class TestUse:
    async def test_tests_of_this_folder_can_be_run_over_pipes(
        self, server: ScriptedServer, client: sessiond.Client
    ) -> None:
        await client.get_session("s")
        assert server.piped == (os.environ.get("SESSIOND_TEST_PIPE") == "on")

    async def test_lone_calls_are_plain_and_open_no_pipe(self, server: ScriptedServer) -> None:
        async with sessiond.Client(server.target, pipe="auto") as client:
            for _ in range(3):
                await client.get_session("s")
        assert (len(server.seen), server.opens) == (3, 0)

    async def test_concurrent_calls_share_frames(self, server: ScriptedServer) -> None:
        async with sessiond.Client(server.target, pipe="auto") as client:

            async def work() -> None:
                for _ in range(30):
                    await client.get_session("s")

            await asyncio.gather(*(work() for _ in range(16)))
            frames = sum(pipe.frames for pipe in server.pipes)
        assert len(server.seen) == 480
        assert server.piped > 300
        assert frames < server.piped / 2

    async def test_lone_call_can_go_through_a_pipe(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        await piped.get_session("s")
        assert (server.piped, server.opens) == (1, 1)

    async def test_pipes_can_be_switched_off(self, server: ScriptedServer) -> None:
        async with sessiond.Client(server.target, pipe="off") as client:
            await asyncio.gather(*(client.get_session("s") for _ in range(64)))
        assert (len(server.seen), server.opens) == (64, 0)

    @pytest.mark.parametrize("client", [sessiond.Client, sessiond.SyncClient])
    def test_other_uses_are_refused(self, client: Any) -> None:
        with pytest.raises(ValueError, match="pipe: must be"):
            client(pipe="always")

    async def test_channel_of_the_callers_own_has_no_pipes(self, server: ScriptedServer) -> None:
        channel = grpc.aio.insecure_channel(server.target)
        async with sessiond.Client(channel=channel, pipe="on") as client:
            await client.get_session("s")
        assert (len(server.seen), server.opens) == (1, 0)

    async def test_threads_of_a_synchronous_client_share_pipes(self, server: ScriptedServer) -> None:
        async with connected("sync", server.target, pipe="auto") as client:

            async def work() -> None:
                for _ in range(10):
                    await client.get_session("s")

            await asyncio.gather(*(work() for _ in range(8)))
        assert len(server.seen) == 80
        assert server.piped > 0

    async def test_many_calls_have_several_pipes(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        go = asyncio.Event()
        server.always = Wait(go)
        calls = [asyncio.create_task(piped.get_session("s")) for _ in range(100)]
        await until(lambda: len(server.seen) == 100)
        more = asyncio.create_task(piped.get_session("s"))
        await until(lambda: server.opens == 2)
        go.set()
        await asyncio.gather(*calls, more)


class TestServers:
    async def test_pipes_are_spread_over_servers(self) -> None:
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(scripted_server()) for _ in range(3)]
            target = "ipv4:" + ",".join(server.target for server in servers)
            client = await stack.enter_async_context(sessiond.Client(target, pipe="on"))

            async def work() -> None:
                while not all(server.piped for server in servers):
                    await client.get_session("s")

            async with asyncio.timeout(60):
                await asyncio.gather(*(work() for _ in range(64)))

    async def test_retry_goes_to_another_server(self) -> None:
        async with scripted_server() as first, scripted_server() as second:
            first.always = UNAVAILABLE
            target = f"ipv4:{first.target},{second.target}"
            async with sessiond.Client(target, pipe="on", retry=QUICK) as client:
                await asyncio.gather(*(client.get_session("s") for _ in range(20)))
        assert len(second.seen) == 20

    async def test_service_that_does_not_know_pipes_is_asked_once(self, server: ScriptedServer) -> None:
        server.window = None
        async with sessiond.Client(server.target, pipe="on") as client:
            for _ in range(3):
                await asyncio.gather(*(client.get_session("s") for _ in range(8)))
        assert (len(server.seen), server.opens, server.piped) == (24, 1, 0)

    async def test_service_with_too_many_pipes_gets_plain_calls(self, server: ScriptedServer) -> None:
        async def refuse(_: AsyncIterator[bytes], context: Any) -> None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")

        server.piping = refuse
        async with sessiond.Client(server.target, pipe="on") as client:
            await client.get_session("s")
        assert (len(server.seen), server.opens) == (1, 1)

    async def test_pipe_that_does_not_open_in_time_is_given_up(
        self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent(_: AsyncIterator[bytes], context: Any) -> None:
            await asyncio.Event().wait()

        server.piping = silent
        monkeypatch.setattr(one_pipe, "OPENING", 0.05)
        async with sessiond.Client(server.target, pipe="on") as client:
            await client.get_session("s")
            assert not own_tasks()
        assert len(server.seen) == 1

    async def test_opening_takes_no_longer_than_the_deadline_of_the_call(self, server: ScriptedServer) -> None:
        async def silent(_: AsyncIterator[bytes], context: Any) -> None:
            await asyncio.Event().wait()

        server.piping = silent
        async with sessiond.Client(server.target, pipe="on") as client:
            with pytest.raises(sessiond.DeadlinePassed):
                await client.get_session("s", timeout=0.05)
        assert not server.seen


class TestLeaving:
    async def test_going_away_loses_and_doubles_no_call(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        stop = asyncio.Event()

        async def work() -> int:
            calls = 0
            while not stop.is_set():
                await piped.touch_session("s")
                calls += 1
            return calls

        working = [asyncio.create_task(work()) for _ in range(16)]
        while server.opens < 20:
            await until(lambda: bool(server.pipes))
            for pipe in list(server.pipes):
                pipe.leave()
            await asyncio.sleep(0)
        stop.set()
        calls = sum(await asyncio.gather(*working))
        keys = [seen.request.request_id for seen in server.seen]
        assert len(keys) == len(set(keys)) == calls

    async def test_calls_that_are_on_their_way_are_served(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        go = asyncio.Event()
        server.script.append(Wait(go))
        early = asyncio.create_task(piped.end_session("s"))
        await until(lambda: len(server.seen) == 1)
        (pipe,) = server.pipes
        pipe.leave()
        while server.opens == 1:
            await piped.get_session("s")
        go.set()
        await early
        await until(lambda: pipe not in server.pipes)
        assert len([seen for seen in server.seen if seen.method == "EndSession"]) == 1

    async def test_call_that_was_not_sent_goes_elsewhere(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        await piped.get_session("s")
        held = piped._connection._pipes
        assert isinstance(held, pipes.Pipes)
        (pipe,) = held._pipes
        calls, call = 1, None
        while call is None or call.done():  # the frame of a call may be filled and sent in one turn of the loop
            calls, call = calls + 1, asyncio.create_task(piped.get_session("s"))
            while not (pipe.fills or call.done()):  # noqa: ASYNC110 - a turn later its frame has been sent
                await asyncio.sleep(0)
        pipe.leave()
        await call
        assert (len(server.seen), server.piped) == (calls, calls - 1)

    async def test_calls_of_a_broken_pipe_are_retried(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.script.extend([Wait(asyncio.Event())] * 3)
        calls = [asyncio.create_task(piped.end_session(f"s{each}")) for each in range(3)]
        await until(lambda: len(server.seen) == 3)
        for pipe in list(server.pipes):
            pipe.break_off()
        await asyncio.gather(*calls)
        keys = [seen.request.request_id for seen in server.seen]
        assert (len(keys), len(set(keys))) == (6, 3)

    async def test_broken_pipe_is_unavailable_without_retries(self, server: ScriptedServer) -> None:
        server.script.append(Wait(asyncio.Event()))
        async with sessiond.Client(server.target, pipe="on", retry=ONCE) as client:
            call = asyncio.create_task(client.end_session("s"))
            await until(lambda: len(server.seen) == 1)
            for pipe in list(server.pipes):
                pipe.break_off()
            with pytest.raises(sessiond.Unavailable, match="pipe ended") as caught:
                await call
        assert caught.value.request_id == server.seen[0].request.request_id

    async def test_stopped_service_is_unavailable(self, tmp_path: Path) -> None:
        async with sessiond.Client(f"unix:{tmp_path}/s", pipe="on", retry=ONCE) as client:
            async with scripted_server(f"unix:{tmp_path}/s"):
                await client.get_session("s")
            with pytest.raises(sessiond.Unavailable):
                await client.get_session("s")


class TestWindow:
    @pytest.mark.parametrize("calls", [1, 2])
    async def test_calls_wait_for_the_window(self, calls: int, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.window = PipeWindow(
            calls=calls, request_bytes=1 << 20, frame_bytes=4096, frame_entries=4, piece_bytes=512
        )
        await asyncio.gather(*(piped.append_messages("s", [sessiond.user("x" * 3000)]) for _ in range(20)))
        assert server.piped == 20

    async def test_requests_wait_for_the_window_of_bytes(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.window = PipeWindow(
            calls=512, request_bytes=300_000, frame_bytes=64 << 10, frame_entries=512, piece_bytes=32 << 10
        )
        go = asyncio.Event()
        server.always = Wait(go)
        calls = [asyncio.create_task(piped.append_messages("s", [sessiond.user("x" * 100_000)])) for _ in range(5)]
        await until(lambda: len(server.seen) == 2)
        small = asyncio.create_task(piped.append_messages("s", [sessiond.user("x" * 200_000)]))
        go.set()
        await asyncio.gather(*calls, small)
        assert server.piped == 6

    async def test_request_above_the_window_goes_plainly(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.window = PipeWindow(calls=8, request_bytes=1000, frame_bytes=4096, frame_entries=8, piece_bytes=512)
        await piped.append_messages("s", [sessiond.user("x" * 1000)])
        await piped.append_messages("s", [sessiond.user("x")])
        assert (len(server.seen), server.piped) == (2, 1)

    async def test_wait_for_the_window_ends_at_the_deadline(self, server: ScriptedServer) -> None:
        server.window = PipeWindow(calls=1, request_bytes=1000, frame_bytes=4096, frame_entries=8, piece_bytes=512)
        go = asyncio.Event()
        server.script.append(Wait(go))
        async with sessiond.Client(server.target, pipe="on", timeout=60) as client:
            first = asyncio.create_task(client.get_session("s"))
            await until(lambda: len(server.seen) == 1)
            with pytest.raises(sessiond.DeadlinePassed):
                await client.get_session("s", timeout=0.05)
            go.set()
            await first
            await client.get_session("s")
        assert len(server.seen) == 2

    @pytest.mark.parametrize("size", [30_000, 31_000, 32_000, 32 * 1024, 64 * 1024, 1_000_003])
    async def test_large_requests_and_answers_arrive_whole(
        self, size: int, server: ScriptedServer, piped: sessiond.Client
    ) -> None:
        server.always = sessiond.Session(name="y" * size)
        small = [piped.count_sessions() for _ in range(5)]
        text = "".join(chr(97 + each % 26) for each in range(size))
        server.script.extend([])
        got, *_ = await asyncio.gather(
            piped.update_session("s", name=text),
            *(piped.get_session("s") for _ in range(3)),
        )
        for each in small:
            each.close()
        assert got.name == "y" * size
        (update,) = [seen.request for seen in server.seen if seen.method == "UpdateSession"]
        assert update.session.name == text
        assert server.piped == 4

    async def test_small_calls_pass_between_pieces(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        await piped.get_session("s")
        server.seen.clear()
        large = asyncio.create_task(piped.append_messages("s", [sessiond.user("x" * 3_000_000)]))
        await asyncio.sleep(0)
        await piped.get_session("s")
        await large
        assert [seen.method for seen in server.seen] == ["GetSession", "AppendMessages"]

    async def test_answer_above_the_limit_fails_its_call_only(self, server: ScriptedServer) -> None:
        errors = []
        for use in USES:
            server.script.append(sessiond.Session(name="y" * 100_000))
            async with sessiond.Client(server.target, pipe=use, max_message_bytes=50_000) as client:
                with pytest.raises(sessiond.Exhausted) as caught:
                    await client.get_session("s")
                errors.append(caught.value)
                await client.get_session("s")
        assert server.piped == 2
        assert (type(errors[0]), errors[0].code) == (type(errors[1]), errors[1].code)


class TestErrors:
    async def test_errors_are_those_of_plain_calls(self, server: ScriptedServer) -> None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(1500)
        server.always = Fail(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", [retry], trailers=(("x-request-id", "r-1"),)
        )
        told = []
        for use in USES:
            async with sessiond.Client(server.target, pipe=use) as client:
                with pytest.raises(sessiond.Exhausted) as caught:
                    await client.get_session("s")
                cause = caught.value.__cause__
                assert isinstance(cause, grpc.aio.AioRpcError)
                told.append((repr(caught.value), caught.value.retry_after, sorted(cause.trailing_metadata() or ())))
        assert told[0] == told[1]
        assert told[0][1] == 1.5
        assert server.piped == 1

    async def test_errors_of_the_service_are_those_of_plain_calls(self, service: Service) -> None:
        told = []
        for use in USES:
            async with sessiond.Client(service.target, pipe=use) as client:
                with pytest.raises(sessiond.SessionNotFound) as gone:
                    await client.get_session("gone")
                with pytest.raises(sessiond.InvalidFields) as wrong:
                    await client.create_session(name="x" * 201)
                told.append([(repr(each), each.metadata, each.violations) for each in (gone.value, wrong.value)])
        assert told[0] == told[1]

    @pytest.mark.parametrize(("asked", "attempts"), [("0", 2), ("-1", 1), ("soon", 1)])
    async def test_service_decides_about_retries(self, asked: str, attempts: int, server: ScriptedServer) -> None:
        server.script.append(Fail(grpc.StatusCode.UNAVAILABLE, trailers=(("grpc-retry-pushback-ms", asked),)))
        slow = sessiond.Retry(initial_backoff=3600, max_backoff=3600)
        async with sessiond.Client(server.target, pipe="on", retry=slow) as client:
            if attempts == 1:
                with pytest.raises(sessiond.Unavailable):
                    await client.get_session("s")
            else:
                await client.get_session("s")
        assert len(server.seen) == server.piped == attempts

    async def test_deadline_ends_the_wait_for_a_retry(self, server: ScriptedServer) -> None:
        server.always = UNAVAILABLE
        slow = sessiond.Retry(initial_backoff=3600, max_backoff=3600)
        async with sessiond.Client(server.target, pipe="on", retry=slow) as client:
            with pytest.raises(sessiond.DeadlinePassed):
                await client.get_session("s", timeout=0.1)
        assert len(server.seen) == 1

    async def test_cancelled_call_gives_its_place_back(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.window = PipeWindow(calls=1, request_bytes=1000, frame_bytes=4096, frame_entries=8, piece_bytes=512)
        for each in range(3):
            server.script.append(Wait(asyncio.Event()))
            call = asyncio.create_task(piped.get_session("s"))
            await until(lambda seen=each: len(server.seen) == 2 * seen + 1)  # type: ignore[misc]
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.cancelled.wait()
            await piped.get_session("s")
        assert (server.opens, server.piped) == (1, 6)


Misdeed = Callable[[int, Any], Awaitable[None]]


def sends(*frames: OpenResponse | bytes) -> Misdeed:
    async def send(number: int, context: Any) -> None:
        for frame in frames:
            data = frame if isinstance(frame, bytes) else frame.SerializeToString()
            await context.write(data)
        await asyncio.Event().wait()

    return send


async def ends_early(number: int, context: Any) -> None:
    await context.write(
        OpenResponse(answers=[PipeAnswer(number=number, response=b"x", response_size=100)]).SerializeToString()
    )


async def answers_twice(number: int, context: Any) -> None:
    whole = OpenResponse(answers=[PipeAnswer(number=number)] * 2)
    await sends(whole)(number, context)


async def sends_too_much(number: int, context: Any) -> None:
    begun = PipeAnswer(number=number, response=b"x", response_size=3)
    await sends(OpenResponse(answers=[begun], pieces=[PipePiece(number=number, data=b"xxx")]))(number, context)


async def begins_twice(number: int, context: Any) -> None:
    begun = PipeAnswer(number=number, response=b"x", response_size=3)
    await sends(OpenResponse(answers=[begun, begun]))(number, context)


async def ends_what_it_began(number: int, context: Any) -> None:
    begun = PipeAnswer(number=number, response=b"x", response_size=3)
    await sends(OpenResponse(answers=[begun, PipeAnswer(number=number)]))(number, context)


MISDEEDS: dict[str, Misdeed] = {
    "garbage": sends(b"\xff\xff\xff"),
    "an answer to no call": sends(OpenResponse(answers=[PipeAnswer(number=10**6)])),
    "a long answer to no call": sends(OpenResponse(answers=[PipeAnswer(number=10**6, response_size=9)])),
    "a piece of no answer": sends(OpenResponse(pieces=[PipePiece(number=1, data=b"x")])),
    "two answers in one": begins_twice,
    "an end in the middle": ends_what_it_began,
    "too long": sends_too_much,
}


def misbehaving(deed: Misdeed, window: PipeWindow | None = WINDOW) -> Any:
    async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
        await context.write(OpenResponse(window=window).SerializeToString())
        async for data in requests:
            await deed(OpenRequest.FromString(data).calls[0].number, context)
            return

    return serve


class TestHostileServers:
    @pytest.mark.parametrize("deed", MISDEEDS)
    async def test_server_that_breaks_the_rules_loses_its_pipe(self, deed: str, server: ScriptedServer) -> None:
        server.piping = misbehaving(MISDEEDS[deed])
        async with sessiond.Client(server.target, pipe="on", retry=ONCE) as client:
            with pytest.raises(sessiond.Unavailable, match="pipe ended before the answer came"):
                await client.get_session("s")
            for _ in range(3):
                await client.get_session("s")
            assert not own_tasks()
        assert (server.opens, len(server.seen)) == (1, 3)

    @pytest.mark.parametrize("deed", MISDEEDS)
    async def test_calls_of_such_a_server_are_retried_plainly(self, deed: str, server: ScriptedServer) -> None:
        server.piping = misbehaving(MISDEEDS[deed])
        async with sessiond.Client(server.target, pipe="on", retry=QUICK) as client:
            await asyncio.gather(*(client.end_session(f"s{each}") for each in range(20)))
        assert server.opens == 1
        assert sorted(seen.request.session_id for seen in server.seen) == sorted(f"s{each}" for each in range(20))

    async def test_second_answer_ends_the_pipe(self, server: ScriptedServer) -> None:
        server.piping = misbehaving(answers_twice)
        async with sessiond.Client(server.target, pipe="on", retry=ONCE) as client:
            await client.get_session("s")
            await until(lambda: not own_tasks())
            await client.get_session("s")
        assert (server.opens, len(server.seen)) == (1, 1)

    async def test_answer_that_is_cut_off_is_unavailable(self, server: ScriptedServer) -> None:
        server.piping = misbehaving(ends_early)
        async with sessiond.Client(server.target, pipe="on", retry=ONCE) as client:
            with pytest.raises(sessiond.Unavailable):
                await client.get_session("s")
            await client.get_session("s")

    async def test_response_that_cannot_be_parsed_fails_its_call(self, server: ScriptedServer) -> None:
        async def serve(number: int, context: Any) -> None:
            answer = PipeAnswer(number=number, response=b"\xff\xff")
            await sends(OpenResponse(answers=[answer]))(number, context)

        server.piping = misbehaving(serve)
        async with sessiond.Client(server.target, pipe="on") as client:
            with pytest.raises(sessiond.SessiondError, match="cannot be parsed") as caught:
                await client.get_session("s")
        assert caught.value.code == "INTERNAL"

    @pytest.mark.parametrize("code", [0, 99, -1])
    async def test_unknown_status_is_a_typed_error(self, code: int, server: ScriptedServer) -> None:
        async def serve(number: int, context: Any) -> None:
            answer = PipeAnswer(number=number)
            answer.status.code = code
            answer.status.details = b"\xff\xff"
            await sends(OpenResponse(answers=[answer]))(number, context)

        server.piping = misbehaving(serve)
        async with sessiond.Client(server.target, pipe="on") as client:
            with pytest.raises(sessiond.SessiondError) as caught:
                await client.get_session("s")
        assert caught.value.code == "UNKNOWN"

    @pytest.mark.parametrize(
        "window",
        [
            None,
            PipeWindow(),
            PipeWindow(calls=0, request_bytes=1, frame_bytes=4096, frame_entries=4, piece_bytes=1),
            PipeWindow(calls=1, request_bytes=0, frame_bytes=4096, frame_entries=4, piece_bytes=1),
            PipeWindow(calls=1, request_bytes=1, frame_bytes=4095, frame_entries=4, piece_bytes=1),
            PipeWindow(calls=1, request_bytes=1, frame_bytes=4096, frame_entries=3, piece_bytes=1),
            PipeWindow(calls=1, request_bytes=1, frame_bytes=4096, frame_entries=4, piece_bytes=0),
        ],
    )
    async def test_window_that_lets_nothing_through_is_no_pipe(
        self, window: PipeWindow | None, server: ScriptedServer
    ) -> None:
        server.piping = misbehaving(sends(), window)
        async with sessiond.Client(server.target, pipe="on") as client:
            for _ in range(3):
                await client.get_session("s")
        assert (server.opens, len(server.seen)) == (1, 3)

    async def test_least_window_is_one(self, server: ScriptedServer, piped: sessiond.Client) -> None:
        server.window = PipeWindow(calls=1, request_bytes=100, frame_bytes=4096, frame_entries=4, piece_bytes=1)
        await piped.get_session("session-1")
        assert server.seen[0].request.session_id == "session-1"
        assert server.piped == 1

    async def test_server_that_never_answers_loses_its_pipe(
        self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(one_pipe, "PATIENCE", 0.05)
        server.piping = misbehaving(sends())
        async with sessiond.Client(server.target, pipe="on", retry=ONCE) as client:
            with pytest.raises(sessiond.DeadlinePassed):
                await client.get_session("s", timeout=0.1)
            await until(lambda: not own_tasks())
            await client.get_session("s")
        assert len(server.seen) == 1


class TestEnds:
    async def test_closed_client_leaves_nothing(self, server: ScriptedServer) -> None:
        server.always = Wait(asyncio.Event())
        client = sessiond.Client(server.target, pipe="on")
        calls = [asyncio.create_task(client.get_session("s")) for _ in range(30)]
        await until(lambda: len(server.seen) == 30)
        await client.close()
        for call in calls:
            with pytest.raises(sessiond.ClientClosed):
                await call
        assert not own_tasks()
        await until(lambda: not server.pipes)

    async def test_close_ends_pauses_between_attempts(self, server: ScriptedServer) -> None:
        server.always = UNAVAILABLE
        slow = sessiond.Retry(initial_backoff=3600, max_backoff=3600)
        client = sessiond.Client(server.target, pipe="on", retry=slow, timeout=3600)
        call = asyncio.create_task(client.get_session("s"))
        await until(lambda: len(server.seen) == 1)
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(sessiond.ClientClosed):
            await call

    async def test_close_with_grace_lets_piped_calls_finish(
        self, server: ScriptedServer, piped: sessiond.Client
    ) -> None:
        go = asyncio.Event()
        server.always = Wait(go)
        call = asyncio.create_task(piped.get_session("s"))
        await until(lambda: len(server.seen) == 1)
        closing = asyncio.create_task(piped.close(grace=60))
        await asyncio.sleep(0)
        go.set()
        await call
        await closing
        assert not own_tasks()

    async def test_client_that_is_dropped_ends_its_pipes(self, server: ScriptedServer) -> None:
        client = sessiond.Client(server.target, pipe="on")
        await client.get_session("s")
        assert own_tasks()
        del client
        gc.collect()
        await until(lambda: not own_tasks() and not server.pipes)

    async def test_cancelled_and_failed_calls_leave_nothing(
        self, server: ScriptedServer, piped: sessiond.Client
    ) -> None:
        server.script.extend([failing(SessionNotFound("s")), Wait(asyncio.Event()), Wait(asyncio.Event())])
        with pytest.raises(sessiond.SessionNotFound):
            await piped.get_session("s")
        call = asyncio.create_task(piped.get_session("s"))
        await until(lambda: len(server.seen) == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(sessiond.DeadlinePassed):
            await piped.get_session("s", timeout=0.05)
        await piped.get_session("s")
        held = piped._connection._pipes
        assert isinstance(held, pipes.Pipes)
        assert (held.under_way, len(held._attempts), len(held._waiting)) == (0, 0, 0)
