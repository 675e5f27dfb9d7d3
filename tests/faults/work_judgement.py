"""Runs and tool calls of one session: what its log says, against what the service answers and what writers were told.

Pure functions. The log is replayed with rules of this module's own: nothing here asks the code that is judged.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.run_pb2 import Run, RunEndReason, RunStatus
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import SessionMetrics
from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallExpireAction, ToolCallStatus
from sessiond_server.domain.times import microseconds
from tests.faults.agents import Account
from tests.faults.validators import Folding

T = EventType
OVER = (T.EVENT_TYPE_RUN_COMPLETED, T.EVENT_TYPE_RUN_FAILED, T.EVENT_TYPE_RUN_CANCELLED)
OPEN = (
    ToolCallStatus.TOOL_CALL_STATUS_PENDING,
    ToolCallStatus.TOOL_CALL_STATUS_APPROVED,
    ToolCallStatus.TOOL_CALL_STATUS_RUNNING,
)
P95_WITHIN = 0.06
"""GetSessionMetrics promises 5 %, of a rank that rounding may move."""


@dataclass
class Verdict:
    """How many promises were broken. A sound campaign has zeros only."""

    lost: int = 0
    """Acknowledged and not there, not where the acknowledgement said, or more than once; leases that ended before the
    time that a heartbeat was told."""
    gaps: int = 0
    """Places in a log that are missing; rows, lists and counters that are not what the log says."""
    alive_past_lease: int = 0
    dangling: int = 0
    """Open tool calls whose run has ended, except those that wait for an approval or, approved, for their start."""
    fence_breaches: int = 0
    """Writes of a run that was not live."""
    approvals: int = 0
    """Calls that expired too early, too late, twice, or otherwise than they were to; decisions after their time."""
    queue: int = 0
    """Runs that started twice, beside another one, or before their turn; queues whose next run did not start."""

    @property
    def sound(self) -> bool:
        return not any(vars(self).values())

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass
class Answers:
    """What the service says of a session in the end."""

    session: Session
    runs: Sequence[Run]
    tool_calls: Sequence[ToolCall]
    metrics: SessionMetrics
    asked_us: int
    """Not later than the calls were asked for, in microseconds of the database's clock."""


@dataclass
class Replay:
    """The runs and tool calls that a log tells of."""

    runs: dict[str, Run] = field(default_factory=dict)
    calls: dict[str, ToolCall] = field(default_factory=dict)
    live: str = ""
    queued: list[str] = field(default_factory=list)
    queue_broken: int = 0
    dangling: int = 0
    live_at: dict[str, str] = field(default_factory=dict)
    """Request id -> the run that was live when its first event was written."""

    def add(self, event: Event) -> None:
        if event.index_in_request == 0:
            self.live_at[event.request_id] = self.live
        payload = event.WhichOneof("payload")
        if payload == "run":
            self._run(event)
        elif payload == "tool_call" and event.type != T.EVENT_TYPE_TOOL_CALL_LATE_RESULT:
            self.calls[event.tool_call.tool_call_id] = event.tool_call
        if payload == "run" and event.type in OVER:
            self.dangling += sum(dangles(call, self.runs) for call in self.calls.values())

    def _run(self, event: Event) -> None:
        run, before = event.run, self.runs.get(event.run.run_id)
        if event.type == T.EVENT_TYPE_RUN_QUEUED:
            self.queue_broken += before is not None or not self.live
            self.queued.append(run.run_id)
        elif event.type == T.EVENT_TYPE_RUN_STARTED:
            # One at a time, each once, with a fence of its own; from the queue in order, and no other run before it
            # while nothing is interrupted.
            self.queue_broken += bool(self.live) or run.fence != event.seq
            if before is not None:
                self.queue_broken += self.queued[:1] != [run.run_id]
                self.queued.remove(run.run_id)
            self.live = run.run_id
        elif run.run_id == self.live:
            self.live = ""
        else:
            self.queue_broken += run.run_id not in self.queued
            self.queued = [other for other in self.queued if other != run.run_id]
        self.runs[run.run_id] = run


def dangles(call: ToolCall, runs: dict[str, Run]) -> bool:
    """Returns whether an open call should have been closed: the run that carries it out has ended, or the run that
    requested it has ended and the call neither started later nor may wait for its approval or its start."""
    if call.status not in OPEN:
        return False
    asked, doing = runs.get(call.run_id), runs.get(call.start_run_id)
    if call.status == ToolCallStatus.TOOL_CALL_STATUS_RUNNING and _is_over(doing):
        return True
    if asked is None or not _is_over(asked):
        return False
    if call.status == ToolCallStatus.TOOL_CALL_STATUS_RUNNING:
        return microseconds(call.start_time) <= microseconds(asked.end_time)  # else it was started afterwards
    suspended = asked.end_reason == RunEndReason.RUN_END_REASON_SESSION_SUSPENDED
    return not (call.requires_approval and (suspended or asked.status == RunStatus.RUN_STATUS_COMPLETED))


