"""Runs as blocks: how they begin, keep their lease, and end after success, errors, cancellation and loss."""

# ruff: noqa: PT012, SIM117 - what leaves a block of several statements is what is tested here

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from datetime import timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]

import sessiond
from sessiond.fields import ToolCallExpireActionLike
from sessiond.lease import Lease
from sessiond.tool_data import ToolValue
from sessiond.v1.run_service_pb2 import HeartbeatRunResponse, RunPolicy
from tests.support.approvals import request_that_expires
from tests.support.both_clients import async_only, connected
from tests.support.client_service import serving
from tests.support.scripted_server import Fail, ScriptedServer, Wait

BOTH_CLIENTS = True

Status = sessiond.RunStatus
UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE)


def refused(reason: str, code: grpc.StatusCode = grpc.StatusCode.ABORTED) -> Fail:
    told = {"session_id": "s", "run_id": "r"}
    return Fail(code, details=[ErrorInfo(reason=reason, domain="sessiond", metadata=told)])


FENCED = refused("RUN_FENCED")


def live(lease: float = 30) -> sessiond.Run:
    run = sessiond.Run(run_id="r", session_id="s", fence=7, status=Status.RUN_STATUS_RUNNING)
    run.lease.FromMilliseconds(round(lease * 1000))
    return run


def extended(lease: float = 30) -> HeartbeatRunResponse:
    answer = HeartbeatRunResponse()
    answer.lease.FromMilliseconds(round(lease * 1000))
    return answer


def calls(server: ScriptedServer) -> list[str]:
    return [seen.method for seen in server.seen]


async def until(server: ScriptedServer, condition: Callable[[], bool]) -> None:
    while not condition():
        server.arrived.clear()
        await server.arrived.wait()


@pytest.fixture
async def session_id(sessions: sessiond.Client) -> str:
    return (await sessions.create_session(active=True)).session_id


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    yield
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "sessiond-lease"]
    assert not left


async def test_block_runs_a_whole_turn(sessions: sessiond.Client, session_id: str) -> None:
    async with sessions.run(session_id, agent_id="agent", model="m1", metadata={"k": 1}, lease=10) as run:
        assert run.run == await sessions.get_run(session_id, run.run_id)
        assert (run.run.status, run.run.agent_id, run.run.lease.seconds) == (Status.RUN_STATUS_RUNNING, "agent", 10)
        appended = await run.append_messages([sessiond.assistant("On it.")])
        async with run.draft() as draft:
            await draft.write("Done.")
        assert draft.appended is not None
        for message_id in (appended.message_ids[0], draft.message_id):
            assert (await sessions.get_message(session_id, message_id)).run_id == run.run_id
        await run.update_session(state={"step": 1})
        call = await run.request_tool_call("weather", {"city": "Nara"}, requires_approval=True)
        assert call.run_id == run.run_id
        with pytest.raises(sessiond.ApprovalRequired):
            await run.start_tool_call(call.tool_call_id)
        pending = [each.tool_call_id async for each in sessions.list_pending_approvals()]
        assert pending == [call.tool_call_id]
        await sessions.approve_tool_call(session_id, call.tool_call_id, approver="ada", reason="harmless")
        decided = await run.wait_for_decision(call.tool_call_id)
        assert (decided.approval.approver, decided.approval.reason) == ("ada", "harmless")
        await run.start_tool_call(call.tool_call_id)
        done = await run.complete_tool_call(call.tool_call_id, "21 °C")
        assert sessiond.from_tool_data(done.result) == "21 °C"
        failing = await run.request_tool_call("fails")
        await run.start_tool_call(failing.tool_call_id)
        failed = await run.fail_tool_call(failing.tool_call_id, "TIMEOUT", "took too long", result=b"half")
        assert (failed.error.code, sessiond.from_tool_data(failed.result)) == ("TIMEOUT", b"half")
        given_up = await run.request_tool_call("given up")
        await run.cancel_tool_call(given_up.tool_call_id)
        attachment = await run.upload(b"21", name="nara.txt")
        assert attachment.run_id == run.run_id
        assert await run.delete_attachment(attachment.attachment_id) > attachment.seq
        run.usage, run.model = sessiond.TokenUsage(input_tokens=5, output_tokens=3), "m2"
    finished = run.finished
    assert finished is not None
    assert (finished.status, finished.model, finished.usage.total_tokens) == (Status.RUN_STATUS_COMPLETED, "m2", 8)
    assert [each.run_id async for each in sessions.list_runs(session_id, statuses=["completed"])] == [run.run_id]
    listed = [each.name async for each in sessions.list_tool_calls(session_id, run_id=run.run_id)]
    assert listed == ["given up", "fails", "weather"]
    metrics = await sessions.get_session_metrics(session_id)
    assert (metrics.run_count, metrics.runs.completed_count, metrics.runs.success_rate) == (1, 1, 1.0)
    with pytest.raises(sessiond.RunFenced):
        await run.append_messages([sessiond.assistant("too late")])


