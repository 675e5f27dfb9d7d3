"""Runs: policies, lease and fence, what their end entails, and what they leave in the session."""

import pytest

from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session, TokenUsage
from sessiond.v1.tool_call_pb2 import ToolCallCancelReason
from sessiond_server.domain import commands as c
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.runs.counters import RunCounters
from sessiond_server.errors import (
    InvalidFields,
    RunAlreadyExists,
    RunEnded,
    RunFenced,
    RunInProgress,
    RunNotFound,
    RunQueueFull,
    SessionEnded,
    SessionNotActive,
    VersionMismatch,
)
from tests.support.run_actions import (
    ENQUEUE,
    INTERRUPT,
    LEASE,
    begin,
    begun,
    complete,
    decide,
    finish,
    kinds,
    request,
    status_of,
    status_of_call,
)
from tests.support.session_log import CLIENT, KEY, REPLACE, SECOND, START, Log, new_session, user

EXPIRE = c.ExpireSession()


@pytest.fixture
def log() -> Log:
    log = Log()
    log.create()
    return log


def settled(log: Log) -> Session:
    """The session; fails unless its log folds to it."""
    session = log.session()
    assert log.folded() == session
    return session


class TestBegin:
    def test_a_run_is_live_with_a_fence_and_a_lease(self, log: Log) -> None:
        fence = begun(log, "r1")
        run, session = log.run("r1"), settled(log)
        assert (run.seq, run.version, run.fence, run.agent_id, run.model) == (2, 2, 2, "agent", "model")
        assert run.start_time == run.create_time
        assert run.lease_expire_time.seconds == START // SECOND + LEASE
        assert (session.live_run_id, session.live_run_fence, session.run_count) == ("r1", fence.fence, 1)
        assert log.heads[KEY].lease_expire_us == START + LEASE * SECOND
        assert kinds(log.log()) == ["SESSION_CREATED", "RUN_STARTED"]

    def test_without_an_id_the_server_makes_one(self, log: Log) -> None:
        assert begun(log).run_id

    def test_fences_grow(self, log: Log) -> None:
        first = begun(log)
        log.append()
        log.ok(finish(), fence=first)
        assert begun(log).fence > first.fence

    def test_reject_names_the_live_run(self, log: Log) -> None:
        begun(log, "r1")
        refusal = log.do(begin("r2"))
        assert isinstance(refusal, RunInProgress)
        assert refusal.metadata == {"session_id": "s1", "run_id": "r1"}

    def test_enqueue_waits_and_starts_when_the_live_one_ends(self, log: Log) -> None:
        first = begun(log, "r1")
        outcome = log.ok(begin("r2", ENQUEUE))
        assert isinstance(outcome, c.RunWritten)
        waiting = Run.FromString(outcome.run)
        assert (status_of(waiting), waiting.fence, waiting.HasField("lease_expire_time")) == ("QUEUED", 0, False)
        log.ok(begin("r3", ENQUEUE))
        assert (settled(log).queued_run_count, settled(log).run_count) == (2, 3)
        log.now += 20 * SECOND
        log.ok(finish(), fence=first)
        started = log.run("r2")
        assert (status_of(started), started.fence, started.seq) == ("RUNNING", 6, 3)
        assert started.lease_expire_time.seconds == log.now // SECOND + LEASE
        assert (settled(log).live_run_id, settled(log).queued_run_count, settled(log).run_count) == ("r2", 1, 3)

    def test_enqueue_with_nothing_live_starts_at_once(self, log: Log) -> None:
        log.ok(begin("r1", ENQUEUE))
        assert status_of(log.run("r1")) == "RUNNING"

    def test_the_queue_is_bounded(self, log: Log) -> None:
        begun(log)
        for _ in range(run_rules.MOST_QUEUED):
            log.ok(begin(policy=ENQUEUE))
        refusal = log.do(begin(policy=ENQUEUE))
        assert isinstance(refusal, RunQueueFull)
        assert settled(log).queued_run_count == run_rules.MOST_QUEUED

    def test_interrupt_ends_the_live_one_and_goes_ahead_of_those_that_wait(self, log: Log) -> None:
        first = begun(log, "r1")
        log.ok(begin("r2", ENQUEUE))
        log.ok(request("t1"), fence=first)
        log.ok(begin("r3", INTERRUPT))
        assert kinds(log.log())[-3:] == ["TOOL_CALL_CANCELLED", "RUN_CANCELLED", "RUN_STARTED"]
        assert [event.index_in_request for event in log.log()[-3:]] == [0, 1, 2]
        assert log.run("r1").end_reason == RunEndReason.RUN_END_REASON_INTERRUPTED
        assert [status_of(log.run(r)) for r in ("r1", "r2", "r3")] == ["CANCELLED", "QUEUED", "RUNNING"]
        session = settled(log)
        assert (session.live_run_id, session.queued_run_count, session.open_tool_call_count) == ("r3", 1, 0)
        assert isinstance(log.do(c.AppendMessages([user()]), fence=first), RunFenced)

    def test_taken_id_is_refused_also_when_its_run_has_ended(self, log: Log) -> None:
        fence = begun(log, "r1")
        assert isinstance(log.do(begin("r1", ENQUEUE)), RunAlreadyExists)
        log.ok(finish(), fence=fence)
        before = settled(log)
        assert isinstance(log.do(begin("r1")), RunAlreadyExists)
        assert log.session() == before

    def test_needs_an_active_session(self, log: Log) -> None:
        log.ok(c.SuspendSession())
        assert isinstance(log.do(begin()), SessionNotActive)
        log.ok(c.EndSession(CLIENT))
        assert isinstance(log.do(begin()), SessionEnded)

    def test_what_the_caller_passed_is_not_changed(self, log: Log) -> None:
        given, same = begin("r1"), begin("r1")
        log.ok(given)
        assert given == same


