"""What events count as used. Times are microseconds since 1970-01-01 UTC; days are in UTC."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from functools import lru_cache
from operator import add
from typing import Final, NamedTuple

from sessiond.v1.event_pb2 import Event, EventType
from sessiond.v1.message_pb2 import Message
from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import TokenUsage
from sessiond.v1.summary_pb2 import Summary

APPENDED: Final = EventType.EVENT_TYPE_MESSAGE_APPENDED
SUMMARISED: Final = EventType.EVENT_TYPE_SUMMARY_CREATED
REQUESTED: Final = EventType.EVENT_TYPE_TOOL_CALL_REQUESTED
CREATED: Final = EventType.EVENT_TYPE_SESSION_CREATED
FORKED: Final = EventType.EVENT_TYPE_SESSION_FORKED
RUN_ENDS: Final = (
    EventType.EVENT_TYPE_RUN_COMPLETED,
    EventType.EVENT_TYPE_RUN_FAILED,
    EventType.EVENT_TYPE_RUN_CANCELLED,
)
COUNTED: Final = frozenset((APPENDED, SUMMARISED, REQUESTED, CREATED, FORKED, *RUN_ENDS))
"""Types of events that count."""

MOST: Final = 2**63 - 1
_EPOCH: Final = date(1970, 1, 1)
_DAY_US: Final = 86_400_000_000


class Figures(NamedTuple):
    """Counters. The names are those of UsageRow and TokenUsage."""

    session_count: int = 0
    message_count: int = 0
    run_count: int = 0
    tool_call_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


NOTHING: Final = Figures()
_SESSION: Final = Figures(session_count=1)
_TOOL_CALL: Final = Figures(tool_call_count=1)


class Group(NamedTuple):
    """Whose figures they are, in the order in which usage is listed."""

    user_id: str
    day: date
    agent_id: str
    model: str


class Share(NamedTuple):
    """What one event counts for one model."""

    model: str
    figures: Figures
    run_id: str = ""
    """Where `model` is empty: the run whose model it is, if the session has such a run."""


def added(one: Figures, other: Figures) -> Figures:
    """The sums, which may exceed MOST."""
    return Figures._make(map(add, one, other))


def bounded(figures: Figures) -> Figures:
    """Counters that would exceed MOST stay there."""
    return Figures._make([min(counter, MOST) for counter in figures])


def day_of(time_us: int) -> date:
    return _date(time_us // _DAY_US)


@lru_cache(maxsize=64)
def _date(days: int) -> date:
    return _EPOCH + timedelta(days=days)


def shares(kind: int, head: bytes, body: bytes) -> Iterator[Share]:
    """What an event of a type of COUNTED counts. `head` and `body`: as EventRow has them; `head` matters for CREATED
    only."""
    if kind == APPENDED:
        message = Message.FromString(body)
        model = message.model
        yield Share(model, _tokens(message.usage, messages=1), "" if model else message.run_id)
    elif kind in RUN_ENDS:
        yield _run(Run.FromString(body))
    elif kind == SUMMARISED:
        summary = Summary.FromString(body)
        yield Share(summary.model, _tokens(summary.usage))
    elif kind == REQUESTED:
        yield Share("", _TOOL_CALL)
    elif kind in (CREATED, FORKED):
        yield Share("", _SESSION)
        if kind == CREATED:
            yield from map(_run, Event.FromString(head).preset_runs)


def of_models(found: Iterable[Share], models: Mapping[str, str]) -> dict[str, Figures]:
    """The figures of one event by model. `models`: of runs, by their id."""
    sums: dict[str, Figures] = {}
    for share in found:
        model = share.model or models.get(share.run_id, "")
        sums[model] = added(sums[model], share.figures) if model in sums else share.figures
    return sums


def _run(run: Run) -> Share:
    return Share(run.model, _tokens(run.usage, runs=1))


def _tokens(usage: TokenUsage, *, messages: int = 0, runs: int = 0) -> Figures:
    return Figures(
        0,
        messages,
        runs,
        0,
        usage.input_tokens,
        usage.output_tokens,
        usage.total_tokens,
        usage.reasoning_tokens,
        usage.cached_tokens,
    )
