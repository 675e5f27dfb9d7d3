"""The client while the service fails, is slow, or is down."""

import asyncio
import threading
import traceback
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]

import sessiond
from sessiond import connection
from sessiond.channel import SERVICES
from tests.support.client_calls import ALL, STREAMS, TRANSFERS, WRITES
from tests.support.client_service import QUICK
from tests.support.scripted_server import METHODS, Fail, ScriptedServer, Wait, scripted_server

UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("rpc", WRITES)
async def test_a_retried_write_keeps_its_request_id(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([UNAVAILABLE, UNAVAILABLE])
    await WRITES[rpc](client)()
    assert len(server.seen) == 3
    assert server.seen[0].request == server.seen[1].request == server.seen[2].request
    assert server.seen[0].request.request_id
    assert [seen.metadata.get("grpc-previous-rpc-attempts") for seen in server.seen] == [None, "1", "2"]


async def test_call_that_the_server_cancelled_is_retried(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(Fail(grpc.StatusCode.CANCELLED))
    await client.end_session("s")
    first, second = (seen.request for seen in server.seen)
    assert first == second
    server.always = Fail(grpc.StatusCode.CANCELLED)
    with pytest.raises(sessiond.Unavailable) as caught:
        await client.end_session("s")
    assert caught.value.code == "CANCELLED"
    assert caught.value.request_id == server.seen[-1].request.request_id


@pytest.mark.parametrize("grace", [None, 0.01])
async def test_server_that_stops_fails_no_call(tmp_path: Path, grace: float | None) -> None:
    """Calls that reach it while it stops, and calls that it does not finish, are retried at the next server."""
    listen = f"unix:{tmp_path}/rolled"
    # As many tokens as there can be: each stop fails every call that is under way.
    retry = sessiond.Retry(initial_backoff=0.05, tokens=1000)
    async with sessiond.Client(listen, wait_for_ready=True, retry=retry) as client:
        stopped = asyncio.Event()

        async def work() -> int:
            calls = 0
            while not stopped.is_set():
                await client.touch_session("s")
                calls += 1
            return calls

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(16)]
            for _ in range(5):
                async with scripted_server(listen, grace=grace) as server:
                    while len(server.seen) < 50:
                        server.arrived.clear()
                        await server.arrived.wait()
            async with scripted_server(listen) as server:
                stopped.set()
                counts = [await worker for worker in workers]
    assert min(counts) > 0


async def test_a_large_write_is_retried_too(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(UNAVAILABLE)
    await client.append_messages("s", [sessiond.user("x" * 1_000_000) for _ in range(3)])
    assert len(server.seen) == 2


async def test_fifth_failure_is_raised(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = UNAVAILABLE
    with pytest.raises(sessiond.Unavailable) as caught:
        await client.suspend_session("s")
    assert len(server.seen) == 5
    assert caught.value.request_id == server.seen[0].request.request_id


async def test_retries_can_be_switched_off(server: ScriptedServer) -> None:
    server.always = UNAVAILABLE
    async with sessiond.Client(server.target, retry=sessiond.Retry(max_attempts=1)) as client:
        with pytest.raises(sessiond.Unavailable):
            await client.get_session("s")
    assert len(server.seen) == 1


RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("code", sorted(set(grpc.StatusCode) - RETRIED - {grpc.StatusCode.OK}, key=str))
async def test_other_codes_are_not_retried(
    code: grpc.StatusCode, client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.append(Fail(code))
    with pytest.raises(sessiond.SessiondError) as caught:
        await client.get_session("s")
    assert caught.value.code == code.name
    assert len(server.seen) == 1


async def test_retries_stop_when_most_attempts_fail(tmp_path: Path) -> None:
    # A socket of its own: grpc counts by target for the life of the process, and a port may have been another test's.
    async with scripted_server(f"unix:{tmp_path}/throttled") as server:
        retry = sessiond.Retry(initial_backoff=0.01, max_backoff=0.01, tokens=20)
        async with sessiond.Client(server.target, retry=retry) as client:
            attempts = []
            server.always = UNAVAILABLE
            for _ in range(4):
                server.seen.clear()
                with pytest.raises(sessiond.Unavailable):
                    await client.get_session("s")
                attempts.append(len(server.seen))
    assert attempts == [5, 5, 1, 1]


async def test_passed_deadline_is_raised_with_the_request_id(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Wait(asyncio.Event())
    with pytest.raises(sessiond.DeadlinePassed) as caught:
        await client.end_session("s", timeout=0.05)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    await server.cancelled.wait()
    assert caught.value.request_id == server.seen[0].request.request_id


async def test_default_timeout_of_the_client_is_applied(server: ScriptedServer) -> None:
    server.always = Wait(asyncio.Event())
    async with sessiond.Client(server.target, timeout=0.05) as client:
        with pytest.raises(sessiond.DeadlinePassed):
            await client.get_session("s")


async def test_unreachable_service_is_unavailable(tmp_path: Path) -> None:
    async with sessiond.Client(f"unix:{tmp_path}/nobody", retry=QUICK) as client:
        with pytest.raises(sessiond.Unavailable) as caught:
            await client.create_session()
    assert caught.value.reason == ""
    assert caught.value.request_id


async def test_call_without_a_connection_waits_for_one_after_its_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that restart in turn may all be away for each of grpc's five attempts."""
    monkeypatch.setattr(connection, "RECONNECT_WAIT", 3600.0)
    listen = f"unix:{tmp_path}/late"
    async with sessiond.Client(listen, retry=QUICK, timeout=3600.0) as client:
        waiting = asyncio.create_task(client.count_sessions())
        await asyncio.wait({waiting}, timeout=0.3)  # five attempts take a sixth of it
        assert not waiting.done()
        async with scripted_server(listen):
            assert await waiting == 0


@pytest.mark.parametrize(
    ("retry", "deadline"), [(QUICK, 0.3), (sessiond.Retry(max_attempts=1), 3600.0)], ids=["deadline", "without retries"]
)
async def test_wait_for_a_connection_ends(
    retry: sessiond.Retry, deadline: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RECONNECT_WAIT", 3600.0)
    async with sessiond.Client(f"unix:{tmp_path}/nobody", retry=retry, timeout=deadline) as client:
        with pytest.raises(sessiond.Unavailable) as caught:
            await client.create_session()
    assert caught.value.request_id


async def test_client_that_closes_ends_the_wait_for_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RECONNECT_WAIT", 3600.0)
    async with sessiond.Client(f"unix:{tmp_path}/nobody", retry=QUICK, timeout=3600.0) as client:
        waiting = asyncio.create_task(client.count_sessions())
        await asyncio.wait({waiting}, timeout=0.3)
    with pytest.raises((sessiond.Unavailable, sessiond.ClientClosed)):
        await waiting


@pytest.mark.parametrize("reason", ["STARTING", "DRAINING"])
async def test_call_refused_by_servers_that_start_or_stop_gets_five_attempts_more(
    reason: str, client: sessiond.Client, server: ScriptedServer
) -> None:
    refused = Fail(grpc.StatusCode.UNAVAILABLE, details=[ErrorInfo(reason=reason, domain="sessiond")])
    server.script.extend([refused] * 5)
    await client.end_session("s")
    assert len(server.seen) == 6
    assert len({seen.request.request_id for seen in server.seen}) == 1
    server.seen.clear()
    server.always = refused
    with pytest.raises(sessiond.Unavailable) as caught:
        await client.end_session("s")
    assert caught.value.reason == reason
    assert len(server.seen) == 10


async def test_a_client_can_wait_for_the_service(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/late"
    once = sessiond.Retry(max_attempts=1)
    async with (
        sessiond.Client(listen, retry=once) as impatient,
        sessiond.Client(listen, retry=once, wait_for_ready=True) as client,
    ):
        waiting = asyncio.create_task(client.count_sessions())
        with pytest.raises(sessiond.Unavailable):
            await impatient.count_sessions()
        assert not waiting.done()
        async with scripted_server(listen) as server:
            assert await waiting == 0
            assert len(server.seen) == 1


async def test_new_client_does_not_wait_for_the_backoff_of_another(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/late"
    once = sessiond.Retry(max_attempts=1)
    async with sessiond.Client(listen, retry=once) as early:
        with pytest.raises(sessiond.Unavailable):
            await early.count_sessions()
        async with scripted_server(listen), sessiond.Client(listen, retry=once) as new:
            assert await new.count_sessions() == 0


async def test_client_reconnects_to_a_restarted_service(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/restarted"
    async with sessiond.Client(listen, wait_for_ready=True) as client:
        for _ in range(2):
            async with scripted_server(listen) as server:
                await client.activate_session("s")
                assert len(server.seen) == 1


async def test_cancelled_task_cancels_its_call(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Wait(asyncio.Event())
    call = asyncio.create_task(client.get_session("s"))
    await server.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await server.cancelled.wait()
    assert len(server.seen) == 1
    server.always = None
    await client.get_session("s")
    assert len(server.seen) == 2


async def test_many_tasks_share_a_client(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([UNAVAILABLE, Fail(grpc.StatusCode.NOT_FOUND)])
    results = await asyncio.gather(*(client.get_session(f"s{i}") for i in range(64)), return_exceptions=True)
    assert [type(result) for result in results if isinstance(result, BaseException)] == [sessiond.NotFound]
    assert len(server.seen) == 65
    assert {seen.request.session_id for seen in server.seen} == {f"s{i}" for i in range(64)}


@pytest.mark.parametrize("rpc", ALL)
async def test_closed_client_raises_client_closed(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    await client.get_session("s")
    await client.close()
    with pytest.raises(sessiond.ClientClosed, match="closed"):
        await ALL[rpc](client)()
    await client.close()
    assert len(server.seen) == 1


@pytest.mark.parametrize("rpc", STREAMS)
async def test_closed_client_opens_no_watch(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    await client.close()
    with pytest.raises(sessiond.ClientClosed, match="closed"):
        await anext(STREAMS[rpc](client))
    assert not server.seen


@pytest.mark.parametrize("rpc", TRANSFERS)
async def test_closed_client_starts_no_transfer(rpc: str, client: sessiond.Client, server: ScriptedServer) -> None:
    await client.close()
    with pytest.raises(sessiond.ClientClosed, match="closed"):
        await TRANSFERS[rpc](client)
    assert not server.seen


async def test_unused_client_can_be_closed() -> None:
    client = sessiond.Client()
    await client.close()
    with pytest.raises(sessiond.ClientClosed):
        await client.get_session("s")


async def test_close_ends_calls_in_flight(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Wait(asyncio.Event())
    call = asyncio.create_task(client.get_session("s"))
    await server.arrived.wait()
    await client.close()
    with pytest.raises(sessiond.ClientClosed):
        await call


async def test_close_with_grace_lets_calls_finish(client: sessiond.Client, server: ScriptedServer) -> None:
    finish = asyncio.Event()
    server.always = Wait(finish)
    call = asyncio.create_task(client.get_session("s"))
    await server.arrived.wait()
    closing = asyncio.create_task(client.close(grace=60))
    finish.set()
    assert (await call).session_id == ""
    await closing


async def test_a_client_belongs_to_one_event_loop(client: sessiond.Client) -> None:
    await client.get_session("s")
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(client.get_session("s"))
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "event loop" in str(raised[0])


async def test_request_above_the_limit_is_not_sent(server: ScriptedServer) -> None:
    async with sessiond.Client(server.target, max_message_bytes=1000) as client:
        with pytest.raises(sessiond.RequestTooLarge) as caught:
            await client.append_messages("s", [sessiond.user("x" * 1000)])
        await client.get_session("s")
    assert caught.value.limit_bytes == 1000
    assert 1000 < caught.value.size_bytes < 1200
    assert [seen.method for seen in server.seen] == ["GetSession"]


async def test_full_queue_is_not_reported_as_a_large_request(server: ScriptedServer) -> None:
    server.always = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED)
    async with sessiond.Client(server.target, max_message_bytes=1000) as client:
        with pytest.raises(sessiond.Exhausted) as caught:
            await client.append_messages("s", [sessiond.user("x")])
    assert type(caught.value) is sessiond.Exhausted


async def test_errors_contain_no_message_contents(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Fail(grpc.StatusCode.INTERNAL)
    with pytest.raises(sessiond.SessiondError) as caught:
        await client.append_messages("s", [sessiond.user("open sesame"[::-1])])
    told = repr(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "as scripted" in told
    assert "open sesame"[::-1] not in told


def test_calls_of_every_service_are_retried() -> None:
    assert set(SERVICES) == {method.containing_service.full_name for method in METHODS.values()}
