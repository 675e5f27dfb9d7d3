"""Tool calls: every status against every action, who decided, what is stored where, and what comes late."""

import pytest

from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond.v1.tool_call_pb2 import ToolCallCancelReason, ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.domain.tool_calls import rules as tool_call_rules
from sessiond_server.errors import (
    ApprovalExpired,
    ApprovalRequired,
    IllegalToolCallTransition,
    SessionEnded,
    SessionNotActive,
    ToolBlocked,
    ToolCallAlreadyExists,
    ToolCallLimitReached,
    ToolCallNotFound,
)
from tests.support.run_actions import (
    LEASE,
    begun,
    complete,
    decide,
    fail,
    finish,
    kinds,
    request,
    status_of_call,
    whole,
)
from tests.support.session_log import CLIENT, KEY, REPLACE, SECOND, START, Log, new_session, user

START_CALL = c.StartToolCall("t")
CANCEL = c.CancelToolCall("t")
APPROVE, REJECT = decide("t"), decide("t", approve=False)
COMPLETE, FAIL = complete("t", "result"), fail("t")

PATHS: dict[str, tuple[bool, list[c.Action]]] = {
    "PENDING": (False, []),
    "ASKED": (True, []),
    "APPROVED": (True, [APPROVE]),
    "REJECTED": (True, [REJECT]),
    "RUNNING": (False, [START_CALL]),
    "COMPLETED": (False, [START_CALL, COMPLETE]),
    "FAILED": (False, [START_CALL, FAIL]),
    "CANCELLED": (False, [CANCEL]),
    "STOPPED": (False, [START_CALL, CANCEL]),
}
"""How a call gets there: does it require an approval, and what is done to it. ASKED is PENDING, STOPPED CANCELLED."""

ILLEGAL = IllegalToolCallTransition
LATE = "late"
TABLE: dict[str, dict[str, str | type[Exception]]] = {
    "PENDING": {
        "approve": "APPROVED",
        "reject": "REJECTED",
        "start": "RUNNING",
        "complete": ILLEGAL,
        "cancel": "CANCELLED",
    },
    "ASKED": {
        "approve": "APPROVED",
        "reject": "REJECTED",
        "start": ApprovalRequired,
        "complete": ILLEGAL,
        "cancel": "CANCELLED",
    },
    "APPROVED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": "RUNNING", "complete": ILLEGAL, "cancel": "CANCELLED"},
    "REJECTED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": ILLEGAL, "complete": ILLEGAL, "cancel": ILLEGAL},
    "RUNNING": {
        "approve": ILLEGAL,
        "reject": ILLEGAL,
        "start": ILLEGAL,
        "complete": "COMPLETED",
        "cancel": "CANCELLED",
    },
    "COMPLETED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": ILLEGAL, "complete": LATE, "cancel": ILLEGAL},
    "FAILED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": ILLEGAL, "complete": LATE, "cancel": ILLEGAL},
    "CANCELLED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": ILLEGAL, "complete": ILLEGAL, "cancel": ILLEGAL},
    "STOPPED": {"approve": ILLEGAL, "reject": ILLEGAL, "start": ILLEGAL, "complete": LATE, "cancel": ILLEGAL},
}
ACTIONS: dict[str, c.Action] = {
    "approve": APPROVE,
    "reject": REJECT,
    "start": START_CALL,
    "complete": COMPLETE,
    "fail": FAIL,
    "cancel": CANCEL,
}


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


@pytest.mark.parametrize("verb", ACTIONS)
@pytest.mark.parametrize("status", PATHS)
def test_every_action_from_every_status(log: Log, status: str, verb: str) -> None:
    approval, path = PATHS[status]
    log.ok(request("t", approval=approval, text="arguments"))
    for action in path:
        log.ok(action)
    before, session = log.call("t"), settled(log)
    expected = TABLE[status]["complete" if verb == "fail" else verb]

    result = log.do(ACTIONS[verb], request_id="r")

    after = log.call("t")
    if isinstance(expected, type):
        assert type(result) is expected
        if isinstance(result, IllegalToolCallTransition):
            assert result.metadata["status"] == status_of_call(before)
            assert result.metadata["action"] == verb
        assert (after, log.session()) == (before, session), "a refusal changes nothing"
        return
    assert whole(result) == after
    assert after.arguments.text == "arguments"
    if expected == LATE:
        assert after == before
        assert kinds(log.log())[-1] == "TOOL_CALL_LATE_RESULT"
        assert settled(log).version == session.version + 1
    else:
        assert status_of_call(after) == ("FAILED" if verb == "fail" else expected)
        assert after.version == settled(log).version
        open_now = status_of_call(after) in ("PENDING", "APPROVED", "RUNNING")
        assert log.session().open_tool_call_count == open_now
        assert log.session().pending_approval_count == 0
        assert after.HasField("end_time") != open_now
    assert log.ok(ACTIONS[verb], request_id="r") == result, "a retry gets the first outcome"


