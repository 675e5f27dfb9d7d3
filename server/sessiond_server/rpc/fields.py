"""Checks of fields that many requests have. Each adds the violations that it finds to `found`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from google.protobuf.descriptor import EnumDescriptor

from sessiond.v1.message_service_pb2 import MessageFilter
from sessiond.v1.run_pb2 import RunFence
from sessiond.v1.session_pb2 import Consistency, SessionView
from sessiond.v1.session_service_pb2 import SessionFilter
from sessiond_server.domain import commands, text, validation
from sessiond_server.domain.validation import FieldViolations


@dataclass(frozen=True, slots=True)
class Read:
    """Options of a read of a resource without views."""

    strong: bool


class NamedRead(Protocol):
    @property
    def session_id(self) -> str: ...
    @property
    def min_version(self) -> int: ...
    @property
    def consistency(self) -> Consistency.ValueType: ...


class WithRequestId(Protocol):
    @property
    def request_id(self) -> str: ...


class Write(WithRequestId, Protocol):
    @property
    def expected_version(self) -> int: ...


class NamedWrite(Write, Protocol):
    @property
    def session_id(self) -> str: ...


class Fenced(Protocol):
    @property
    def run(self) -> RunFence: ...

    def HasField(self, field_name: Literal["run"]) -> bool: ...  # noqa: N802 - protobuf's name


def full_view(found: FieldViolations, value: int, default: int = SessionView.SESSION_VIEW_FULL) -> bool:
    """Whether the requested view is the full one. SESSION_VIEW_PATCH is for events only."""
    if value not in (
        SessionView.SESSION_VIEW_UNSPECIFIED,
        SessionView.SESSION_VIEW_BASIC,
        SessionView.SESSION_VIEW_FULL,
    ):
        found.add("view", "must be a known value" if value not in SessionView.values() else "is for events only")
    return (value or default) == SessionView.SESSION_VIEW_FULL


INCLUDE_REWOUND: Final = b"include_rewound"
"""What page tokens of lists that include what rewinds have hidden are bound to besides."""


def fence(found: FieldViolations, request: Fenced, path: str = "run") -> None:
    """Checks the fence of the writing run, if the request has one. `path`: that of the field."""
    if request.HasField("run"):
        found.add(f"{path}.run_id", text.identifier(request.run.run_id))
        if request.run.fence < 1:
            found.add(f"{path}.fence", "must be at least 1")


def fence_of(request: Fenced) -> commands.Fence | None:
    """The fence of a checked request, in the form that the rules take; None if no run writes."""
    return commands.Fence(request.run.run_id, request.run.fence) if request.HasField("run") else None


def named_read(request: NamedRead, *ids: str) -> Read:
    """The whole check of a read of one session, or of the one thing in it that the fields `ids` name."""
    found = FieldViolations()
    session_id(found, request.session_id)
    for name in ids:
        found.add(name, text.identifier(getattr(request, name)))
    not_negative(found, "min_version", request.min_version)
    strong = consistency(found, request.consistency)
    found.check()
    return Read(strong)


def named_write(request: NamedWrite) -> None:
    found = FieldViolations()
    session_id(found, request.session_id)
    check_write(found, request)
    found.check()


def check_write(found: FieldViolations, request: Write) -> None:
    request_id(found, request)
    not_negative(found, "expected_version", request.expected_version)


def request_id(found: FieldViolations, request: WithRequestId) -> None:
    if request.request_id:
        found.add("request_id", text.request_identifier(request.request_id))


def session_id(found: FieldViolations, value: str) -> None:
    found.add("session_id", text.identifier(value))


def not_negative(found: FieldViolations, path: str, value: int) -> None:
    if value < 0:
        found.add(path, "must not be negative")


def page_size(found: FieldViolations, value: int, bounds: tuple[int, int]) -> int:
    """The checked page size. `bounds`: (default, most)."""
    default, most = bounds
    not_negative(found, "page_size", value)
    return min(value or default, most)


def consistency(found: FieldViolations, value: int) -> bool:
    """Whether the requested consistency is strong."""
    validation.enum(found, "consistency", value, Consistency.DESCRIPTOR)
    return value == Consistency.CONSISTENCY_STRONG


def statuses(found: FieldViolations, values: Sequence[int], known: EnumDescriptor) -> Sequence[int]:
    """The statuses of a filter, each once; all known ones if the filter names none."""
    every = [number for number in known.values_by_number if number]
    if len(values) > len(every):
        found.add("statuses", f"must be at most {len(every)}")
    for index, value in enumerate(values[: len(every)]):
        if value not in every:
            found.add(f"statuses[{index}]", "must be a known status")
    return sorted(set(values)) or every


def time_range(found: FieldViolations, where: SessionFilter | MessageFilter, name: str) -> None:
    """Checks a time range of a request's `filter`: `from` is inclusive, `until` exclusive."""
    bounds = [
        getattr(where, end)
        for end in (f"{name}_from", f"{name}_until")
        if where.HasField(end) and validation.timestamp(found, f"filter.{end}", getattr(where, end))  # type: ignore[arg-type]
    ]
    if len(bounds) == 2:
        start, stop = bounds
        if (stop.seconds, stop.nanos) <= (start.seconds, start.nanos):
            found.add(f"filter.{name}_until", f"must be after {name}_from")