async def test_preset_runs_are_counted(sessions: sessiond.Client) -> None:
    before = sessiond.Run(run_id="old", status=Status.RUN_STATUS_FAILED)
    session = await sessions.create_session(runs=[before])
    assert session.run_count == 1
    assert (await sessions.get_session_metrics(session.session_id)).runs.failed_count == 1


@pytest.mark.parametrize(("action", "status"), [(None, "REJECTED"), ("reject", "REJECTED"), ("fail", "FAILED")])
async def test_wait_for_decision_ends_when_the_approval_expires(
    client_kind: str, action: ToolCallExpireActionLike | None, status: str
) -> None:
    async with serving({"sweep_interval": "50ms"}) as service, connected(client_kind, service.target) as sessions:
        session = await sessions.create_session(active=True)
        call = await request_that_expires(sessions, session.session_id, expire_action=action)
        decided = await sessions.wait_for_decision(session.session_id, call.tool_call_id)
        assert sessiond.ToolCallStatus.Name(decided.status) == f"TOOL_CALL_STATUS_{status}"
        assert [each async for each in sessions.list_pending_approvals()] == []


async def test_approval_ttl_is_counted_from_the_request(sessions: sessiond.Client, session_id: str) -> None:
    async with sessions.run(session_id) as run:
        call = await run.request_tool_call("rm", requires_approval=True, approval_ttl=timedelta(hours=1))
    assert call.expire_time.ToDatetime() - call.create_time.ToDatetime() == timedelta(hours=1)


async def test_wait_for_decision_returns_a_rejected_call(sessions: sessiond.Client, session_id: str) -> None:
    call = await sessions.request_tool_call(session_id, "rm", '{"path": "/"', requires_approval=True)
    waiting = asyncio.create_task(sessions.wait_for_decision(session_id, call.tool_call_id))
    rejected = await sessions.reject_tool_call(session_id, call.tool_call_id, reason="no")
    assert (await waiting).approval == rejected.approval
    assert (await sessions.wait_for_decision(session_id, call.tool_call_id)).status == rejected.status
    assert sessiond.from_tool_data(rejected.arguments) == '{"path": "/"'
    with pytest.raises(sessiond.ToolCallNotFound):
        await sessions.wait_for_decision(session_id, "nothing")


async def test_failed_block_fails_the_run(sessions: sessiond.Client, session_id: str) -> None:
    with pytest.raises(KeyError):
        async with sessions.run(session_id) as run:
            raise KeyError("a secret")
    failed = await sessions.get_run(session_id, run.run_id)
    assert run.finished == failed
    assert (failed.status, failed.error.code, failed.error.message) == (Status.RUN_STATUS_FAILED, "KeyError", "")
    with pytest.raises(KeyError):
        async with sessions.run(session_id) as run:
            run.error = sessiond.Failure(code="NO_MODEL", message="the model is away")
            raise KeyError("a secret")
    assert (await sessions.get_run(session_id, run.run_id)).error == run.error
    async with sessions.run(session_id) as run:
        run.error = sessiond.Failure(code="REFUSED")
    assert (await sessions.get_run(session_id, run.run_id)).status == Status.RUN_STATUS_FAILED


@async_only("it cancels a task")
async def test_cancelled_block_cancels_the_run(sessions: sessiond.Client, session_id: str) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with sessions.run(session_id, run_id="mine"):
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert (await sessions.get_run(session_id, "mine")).status == Status.RUN_STATUS_CANCELLED