class TestRequest:
    def test_what_is_stored(self, log: Log) -> None:
        fence = begun(log, "r1")
        given = request("t", "search", approval=True, text="{}")
        given.call.message_id, given.call.model_call_id = "m", "call_1"
        given.call.run_id = given.call.result.text = "forged"
        given.call.status = ToolCallStatus.TOOL_CALL_STATUS_COMPLETED
        given.call.approval.approved = True
        outcome = log.ok(given, fence=fence)
        call = log.call("t")
        assert whole(outcome) == call
        assert (call.seq, call.version, call.run_id, call.message_id, call.model_call_id) == (3, 3, "r1", "m", "call_1")
        assert (call.requester, status_of_call(call), call.create_time.seconds) == ("test", "PENDING", START // SECOND)
        assert not call.HasField("result")
        assert not call.HasField("approval")
        assert (settled(log).open_tool_call_count, settled(log).pending_approval_count) == (1, 1)
        (row,) = log.calls[KEY].values()
        assert row.awaits_approval

    def test_the_session_decides_which_tools(self, log: Log) -> None:
        log.ok(request("t", "search"))
        config = SessionConfig(blocked_tools=["search"])
        log.ok(c.UpdateSession(new_session(config=config), ["config"], REPLACE))
        for action in (request("t2", "search"), START_CALL):
            refusal = log.do(action)
            assert isinstance(refusal, ToolBlocked)
            assert refusal.metadata["tool"] == "search"
        log.ok(request("t2", "other"))

    def test_taken_id_is_refused_also_when_its_call_has_ended(self, log: Log) -> None:
        log.ok(request("t"))
        assert isinstance(log.do(request("t")), ToolCallAlreadyExists)
        log.ok(CANCEL)
        assert isinstance(log.do(request("t")), ToolCallAlreadyExists)

    def test_open_ones_are_bounded(self, log: Log) -> None:
        log.apply(*(log.command(request(f"t{n}")) for n in range(tool_call_rules.MOST_OPEN)))
        refusal = log.do(request("one more"))
        assert isinstance(refusal, ToolCallLimitReached)
        log.ok(c.CancelToolCall("t0"))
        log.ok(request("one more"))
        assert settled(log).open_tool_call_count == tool_call_rules.MOST_OPEN

    def test_without_an_id_the_server_makes_one(self, log: Log) -> None:
        assert whole(log.ok(request())).tool_call_id

    @pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
    def test_needs_an_active_session_and_a_call(self, log: Log, action: c.Action) -> None:
        assert isinstance(log.do(action), ToolCallNotFound)
        log.ok(c.SuspendSession())
        assert isinstance(log.do(action), SessionNotActive)
        log.ok(c.EndSession(CLIENT))
        assert isinstance(log.do(action), SessionEnded)


class TestApproval:
    """Defect 6: approvals were published and not stored."""

    @pytest.mark.parametrize("approve", [True, False])
    def test_approver_time_and_reason_are_stored(self, log: Log, approve: bool) -> None:
        log.ok(request("t", approval=True))
        log.now += 60 * SECOND
        log.ok(decide("t", approve=approve, approver="Ada", reason="it is safe"))
        approval = log.call("t").approval
        assert (approval.approved, approval.actor, approval.approver, approval.reason) == (
            approve,
            "test",
            "Ada",
            "it is safe",
        )
        assert approval.time.seconds == START // SECOND + 60
        assert log.log()[-1].tool_call.approval == approval
        assert not next(iter(log.calls[KEY].values())).awaits_approval

    def test_approval_stays_with_the_completed_call(self, log: Log) -> None:
        log.ok(request("t", approval=True))
        log.ok(decide("t", approver="Ada"))
        log.ok(START_CALL)
        log.ok(COMPLETE)
        assert log.call("t").approval.approver == "Ada"

    def test_call_that_needs_no_approval_can_be_approved(self, log: Log) -> None:
        log.ok(request("t"))
        log.ok(APPROVE)
        assert settled(log).pending_approval_count == 0
        log.ok(START_CALL)


EXPIRED = {False: "REJECTED", True: "FAILED"}


class TestExpiry:
    @pytest.mark.parametrize("fails", [False, True])
    def test_sweeper_ends_an_overdue_call_once_and_says_why(self, log: Log, fails: bool) -> None:
        log.ok(request("t", approval=True, ttl=60, fails=fails))
        log.ok(request("for ever", approval=True))
        log.now += 60 * SECOND - 1
        assert log.ok(c.ExpireSession()) == c.NothingToDo(3)
        log.now += 1
        log.ok(c.ExpireSession())
        call, (event,) = log.call("t"), log.log()[3:]
        assert (kinds([event]), event.actor, event.request_id) == (["TOOL_CALL_EXPIRED"], "sessiond", "")
        assert event.tool_call == call
        assert (status_of_call(call), call.version, call.end_time.seconds) == (EXPIRED[fails], 4, log.now // SECOND)
        if fails:
            assert (call.error.code, call.HasField("approval")) == ("APPROVAL_EXPIRED", False)
        else:
            decision = call.approval
            assert (decision.approved, decision.actor, decision.reason) == (False, "sessiond", "expired")
            assert decision.time == call.end_time
        session = settled(log)
        assert (session.open_tool_call_count, session.pending_approval_count) == (1, 1)
        assert session.last_activity_time.seconds == START // SECOND, "an expiry is not an activity"
        log.now += 3600 * SECOND
        assert log.ok(c.ExpireSession()) == c.NothingToDo(4)

    @pytest.mark.parametrize("verb", ACTIONS)
    @pytest.mark.parametrize("fails", [False, True])
    def test_action_on_an_overdue_call_finds_it_ended(self, log: Log, fails: bool, verb: str) -> None:
        """Before the sweeper has come by; a call that was never started takes no late result either."""
        log.ok(request("t", approval=True, ttl=60, fails=fails))
        log.now += 60 * SECOND
        refusal = log.do(ACTIONS[verb], request_id="r")
        assert isinstance(refusal, ApprovalExpired)
        assert refusal.metadata == {
            "session_id": "s1",
            "tool_call_id": "t",
            "status": EXPIRED[fails],
            "action": verb,
            "expire_time": log.call("t").expire_time.ToJsonString(),
        }
        assert kinds(log.log())[2:] == ["TOOL_CALL_EXPIRED"]
        assert isinstance(log.do(ACTIONS[verb], request_id="r"), ApprovalExpired)
        assert settled(log).version == 3

    @pytest.mark.parametrize("action", [REJECT, CANCEL])
    def test_call_that_a_person_ended_is_not_called_expired(self, log: Log, action: c.Action) -> None:
        """Also where the clock has gone back since, so that the decision seems to have come too late."""
        log.ok(request("t", approval=True, ttl=60))
        log.now += 61 * SECOND
        log.ok(c.AppendMessages((user(),)))
        log.now -= 61 * SECOND
        log.ok(action)
        assert log.call("t").end_time.seconds >= log.call("t").expire_time.seconds
        assert type(log.do(APPROVE)) is IllegalToolCallTransition

    @pytest.mark.parametrize("action", [APPROVE, REJECT, CANCEL])
    def test_decided_call_does_not_expire(self, log: Log, action: c.Action) -> None:
        log.ok(request("t", approval=True, ttl=60))
        log.ok(action)
        status = status_of_call(log.call("t"))
        (row,) = log.calls[KEY].values()
        assert row.expire_time_us is None
        log.now += 3600 * SECOND
        log.ok(c.ExpireSession())
        assert status_of_call(log.call("t")) == status

    def test_suspended_session_keeps_the_clock_running(self, log: Log) -> None:
        log.ok(request("t", approval=True, ttl=60))
        log.ok(c.SuspendSession())
        log.now += 60 * SECOND
        log.ok(c.ExpireSession())
        assert status_of_call(log.call("t")) == "REJECTED"
        settled(log)

    def test_session_that_expires_first_cancels_it(self, log: Log) -> None:
        log.ok(request("t", approval=True, ttl=2 * 24 * 3600))
        log.now += 3 * 24 * 3600 * SECOND
        log.ok(c.ExpireSession())
        call = log.call("t")
        assert (status_of_call(call), call.cancel_reason) == (
            "CANCELLED",
            ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_SESSION_EXPIRED,
        )

    def test_an_instant_that_has_passed_is_refused(self, log: Log) -> None:
        for ahead, accepted in ((0, False), (1, True)):
            asked = request("t", approval=True)
            asked.call.expire_time.FromMicroseconds(log.now + ahead)
            result = log.do(asked)
            assert isinstance(result, c.ToolCallWritten) is accepted, result
        assert log.call("t").expire_time.ToMicroseconds() == log.now + 1

    def test_retry_after_the_expiry_gets_the_first_outcome(self, log: Log) -> None:
        first = log.ok(request("t", approval=True, ttl=60), request_id="r")
        log.now += 60 * SECOND
        log.ok(c.ExpireSession())
        assert log.ok(request("t", approval=True, ttl=60), request_id="r") == first

    def test_run_that_ends_with_it_closes_it(self, log: Log) -> None:
        """A lease and an approval that are over at the same time: the call ends once, with its run."""
        fence = begun(log, "r1")
        log.ok(request("t", approval=True, ttl=LEASE), fence=fence)
        log.ok(request("u", approval=True, ttl=LEASE))
        log.now += LEASE * SECOND
        log.ok(c.ExpireSession())
        assert kinds(log.log())[4:] == ["TOOL_CALL_CANCELLED", "RUN_FAILED", "TOOL_CALL_EXPIRED"]
        assert settled(log).open_tool_call_count == 0


class TestResults:
    def test_a_result_is_stored_once_in_the_event_that_brought_it(self, log: Log) -> None:
        log.ok(request("t", text="arguments"))
        log.ok(START_CALL)
        log.ok(fail("t", "broken", "a partial result"))
        call = log.call("t")
        assert (call.error.code, call.result.text, call.result_seq) == ("broken", "a partial result", 4)
        requested, started, failed = log.log()[1:]
        assert [e.tool_call.arguments.text for e in (requested, started, failed)] == ["arguments", "", ""]
        assert [e.tool_call.result.text for e in (requested, started, failed)] == ["", "", "a partial result"]

    def test_empty_result_is_accepted(self, log: Log) -> None:
        log.ok(request("t"))
        log.ok(START_CALL)
        log.ok(complete("t"))
        assert (log.call("t").result_seq, log.call("t").HasField("result")) == (0, False)

    def test_late_result_is_recorded_in_the_log_only(self, log: Log) -> None:
        fence = begun(log, "r1")
        log.ok(request("t", text="arguments"), fence=fence)
        log.ok(START_CALL, fence=fence)
        log.now += 100 * SECOND
        log.ok(c.ExpireSession())
        before = log.call("t")
        assert before.cancel_reason == ToolCallCancelReason.TOOL_CALL_CANCEL_REASON_LEASE_EXPIRED
        log.ok(complete("t", "found"))
        log.ok(fail("t", "timeout"))
        completed, failed = (event.tool_call for event in log.log()[-2:])
        assert completed.late_result.result.text == "found"
        assert failed.late_result.error.code == "timeout"
        assert log.call("t") == before
        assert settled(log).open_tool_call_count == 0

    def test_the_first_result_wins(self, log: Log) -> None:
        log.ok(request("t"))
        log.ok(START_CALL)
        log.ok(complete("t", "first"))
        assert whole(log.ok(complete("t", "second"), request_id="r")).result.text == "first"
        assert whole(log.ok(complete("t", "second"), request_id="r")).result.text == "first"
        assert log.call("t").result.text == "first"


def test_call_that_awaits_approval_outlives_its_completed_run(log: Log) -> None:
    first = begun(log, "r1")
    log.ok(request("t", approval=True, text="rm -rf build"), fence=first)
    log.ok(finish(), fence=first)
    log.ok(decide("t", approver="Ada"))
    second = begun(log, "r2")
    log.ok(START_CALL, fence=second)
    log.ok(COMPLETE, fence=second)
    log.ok(finish(), fence=second)
    call = log.call("t")
    assert (call.run_id, status_of_call(call)) == ("r1", "COMPLETED")


@pytest.mark.parametrize("ending", [finish(), finish(failed="broken"), c.CancelRun("r2"), None])
def test_a_call_does_not_outlive_the_run_that_carries_it_out(log: Log, ending: c.Action | None) -> None:
    first = begun(log, "r1")
    log.ok(request("t", approval=True), fence=first)
    log.ok(request("waits", approval=True), fence=first)
    log.ok(finish(), fence=first)
    log.ok(decide("t", approver="Ada"))
    second = begun(log, "r2")
    log.ok(START_CALL, fence=second)
    assert log.call("t").start_run_id == "r2"
    if ending is None:  # silence
        log.now += LEASE * SECOND
        log.ok(c.ExpireSession())
    else:
        log.ok(ending, fence=second if isinstance(ending, c.FinishRun) else None)
    assert (status_of_call(log.call("t")), status_of_call(log.call("waits"))) == ("CANCELLED", "PENDING")
    assert settled(log).open_tool_call_count == 1