class TestFence:
    @pytest.mark.parametrize(
        "action",
        [
            c.AppendMessages([user()]),
            c.UpdateSession(new_session(name="n"), ["name"], REPLACE),
            c.HeartbeatRun(),
            finish(),
            request("t2"),
            decide("t1"),
            c.StartToolCall("t1"),
            c.CancelToolCall("t1"),
            complete("t1"),
        ],
        ids=lambda action: type(action).__name__,
    )
    def test_every_write_with_a_stale_fence_is_refused(self, log: Log, action: c.Action) -> None:
        stale = begun(log, "r1")
        log.ok(finish(), fence=stale)
        log.ok(request("t1"))
        live = begun(log, "r2")
        before = settled(log)
        for fence in (stale, c.Fence("r2", stale.fence), c.Fence("r1", live.fence), c.Fence("nobody", 1)):
            refusal = log.do(action, fence=fence)
            assert isinstance(refusal, RunFenced)
            assert refusal.metadata["live_run_id"] == "r2"
        log.now += LEASE * SECOND
        assert isinstance(log.do(action, fence=live), RunFenced), "the lease has run out, swept or not"
        if not isinstance(action, c.FinishRun):
            assert log.session() == before

    def test_write_before_the_lease_ends_is_accepted(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.now += LEASE * SECOND - 1
        log.ok(c.AppendMessages([user()]), fence=fence)
        assert log.messages()[-1].run_id == "r1"

    def test_write_without_a_fence_is_accepted_while_a_run_is_live(self, log: Log) -> None:
        begun(log, "r1")
        log.append(user("a person"))
        assert log.messages()[-1].run_id == ""

    def test_retry_gets_its_outcome_after_its_run_was_fenced(self, log: Log) -> None:
        fence = begun(log, "r1")
        first = log.ok(finish(), fence=fence, request_id="r")
        log.now += 100 * SECOND
        assert log.ok(finish(), fence=fence, request_id="r") == first
        assert isinstance(log.do(finish(), fence=fence), RunFenced)


class TestHeartbeat:
    def test_extends_the_lease_and_makes_no_event(self, log: Log) -> None:
        fence = begun(log, "r1")
        before = settled(log)
        log.now += 20 * SECOND
        outcome = log.ok(c.HeartbeatRun(), fence=fence)
        assert outcome == c.LeaseExtended(before.version, log.now + LEASE * SECOND, LEASE * SECOND)
        assert log.session() == before
        log.now += 20 * SECOND
        log.ok(c.AppendMessages([user()]), fence=fence)
        assert log.heads[KEY].lease_expire_us == outcome.lease_expire_time_us

    def test_heartbeat_never_shortens_the_lease(self, log: Log) -> None:
        fence = begun(log, "r1", lease=60)
        log.now -= 10 * SECOND
        outcome = log.ok(c.HeartbeatRun(), fence=fence)
        assert isinstance(outcome, c.LeaseExtended)
        assert outcome.lease_expire_time_us == START + 60 * SECOND

    def test_heartbeat_works_in_the_batch_of_its_begin(self, log: Log) -> None:
        log.apply(log.command(begin("r1")), log.command(c.HeartbeatRun(), fence=c.Fence("r1", 2)))
        assert log.heads[KEY].lease_expire_us == START + LEASE * SECOND

    def test_heartbeat_in_an_expired_session_is_refused(self, log: Log) -> None:
        fence = begun(log, "r1", lease=3600)
        log.ok(c.UpdateSession(new_session(ttl={"seconds": 5}), ["ttl"], REPLACE))
        log.now += 6 * SECOND
        assert isinstance(log.do(c.HeartbeatRun(), fence=fence), SessionEnded)


class TestFinish:
    def test_finish_stores_status_and_usage(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.now += 5 * SECOND
        outcome = log.ok(finish(7), fence=fence)
        assert isinstance(outcome, c.RunWritten)
        run = log.run("r1")
        assert Run.FromString(outcome.run) == run
        assert (status_of(run), run.end_reason, run.version) == ("COMPLETED", 0, 3)
        assert not run.HasField("lease_expire_time")
        assert run.end_time.seconds - run.start_time.seconds == 5
        assert run.usage == TokenUsage(input_tokens=7, output_tokens=7, total_tokens=14)
        session = settled(log)
        assert session.usage.total_tokens == 14
        assert (session.live_run_id, session.live_run_fence, log.heads[KEY].lease_expire_us) == ("", 0, None)

    def test_failed_with_an_error(self, log: Log) -> None:
        log.ok(finish(failed="quota"), fence=begun(log, "r1"))
        assert (status_of(log.run("r1")), log.run("r1").error.code) == ("FAILED", "quota")

    def test_completed_run_leaves_calls_that_await_approval_open(self, log: Log) -> None:
        fence = begun(log, "r1")
        for tool_call_id, approval in (("plain", False), ("asked", True), ("approved", True), ("running", True)):
            log.ok(request(tool_call_id, approval=approval), fence=fence)
        log.ok(decide("approved"))
        log.ok(decide("running"))
        log.ok(c.StartToolCall("running"), fence=fence)
        log.ok(request("nobodys"))
        log.ok(finish(), fence=fence)
        states = {t: status_of_call(log.call(t)) for t in log.calls[KEY]}
        assert states == {
            "plain": "CANCELLED",
            "asked": "PENDING",
            "approved": "APPROVED",
            "running": "CANCELLED",
            "nobodys": "PENDING",
        }
        assert log.call("plain").cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_RUN_FINISHED
        session = settled(log)
        assert (session.open_tool_call_count, session.pending_approval_count) == (3, 1)
        log.ok(c.StartToolCall("approved"), fence=begun(log, "r2"))

    def test_failed_closes_all_calls_of_the_run(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.ok(request("asked", approval=True), fence=fence)
        log.ok(finish(failed="x"), fence=fence)
        assert status_of_call(log.call("asked")) == "CANCELLED"
        assert settled(log).pending_approval_count == 0


class TestCancel:
    def test_cancelling_the_live_run_starts_the_next(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.ok(begin("r2", ENQUEUE))
        outcome = log.ok(c.CancelRun("r1"), request_id="r")
        assert isinstance(outcome, c.RunWritten)
        assert (status_of(Run.FromString(outcome.run)), outcome.version) == ("CANCELLED", log.session().version)
        assert settled(log).live_run_id == "r2"
        assert isinstance(log.do(c.HeartbeatRun(), fence=fence), RunFenced)
        assert log.ok(c.CancelRun("r1"), request_id="r") == outcome

    def test_cancelled_queued_run_never_starts(self, log: Log) -> None:
        begun(log, "r1")
        log.ok(begin("r2", ENQUEUE))
        log.ok(begin("r3", ENQUEUE))
        log.ok(c.CancelRun("r2"))
        assert (settled(log).live_run_id, settled(log).queued_run_count) == ("r1", 1)
        log.ok(c.CancelRun("r1"))
        assert settled(log).live_run_id == "r3"
        assert not log.run("r2").HasField("start_time")

    def test_cancelling_a_finished_run_says_how_it_ended(self, log: Log) -> None:
        log.ok(finish(), fence=begun(log, "r1"))
        refusal = log.do(c.CancelRun("r1"))
        assert isinstance(refusal, RunEnded)
        assert refusal.metadata["status"] == "COMPLETED"
        assert isinstance(log.do(c.CancelRun("none")), RunNotFound)


class TestLease:
    def test_expired_lease_fails_the_run_and_starts_the_next(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.ok(begin("r2", ENQUEUE))
        log.ok(request("t1"), fence=fence)
        log.ok(c.StartToolCall("t1"), fence=fence)
        log.ok(request("asked", approval=True), fence=fence)
        log.now += LEASE * SECOND
        assert log.ok(EXPIRE) == c.NothingToDo(log.session().version)
        assert kinds(log.log())[-4:] == ["TOOL_CALL_CANCELLED", "TOOL_CALL_CANCELLED", "RUN_FAILED", "RUN_STARTED"]
        assert [event.index_in_request for event in log.log()[-4:]] == [0, 1, 2, 3]
        assert {event.actor for event in log.log()[-4:]} == {"sessiond"}
        run = log.run("r1")
        assert (status_of(run), run.end_reason) == ("FAILED", RunEndReason.RUN_END_REASON_LEASE_EXPIRED)
        assert log.call("t1").cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_LEASE_EXPIRED
        session = settled(log)
        assert (session.live_run_id, session.open_tool_call_count, session.pending_approval_count) == ("r2", 0, 0)
        assert log.heads[KEY].lease_expire_us == log.now + LEASE * SECOND

    def test_lease_does_not_expire_early(self, log: Log) -> None:
        begun(log, "r1")
        log.now += LEASE * SECOND - 1
        before = log.session()
        assert log.ok(EXPIRE) == c.NothingToDo(before.version)
        assert log.session() == before

    @pytest.mark.parametrize("policy", [1, 2, 3])
    def test_begin_run_ends_a_run_whose_lease_expired(self, log: Log, policy: int) -> None:
        begun(log, "r1")
        log.now += LEASE * SECOND
        log.ok(begin("r2", policy))  # type: ignore[arg-type]
        assert [status_of(log.run(r)) for r in ("r1", "r2")] == ["FAILED", "RUNNING"]
        assert [event.actor for event in log.log()[-2:]] == ["sessiond", "test"]
        assert [event.index_in_request for event in log.log()[-2:]] == [0, 0]
        settled(log)

    def test_expired_run_is_ended_even_when_the_command_is_refused(self, log: Log) -> None:
        begun(log, "r1")
        log.ok(begin("r2", ENQUEUE))
        log.now += LEASE * SECOND
        assert isinstance(log.do(begin("r3"), expected_version=log.session().version), VersionMismatch)
        assert isinstance(log.do(begin("r3")), RunInProgress)
        assert settled(log).live_run_id == "r2"

    def test_the_databases_clock_goes_back_an_hour(self, log: Log) -> None:
        """As after a failover. The lease lasts longer by as much, until the next heartbeat."""
        fence = begun(log, "r1")
        log.ok(begin("waits", ENQUEUE))
        log.now -= 3600 * SECOND
        log.ok(request("t"), fence=fence)
        log.ok(c.HeartbeatRun(), fence=fence)
        assert log.heads[KEY].lease_expire_us == log.now + LEASE * SECOND
        log.ok(begin("r2", INTERRUPT))
        log.ok(c.CancelRun("r2"))
        for run in (log.run("r1"), log.run("r2")):
            assert run.create_time.seconds <= run.start_time.seconds <= run.end_time.seconds
        times = [event.create_time.ToMicroseconds() for event in log.log()]
        assert times == sorted(times)
        assert settled(log).live_run_id == "waits"
        assert RunCounters.decoded(log.run_counters[KEY]).total_us == 0

    def test_the_databases_clock_goes_forward_an_hour(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.now += 3600 * SECOND
        for action in (c.HeartbeatRun(), finish(), request("t")):
            assert isinstance(log.do(action, fence=fence), RunFenced)
        begun(log, "r2")
        assert status_of(log.run("r1")) == "FAILED"
        settled(log)

    def test_expired_session_ends_instead_of_its_run(self, log: Log) -> None:
        begun(log, "r1")
        log.ok(c.UpdateSession(new_session(ttl={"seconds": 10}), ["ttl"], REPLACE))
        log.now += 1000 * SECOND
        log.ok(EXPIRE)
        assert kinds(log.log())[-2:] == ["RUN_CANCELLED", "SESSION_EXPIRED"]
        assert log.run("r1").end_reason == RunEndReason.RUN_END_REASON_SESSION_EXPIRED


class TestCascade:
    def full(self, log: Log) -> c.Fence:
        fence = begun(log, "live")
        log.ok(begin("waits", ENQUEUE))
        for tool_call_id in ("pending", "asked", "approved", "running"):
            log.ok(request(tool_call_id, approval=tool_call_id in ("asked", "approved")), fence=fence)
        log.ok(decide("approved"))
        log.ok(c.StartToolCall("running"), fence=fence)
        return fence

    def test_suspend_cancels_runs_and_running_calls_and_keeps_approvals(self, log: Log) -> None:
        fence = self.full(log)
        log.ok(request("nobodys"))
        log.ok(c.SuspendSession())
        ends = ["TOOL_CALL_CANCELLED"] * 2 + ["RUN_CANCELLED"] * 2
        assert kinds(log.log())[-5:] == [*ends, "SESSION_SUSPENDED"]
        states = {t: status_of_call(log.call(t)) for t in log.calls[KEY]}
        closed, waits = {"pending": "CANCELLED", "running": "CANCELLED"}, {"asked": "PENDING", "approved": "APPROVED"}
        assert states == {**closed, **waits, "nobodys": "PENDING"}
        for run_id in ("live", "waits"):
            assert log.run(run_id).end_reason == RunEndReason.RUN_END_REASON_SESSION_SUSPENDED
        session = settled(log)
        assert (session.live_run_id, session.queued_run_count, session.open_tool_call_count) == ("", 0, 3)
        for action in (decide("asked"), c.StartToolCall("approved"), c.CancelToolCall("nobodys"), request("new")):
            assert isinstance(log.do(action), SessionNotActive)
        assert isinstance(log.do(c.StartToolCall("approved"), fence=fence), RunFenced)
        log.ok(c.ResumeSession())
        log.ok(decide("asked"))
        log.ok(c.StartToolCall("approved"))

    @pytest.mark.parametrize("expires", [False, True])
    def test_ending_closes_everything(self, log: Log, expires: bool) -> None:
        self.full(log)
        before = log.session()
        if expires:
            log.now = START + 2 * 86_400 * SECOND
            outcome = log.ok(EXPIRE)
        else:
            outcome = log.ok(c.EndSession(CLIENT), request_id="r")
        kind = "EXPIRED" if expires else "ENDED"
        assert kinds(log.log())[-7:] == [
            *["TOOL_CALL_CANCELLED"] * 4,
            "RUN_CANCELLED",
            "RUN_CANCELLED",
            f"SESSION_{kind}",
        ]
        assert {status_of_call(log.call(t)) for t in log.calls[KEY]} == {"CANCELLED"}
        assert {RunEndReason.Name(log.run(r).end_reason) for r in ("live", "waits")} == {
            f"RUN_END_REASON_SESSION_{kind}"
        }
        session = settled(log)
        assert (session.open_tool_call_count, session.pending_approval_count, session.queued_run_count) == (0, 0, 0)
        assert session.request_count == before.request_count + 1
        assert session.expire_time == before.expire_time
        assert isinstance(outcome, c.SessionWritten)
        if not expires:
            assert log.ok(c.EndSession(CLIENT), request_id="r") == outcome

    def test_deleting_leaves_the_final_event_alone(self, log: Log) -> None:
        self.full(log)
        version = log.session().version
        assert log.ok(c.DeleteSession()) == c.SessionDeleted(version + 1)
        assert KEY not in log.runs
        assert KEY not in log.calls
        assert log.heads[KEY].lease_expire_us is None

    def test_deleting_in_one_batch_with_what_it_deletes(self, log: Log) -> None:
        log.apply(log.command(begin("r1")), log.command(request("t1")), log.command(c.DeleteSession()))
        assert KEY not in log.runs
        assert KEY not in log.calls


def test_a_whole_turn_in_one_batch(log: Log) -> None:
    fence = c.Fence("r1", 2)
    results = log.apply(
        log.command(begin("r1")),
        log.command(request("t1", text="{}"), fence=fence),
        log.command(c.StartToolCall("t1"), fence=fence),
        log.command(complete("t1", "found"), fence=fence),
        log.command(finish(1), fence=fence),
        log.command(begin("r2")),
    )
    assert not [result for result in results if isinstance(result, Exception)]
    assert (log.call("t1").arguments.text, log.call("t1").result.text) == ("{}", "found")
    assert settled(log).live_run_id == "r2"
    assert RunCounters.decoded(log.run_counters[KEY]).completed == 1


class TestPreset:
    def create(self, log: Log, *runs: Run) -> c.Result:
        return log.do(c.CreateSession(new_session(session_id="s2"), runs), session_id="s2", request_id="r")

    def test_a_session_brings_its_history(self) -> None:
        log, key = Log(), ("tenant", "s2")
        done = Run(run_id="a", status=RunStatus.RUN_STATUS_COMPLETED, usage=TokenUsage(input_tokens=3))
        done.create_time.seconds = done.start_time.seconds = 1000
        done.end_time.seconds = 1010
        done.fence = 99
        first = self.create(log, done, Run(status=RunStatus.RUN_STATUS_FAILED))
        assert isinstance(first, c.SessionWritten)
        stored = log.run("a", key)
        assert (stored.seq, stored.version, stored.fence, stored.session_id) == (1, 1, 0, "s2")
        assert stored.usage.total_tokens == 3
        session = log.session(key)
        assert (session.version, session.run_count, session.usage.total_tokens) == (1, 2, 3)
        assert log.folded(key) == session
        (event,) = log.log(key)
        assert [run.run_id for run in event.preset_runs] == list(log.runs[key])
        assert [row.place for row in log.runs[key].values()] == [-1, 0]
        counters = RunCounters.decoded(log.run_counters[key])
        assert (counters.completed, counters.failed, counters.total_us) == (1, 1, 10 * SECOND)
        assert self.create(log, done, Run(status=RunStatus.RUN_STATUS_FAILED)) == first
        assert isinstance(log.do(begin("a"), session_id="s2"), RunAlreadyExists)

    def test_preset_times_in_the_future_are_refused(self) -> None:
        run = Run(run_id="a", status=RunStatus.RUN_STATUS_COMPLETED)
        run.end_time.seconds = START // SECOND + 1
        refusal = self.create(Log(), run)
        assert isinstance(refusal, InvalidFields)
        assert refusal.violations[0].field == "runs[0].end_time"