def _in_short(call: ToolCall) -> str:
    status = ToolCallStatus.Name(call.status).removeprefix("TOOL_CALL_STATUS_")
    return f"{call.tool_call_id} {status}, asked for in {call.run_id}, carried out in {call.start_run_id or 'none'}"


def _is_over(run: Run | None) -> bool:
    return run is not None and run.status not in (RunStatus.RUN_STATUS_QUEUED, RunStatus.RUN_STATUS_RUNNING)


def judge(
    account: Account, log: Sequence[Event], said: Answers, *, sweep_within_us: int, complain: Callable[[str], None]
) -> Verdict:
    """`sweep_within_us`: how much later than its end a lease or the time for an approval may have been noticed."""
    session_id, verdict = said.session.session_id, Verdict()

    def count(name: str, times: int, what: str) -> None:
        if times:
            complain(f"{session_id}: {name} {times}: {what}")
            setattr(verdict, name, getattr(verdict, name) + times)

    replay, folding = Replay(), Folding({})
    for event in log:
        replay.add(event)
        folding.add(event)
    places = [event.seq for event in log] != list(range(1, said.session.version + 1))
    count("gaps", int(places), "places of the log")
    count("gaps", folding.end(said.session), "the log folds to another session")
    count("gaps", len(_different(replay.runs.values(), said.runs)), "runs unlike their last events")
    count("gaps", len(_different_calls(replay.calls.values(), said.tool_calls)), "calls unlike their last events")
    count("gaps", len(wrong_figures(replay, said.metrics)), f"figures: {wrong_figures(replay, said.metrics)}")
    count("lost", len(lost(account, session_id, log)), "acknowledged writes")
    count("lost", len(ended_early(account, session_id, log)), "leases that ended too early")
    count("queue", replay.queue_broken, "runs out of turn")
    count("queue", len(replay.queued) if not replay.live else 0, "runs wait, and none is live")
    dangling = [call for call in replay.calls.values() if dangles(call, replay.runs)]
    count("dangling", len(dangling), f"open in the end: {', '.join(map(_in_short, dangling))}")
    count("dangling", replay.dangling, "open calls after the end of a run")
    count("alive_past_lease", int(bool(said.session.live_run_id)), f"{said.session.live_run_id} is live")
    count("alive_past_lease", len(late_ends(account, session_id, log, sweep_within_us)), "leases noticed late")
    wrong = wrong_approvals(log, sweep_within_us)
    count("approvals", len(wrong), "; ".join(wrong))
    count("approvals", len(overdue(said, sweep_within_us)), f"still wait: {overdue(said, sweep_within_us)}")
    count("fence_breaches", len(strangers(account, session_id, replay)), "writes of runs that were not live")
    return verdict


