"""The judgement of runs and tool calls: silent on what the rules write, loud on every kind of damage."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.session_service_pb2 import SessionMetrics
from sessiond.v1.tool_call_pb2 import ToolCallStatus
from sessiond_server.domain import commands as c
from sessiond_server.rpc import answers
from tests.faults.agents import Account
from tests.faults.work_judgement import Answers, judge
from tests.support.run_actions import ENQUEUE, INTERRUPT, LEASE, begin, begun, complete, decide, finish, request
from tests.support.session_log import KEY, SECOND, Log, user

SWEEP = 5 * SECOND
S = "s1"


@dataclass
class Case:
    """A sound campaign in one session, to be damaged."""

    log: list[Event]
    said: Answers
    account: Account = field(default_factory=Account)
    complaints: list[str] = field(default_factory=list)

    def broken(self) -> set[str]:
        """The figures that are not 0."""
        verdict = judge(self.account, self.log, self.said, sweep_within_us=SWEEP, complain=self.complaints.append)
        assert bool(self.complaints) is not verdict.sound
        return {name for name, value in vars(verdict).items() if value}

    def events(self, kind: str) -> list[Event]:
        return [event for event in self.log if EventType.Name(event.type) == f"EVENT_TYPE_{kind}"]


@pytest.fixture
def case() -> Case:
    log, account = Log(), Account()
    log.create()
    first = begun(log, "r1")
    log.ok(begin("r2", ENQUEUE), request_id="enqueue")
    log.ok(c.AppendMessages((user(),)), fence=first, request_id="append")
    log.ok(request("t1", approval=True), fence=first)
    log.ok(request("t2", approval=True), fence=first)
    log.now += SECOND
    log.ok(finish(3), fence=first, request_id="finish")
    second = c.Fence("r2", log.run("r2").fence)
    log.ok(decide("t1"))
    for name in ("t3", "t4"):
        log.ok(request(name, approval=True, ttl=LEASE, fails=True))
    log.ok(decide("t4"))
    log.ok(c.StartToolCall("t1"), fence=second)
    log.ok(c.HeartbeatRun(), fence=second)
    account.promised[S, "r2"] = log.now + LEASE * SECOND
    log.now += LEASE * SECOND + SWEEP
    log.ok(c.ExpireSession())
    log.ok(complete("t1"), request_id="late")
    begun(log, "r3")
    log.ok(begin("r4", INTERRUPT))
    log.ok(c.CancelRun("r4"))
    account.acked[S] = {"enqueue": 3, "append": 4, "finish": 7, "late": log.call("t1").version}
    account.carried[S] = {"append": "r1", "finish": "r1", "refused": "r1"}
    session = log.session()
    metrics = SessionMetrics.FromString(
        answers.metrics(c.SessionSnapshot(session.version, session.SerializeToString(), b""), log.run_counters[KEY])
    )
    runs, calls = [log.run(f"r{n}") for n in range(1, 5)], [log.call(f"t{n}") for n in range(1, 5)]
    return Case(log.log(), Answers(session, runs, calls, metrics, log.now), account)


def test_what_the_rules_write_is_sound(case: Case) -> None:
    assert case.broken() == set()


def _never(case: Case) -> None:
    case.account.acked[S]["never"] = 5


def _elsewhere(case: Case) -> None:
    case.account.acked[S]["append"] = 5


def _twice(case: Case) -> None:
    next(event for event in case.log if event.index_in_request == 0 and not event.request_id).request_id = "append"


def _too_early(case: Case) -> None:
    case.account.promised[S, "r2"] += 2 * SWEEP


def _too_late(case: Case) -> None:
    case.events("RUN_FAILED")[0].create_time.seconds += 1


def _alive(case: Case) -> None:
    case.said.session.live_run_id = "r4"


def _another_run(case: Case) -> None:
    case.said.runs[0].usage.input_tokens += 1


def _another_call(case: Case) -> None:
    case.said.tool_calls[1].requester = "nobody"


def _no_call(case: Case) -> None:
    case.said.tool_calls = case.said.tool_calls[:1]


def _counters(case: Case) -> None:
    case.said.metrics.runs.failed_count += 1


def _durations(case: Case) -> None:
    case.said.metrics.runs.p95_duration.seconds += 10


def _stranger(case: Case) -> None:
    case.account.carried[S]["late"] = "r2"


def _hole(case: Case) -> None:
    del case.log[5]


def _left_running(case: Case) -> None:
    """The call that r2 carried out is not closed with it."""
    closed = case.events("TOOL_CALL_CANCELLED")[0]
    closed.tool_call.CopyFrom(case.events("TOOL_CALL_STARTED")[0].tool_call)


def _out_of_turn(case: Case) -> None:
    """r2 starts while r1 is live."""
    case.events("RUN_COMPLETED")[0].run.run_id = "another"


def _expired_early(case: Case) -> None:
    case.events("TOOL_CALL_EXPIRED")[0].tool_call.expire_time.seconds += SWEEP // SECOND + 1


def _expired_late(case: Case) -> None:
    case.events("TOOL_CALL_EXPIRED")[0].create_time.seconds += 1


def _expired_after_its_approval(case: Case) -> None:
    case.events("TOOL_CALL_EXPIRED")[0].tool_call.tool_call_id = "t4"


def _expired_otherwise(case: Case) -> None:
    case.events("TOOL_CALL_EXPIRED")[0].tool_call.status = ToolCallStatus.TOOL_CALL_STATUS_REJECTED


def _approved_late(case: Case) -> None:
    approved = case.events("TOOL_CALL_APPROVED")[1]
    approved.create_time.CopyFrom(approved.tool_call.expire_time)


def _waits_for_ever(case: Case) -> None:
    case.said.tool_calls[2].status = ToolCallStatus.TOOL_CALL_STATUS_PENDING
    case.said.asked_us += 1


@pytest.mark.parametrize(
    ("damage", "figure"),
    [
        (_never, "lost"),
        (_elsewhere, "lost"),
        (_twice, "lost"),
        (_too_early, "lost"),
        (_too_late, "alive_past_lease"),
        (_alive, "alive_past_lease"),
        (_another_run, "gaps"),
        (_another_call, "gaps"),
        (_no_call, "gaps"),
        (_counters, "gaps"),
        (_durations, "gaps"),
        (_hole, "gaps"),
        (_stranger, "fence_breaches"),
        (_left_running, "dangling"),
        (_out_of_turn, "queue"),
        (_expired_early, "approvals"),
        (_expired_late, "approvals"),
        (_expired_after_its_approval, "approvals"),
        (_expired_otherwise, "approvals"),
        (_approved_late, "approvals"),
        (_waits_for_ever, "approvals"),
    ],
)
def test_damage_is_seen(case: Case, damage: Callable[[Case], None], figure: str) -> None:
    damage(case)
    assert figure in case.broken()