@async_only("it cancels a task")
async def test_closed_generator_cancels_the_run(sessions: sessiond.Client, session_id: str) -> None:
    async def work() -> AsyncGenerator[str, None]:
        async with sessions.run(session_id) as run:
            yield run.run_id

    working = work()
    run_id = await anext(working)
    await working.aclose()
    assert (await sessions.get_run(session_id, run_id)).status == Status.RUN_STATUS_CANCELLED


async def test_queued_runs_start_in_order(sessions: sessiond.Client, session_id: str) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with sessions.run(session_id, policy="enqueue") as run:
            order.append(number)
            await run.append_messages([sessiond.assistant(str(number))])

    async with sessions.run(session_id):
        with pytest.raises(sessiond.RunInProgress):
            async with sessions.run(session_id):
                pytest.fail("entered")
        async with sessions.watch(session_id, types=["run_queued"]) as queued:
            workers = []
            for number in range(3):
                workers.append(asyncio.create_task(work(number)))
                await anext(queued)
        assert not order
    await asyncio.gather(*workers)
    assert order == [0, 1, 2]
    statuses = {each.status async for each in sessions.list_runs(session_id)}
    assert statuses == {Status.RUN_STATUS_COMPLETED}


@async_only("it cancels a task")
async def test_queued_run_that_is_cancelled_raises_run_ended(sessions: sessiond.Client, session_id: str) -> None:
    async def work(run_id: str) -> None:
        async with sessions.run(session_id, run_id=run_id, policy="enqueue"):
            pytest.fail("entered")

    async with sessions.run(session_id):
        async with sessions.watch(session_id, types=["run_queued"]) as queued:
            ones = [asyncio.create_task(work(run_id)) for run_id in ("stopped", "cancelled")]
            await anext(queued)
            await anext(queued)
        await sessions.cancel_run(session_id, "stopped")
        with pytest.raises(sessiond.RunEnded) as caught:
            await ones[0]
        assert (caught.value.run_id, caught.value.status) == ("stopped", "CANCELLED")
        ones[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await ones[1]
        assert (await sessions.get_run(session_id, "cancelled")).status == Status.RUN_STATUS_CANCELLED


async def test_deletion_of_the_session_ends_the_wait_of_a_queued_run(
    sessions: sessiond.Client, session_id: str
) -> None:
    async def work() -> None:
        async with sessions.run(session_id, policy="enqueue"):
            pytest.fail("entered")

    async with sessions.watch(session_id, types=["run_queued"]) as queued:
        assert (await sessions.begin_run(session_id)).fence > 0
        waiting = asyncio.create_task(work())
        await anext(queued)
    await sessions.delete_session(session_id)
    with pytest.raises(sessiond.SessiondError) as caught:
        await waiting
    assert isinstance(caught.value, sessiond.SessionNotFound | sessiond.RunEnded)


@async_only("it cancels a task")
async def test_an_interrupted_run_is_fenced(sessions: sessiond.Client, session_id: str) -> None:
    with pytest.raises(sessiond.RunFenced) as caught:
        async with sessions.run(session_id) as run:
            async with sessions.run(session_id, policy="interrupt") as other:
                await other.append_messages([sessiond.user("me first")])
                await run.append_messages([sessiond.user("me too")])
    assert caught.value.run_id == run.run_id
    interrupted = await sessions.get_run(session_id, run.run_id)
    assert interrupted.status == Status.RUN_STATUS_CANCELLED
    # To the inner run it was an exception like any other.
    assert (await sessions.get_run(session_id, other.run_id)).error.code == "RunFenced"


async def test_heartbeats_keep_the_lease(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(live(1.2))
    server.always = extended(1.2)
    async with client.run("s") as run:
        await until(server, lambda: calls(server).count("HeartbeatRun") >= 3)
        server.always = live()
    assert {seen.request.run.fence for seen in server.seen[1:]} == {7}
    assert calls(server)[-1] == "FinishRun"
    assert run.finished is not None


@async_only("it cancels a task")
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (FENCED, sessiond.RunFenced),
        (refused("SESSION_ENDED", grpc.StatusCode.FAILED_PRECONDITION), sessiond.SessionEnded),
        (refused("SESSION_NOT_FOUND", grpc.StatusCode.NOT_FOUND), sessiond.SessionNotFound),
    ],
)
async def test_lost_run_cancels_its_block(
    answer: Fail, error: type[sessiond.SessiondError], client: sessiond.Client, server: ScriptedServer
) -> None:
    server.script.append(live(0.6))
    server.always = answer
    cancelled = False
    with pytest.raises(error):
        async with client.run("s"):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise
    assert cancelled
    assert "FinishRun" not in calls(server)
    assert "CancelRun" not in calls(server)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