def lost(account: Account, session_id: str, log: Sequence[Event]) -> list[str]:
    """Request ids of acknowledged writes that are not in the log exactly once, at the version that was named."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    twice = set()
    for event in log:
        if event.index_in_request == 0:
            if event.request_id in first:
                twice.add(event.request_id)
            first[event.request_id] = event.seq
        last[event.request_id] = event.seq
    return [
        request_id
        for request_id, version in account.acked[session_id].items()
        if request_id not in first
        or request_id in twice
        # A late result answers with the call as it was: its version is that of an earlier write.
        or version > last[request_id]
        or (version < first[request_id] and not _is_late_result(log[first[request_id] - 1]))
    ]


def _is_late_result(event: Event) -> bool:
    return event.type == T.EVENT_TYPE_TOOL_CALL_LATE_RESULT


def _expired(log: Iterable[Event]) -> Iterable[tuple[Event, int]]:
    """Ends of runs whose leases ran out, and when the lease that they began with was over."""
    began: dict[str, int] = {}
    for event in log:
        if event.type == T.EVENT_TYPE_RUN_STARTED:
            began[event.run.run_id] = microseconds(event.run.lease_expire_time)
        elif event.run.end_reason == RunEndReason.RUN_END_REASON_LEASE_EXPIRED:
            yield event, began[event.run.run_id]


def ended_early(account: Account, session_id: str, log: Iterable[Event]) -> list[str]:
    return [
        event.run.run_id
        for event, began in _expired(log)
        if microseconds(event.create_time) < max(began, account.promised.get((session_id, event.run.run_id), 0))
    ]


def late_ends(account: Account, session_id: str, log: Iterable[Event], within_us: int) -> list[str]:
    """Runs that outlived their lease by more than `within_us`."""
    late = []
    for event, began in _expired(log):
        key = (session_id, event.run.run_id)
        until = max(began, account.promised.get(key, 0))
        if key not in account.unsure and microseconds(event.create_time) > until + within_us:
            late.append(event.run.run_id)
    return late


DECIDING = (
    T.EVENT_TYPE_TOOL_CALL_APPROVED,
    T.EVENT_TYPE_TOOL_CALL_REJECTED,
    T.EVENT_TYPE_TOOL_CALL_EXPIRED,
)
EXPIRED_AS = {
    ToolCallExpireAction.TOOL_CALL_EXPIRE_ACTION_REJECT: ToolCallStatus.TOOL_CALL_STATUS_REJECTED,
    ToolCallExpireAction.TOOL_CALL_EXPIRE_ACTION_FAIL: ToolCallStatus.TOOL_CALL_STATUS_FAILED,
}


def wrong_approvals(log: Iterable[Event], within_us: int) -> list[str]:
    """Calls that were decided or expired more than once or after another end, decided at their `expire_time` or later,
    or expired before it, more than `within_us` behind it, or otherwise than `expire_action` says. Of each its id,
    the event, and how long behind `expire_time` it came."""
    wrong, over = [], set()
    for event in log:
        call, event_type = event.tool_call, event.type
        if event_type in DECIDING:
            at, expires = microseconds(event.create_time), microseconds(call.expire_time)
            right = call.tool_call_id not in over
            if event_type == T.EVENT_TYPE_TOOL_CALL_EXPIRED:
                right = right and expires <= at <= expires + within_us
                right = right and EXPIRED_AS.get(call.expire_action) == call.status
            elif call.HasField("expire_time"):
                right = right and at < expires
            if not right:
                late = f"{(at - expires) / 1_000_000:.1f} s behind its time" if expires else "without a time"
                wrong.append(f"{call.tool_call_id}: {T.Name(event_type)} {late}")
        if event_type in DECIDING or event_type == T.EVENT_TYPE_TOOL_CALL_CANCELLED:
            over.add(call.tool_call_id)
    return wrong


def overdue(said: Answers, within_us: int) -> list[str]:
    """Calls that still wait for an approval whose time was over more than `within_us` ago."""
    return [
        call.tool_call_id
        for call in said.tool_calls
        if call.status == ToolCallStatus.TOOL_CALL_STATUS_PENDING
        and call.HasField("expire_time")
        and microseconds(call.expire_time) + within_us < said.asked_us
    ]


def strangers(account: Account, session_id: str, replay: Replay) -> list[str]:
    """Request ids of writes that carried the fence of another run than the one that was live, and are in the log."""
    return [
        request_id
        for request_id, run_id in account.carried[session_id].items()
        if request_id in replay.live_at and replay.live_at[request_id] != run_id
    ]


def wrong_figures(replay: Replay, metrics: SessionMetrics) -> list[str]:
    """What GetSessionMetrics says otherwise than the log."""
    runs, said = list(replay.runs.values()), metrics.runs
    of = {status: [run for run in runs if run.status == status] for status in RunStatus.values()}
    took = sorted(
        microseconds(run.end_time) - microseconds(run.start_time)
        for run in runs
        if run.HasField("start_time") and run.HasField("end_time")
    )
    completed, failed = len(of[RunStatus.RUN_STATUS_COMPLETED]), len(of[RunStatus.RUN_STATUS_FAILED])
    right = {
        "run_count": metrics.run_count == len(runs),
        "queued": said.queued_count == len(of[RunStatus.RUN_STATUS_QUEUED]),
        "running": said.running_count == len(of[RunStatus.RUN_STATUS_RUNNING]),
        "completed": said.completed_count == completed,
        "failed": said.failed_count == failed,
        "cancelled": said.cancelled_count == len(of[RunStatus.RUN_STATUS_CANCELLED]),
        "success_rate": math.isclose(said.success_rate, completed / max(completed + failed, 1)),
    }
    if took:
        p95 = took[math.ceil(0.95 * len(took)) - 1]
        right["average"] = abs(said.average_duration.ToMicroseconds() - sum(took) / len(took)) <= 1
        right["p95"] = abs(said.p95_duration.ToMicroseconds() - p95) <= P95_WITHIN * p95 + 1
    return [name for name, is_right in right.items() if not is_right]


def _different(replayed: Iterable[Run], said: Iterable[Run]) -> list[str]:
    """Runs that the service describes otherwise than their last events do; heartbeats make no events."""
    mine, theirs = ({run.run_id: _without_lease(run) for run in runs} for runs in (replayed, said))
    return [run_id for run_id in mine.keys() | theirs.keys() if mine.get(run_id) != theirs.get(run_id)]


def _without_lease(run: Run) -> Run:
    copy = Run()
    copy.CopyFrom(run)
    copy.ClearField("lease_expire_time")
    return copy


def _different_calls(replayed: Iterable[ToolCall], said: Iterable[ToolCall]) -> list[str]:
    """As _different; arguments and results are in the events that brought them only."""
    mine, theirs = ({call.tool_call_id: _without_data(call) for call in calls} for calls in (replayed, said))
    return [call_id for call_id in mine.keys() | theirs.keys() if mine.get(call_id) != theirs.get(call_id)]


def _without_data(call: ToolCall) -> ToolCall:
    copy = ToolCall()
    copy.CopyFrom(call)
    copy.ClearField("arguments")
    copy.ClearField("result")
    return copy
