"""The rule of summaries. A summary is an event of its session's log, and changes nothing that others wrote."""

from collections.abc import Mapping
from typing import Final

from sessiond.v1.event_pb2 import EventType
from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.actions import Action
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import InvalidFields, Violation


def create(step: Step, state: State, action: c.CreateSummary) -> c.Outcome:
    core, given, command = state.core, action.summary, step.command
    if not action.after_end:
        lifecycle.check_open(core, step.now_us)
    if not core.base_version < given.through_seq <= core.version:
        rule = f"must be {core.base_version + 1} to {core.version}, the session's version"
        raise InvalidFields([Violation("summary.through_seq", rule)])
    time_us = step.time_after(core)
    summary = Summary(
        summary_id=step.new_id(),
        session_id=core.session_id,
        seq=core.version + 1,
        through_seq=given.through_seq,
        text=given.text,
        model=given.model,
        author=given.author,
        actor=command.actor,
        token_count=given.token_count,
        run_id=command.fence.run_id if command.fence is not None else "",
    )
    if given.HasField("usage"):
        summary.usage.CopyFrom(given.usage)
        fold.fill_in_total(summary.usage)
    set_timestamp(summary.create_time, time_us)
    step.advance(core, time_us, activity=False)
    fold.add_summary(core, summary)
    body = summary.SerializeToString()
    step.emit(state, EventType.EVENT_TYPE_SUMMARY_CREATED, time_us, body=body)
    return c.SummaryCreated(core.version, body)


ACTIONS: Final[Mapping[type, Action]] = {
    c.CreateSummary: Action(create, lambda events, _: c.SummaryCreated(events[-1].seq, events[-1].body)),
}