@async_only("it cancels a task")
async def test_lost_run_cancels_a_task_group_in_its_block(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(live(0.6))
    server.always = FENCED
    with pytest.raises(sessiond.RunFenced):
        async with client.run("s"), asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.Event().wait()) for _ in range(2)]
    assert all(task.cancelled() for task in tasks)


async def test_without_heartbeats_the_lease_runs_out(server: ScriptedServer) -> None:
    server.script.append(live(0.6))
    server.always = UNAVAILABLE
    async with sessiond.Client(server.target, retry=sessiond.Retry(max_attempts=1)) as client:
        with pytest.raises(sessiond.RunFenced, match="ran out") as caught:
            async with client.run("s"):
                await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, sessiond.Unavailable | sessiond.DeadlinePassed)


async def test_a_heartbeat_that_hangs_does_not_outlast_the_lease(server: ScriptedServer) -> None:
    server.script.append(live(0.05))
    server.always = Wait(asyncio.Event())
    async with sessiond.Client(server.target, timeout=1000) as client:
        with pytest.raises(sessiond.RunFenced) as caught:
            async with client.run("s"):
                await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, sessiond.DeadlinePassed)


@async_only("it cancels a task")
async def test_cancellation_of_a_lost_block_is_raised(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.append(live(0.6))
    server.always = FENCED
    lost = asyncio.Event()

    async def work() -> None:
        async with client.run("s"):
            try:
                await asyncio.Event().wait()
            finally:
                lost.set()
                await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await lost.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_write_that_is_fenced_ends_the_block(client: sessiond.Client, server: ScriptedServer) -> None:
    server.script.extend([live(), FENCED])
    with pytest.raises(sessiond.RunFenced):
        async with client.run("s", run_id="r") as run:
            await run.append_messages([sessiond.user("hi")])
    assert calls(server) == ["BeginRun", "AppendMessages"]


async def test_finish_is_retried_while_the_lease_lasts(server: ScriptedServer) -> None:
    server.script.extend([live(), UNAVAILABLE, UNAVAILABLE, live()])
    async with sessiond.Client(server.target, retry=sessiond.Retry(max_attempts=1)) as client:
        async with client.run("s") as run:
            run.usage = sessiond.TokenUsage(input_tokens=1)
    finishing = [seen.request for seen in server.seen if seen.method == "FinishRun"]
    assert len(finishing) == 3
    assert finishing[0] == finishing[1] == finishing[2]
    assert finishing[0].usage.input_tokens == 1
    assert run.finished is not None


async def test_failed_finish_does_not_hide_the_error_of_the_block(server: ScriptedServer) -> None:
    server.script.append(live(0.1))
    server.always = UNAVAILABLE
    async with sessiond.Client(server.target, retry=sessiond.Retry(max_attempts=1)) as client:
        with pytest.raises(KeyError):
            async with client.run("s"):
                raise KeyError
        server.script.append(live(0.1))
        with pytest.raises(sessiond.Unavailable):
            async with client.run("s"):
                pass


@async_only("it cancels a task")
async def test_cancelled_begin_cancels_the_run(client: sessiond.Client, server: ScriptedServer) -> None:
    server.always = Wait(asyncio.Event())
    entering = asyncio.create_task(client.run("s").__aenter__())
    await server.arrived.wait()
    server.always = None
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    begun, stopped = server.seen
    assert (begun.method, stopped.method) == ("BeginRun", "CancelRun")
    assert begun.request.run.run_id == stopped.request.run_id != ""


async def test_run_can_be_entered_once(client: sessiond.Client, server: ScriptedServer) -> None:
    run = client.run("s")
    with pytest.raises(RuntimeError, match="started"):
        run.fence  # noqa: B018
    server.always = live()
    async with run:
        with pytest.raises(RuntimeError, match="once"):
            await run.__aenter__()


async def test_close_of_the_client_cancels_the_block(server: ScriptedServer) -> None:
    server.script.append(live(0.6))
    async with sessiond.Client(server.target) as client:
        with pytest.raises(sessiond.ClientClosed):
            async with client.run("s"):
                await client.close()
                await asyncio.Event().wait()


async def test_lease_counts_from_the_sending_of_a_heartbeat() -> None:
    loop = asyncio.get_running_loop()
    timeouts: list[float] = []

    async def heartbeat(timeout: float) -> HeartbeatRunResponse:  # noqa: ASYNC109 - as Lease has it
        timeouts.append(timeout)
        return extended(9)

    since = loop.time()
    lease = Lease(heartbeat, 30, since, lambda _: None)
    assert lease.held_until == since + 30
    before = loop.time()
    await lease.extend()
    assert before + 9 <= lease.held_until <= loop.time() + 9
    await lease.extend()
    assert [round(timeout) for timeout in timeouts] == [10, 3]
    await lease.close()


async def test_begin_and_finish_send_every_argument(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.begin_run("s", run_id="r", policy="interrupt", lease=9, agent_id="a", model="m", metadata={"k": 1})
    error, usage = sessiond.Failure(code="C", message="why"), sessiond.TokenUsage(input_tokens=1)
    await client.finish_run("s", live(), status="failed", error=error, usage=usage, model="m2", expected_version=4)
    begun, finished = (seen.request for seen in server.seen)
    expected = sessiond.Run(run_id="r", agent_id="a", model="m", metadata=sessiond.to_struct({"k": 1}))
    expected.lease.seconds = 9
    assert (begun.run, begun.policy) == (expected, RunPolicy.RUN_POLICY_INTERRUPT)
    assert finished.run == sessiond.RunFence(run_id="r", fence=7)
    assert (finished.status, finished.error, finished.usage) == (Status.RUN_STATUS_FAILED, error, usage)
    assert (finished.model, finished.expected_version) == ("m2", 4)


async def test_tool_call_request_sends_every_argument(client: sessiond.Client, server: ScriptedServer) -> None:
    await client.request_tool_call(
        "s",
        "book",
        {"seats": 2},
        tool_call_id="t",
        requires_approval=True,
        message_id="m",
        model_call_id="c",
        run=live(),
    )
    request = server.seen[0].request
    assert request.tool_call == sessiond.ToolCall(
        tool_call_id="t",
        name="book",
        arguments=sessiond.to_tool_data({"seats": 2}),
        requires_approval=True,
        message_id="m",
        model_call_id="c",
    )
    assert request.run == sessiond.RunFence(run_id="r", fence=7)


@pytest.mark.parametrize(
    "write",
    [
        lambda client, run: client.append_messages("s", [sessiond.user("hi")], run=run),
        lambda client, run: client.update_session("s", name="n", run=run),
        lambda client, run: client.approve_tool_call("s", "t", run=run),
        lambda client, run: client.reject_tool_call("s", "t", run=run),
        lambda client, run: client.start_tool_call("s", "t", run=run),
        lambda client, run: client.complete_tool_call("s", "t", run=run),
        lambda client, run: client.fail_tool_call("s", "t", "C", run=run),
        lambda client, run: client.cancel_tool_call("s", "t", run=run),
        lambda client, run: client.delete_attachment("s", "a", run=run),
    ],
)
async def test_a_write_carries_the_fence(
    write: Callable[[sessiond.Client, sessiond.RunFence], Awaitable[object]],
    client: sessiond.Client,
    server: ScriptedServer,
) -> None:
    fence = sessiond.RunFence(run_id="r", fence=7)
    await write(client, fence)
    assert server.seen[0].request.run == fence


@pytest.mark.parametrize("value", [{}, {"a": [1, None]}, "", "text", b"", b"\xff"])
def test_tool_data_round_trips(value: ToolValue) -> None:
    assert sessiond.from_tool_data(sessiond.to_tool_data(value)) == value


def test_tool_data_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        sessiond.to_tool_data([1])  # type: ignore[arg-type]
