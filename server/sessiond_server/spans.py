"""The interface of tracing: spans, and the span of the current task.

The implementation is `tracing.py`, which is imported only where traces are exported. Without it CURRENT is always None,
and no span is ever made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

Attributes = Mapping[str, str | bool | int | float]
"""Never contents of sessions, and nothing secret."""


class Span(Protocol):
    """A piece of work with a beginning, an end and a place in a trace."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty once the span has ended, since a task may outlive the call that began it."""
        ...

    @property
    def recording(self) -> bool:
        """Whether the span will be exported: its trace is sampled, and it has not ended."""
        ...

    def child(self, name: str, attributes: Attributes, *, client: bool = False, links: Sequence["Span"] = ()) -> "Span":
        """A span within this one, which begins now. `client`: it is a request to another server."""
        ...

    def set(self, attributes: Attributes) -> None: ...

    def link(self, other: "Span") -> None:
        """Points to a span of another trace."""
        ...

    def end(self, error: str = "") -> None:
        """Ends the span. `error`: what went wrong, as a class or a status; never a text. Further calls do nothing."""
        ...


class Tracer(Protocol):
    """Makes the spans of calls."""

    def serve(self, name: str, metadata: Iterable[tuple[str, str | bytes]], attributes: Attributes) -> Span:
        """The span of a call that is served, in the trace that its metadata name; else in a new one."""
        ...


CURRENT: Final[ContextVar[Span | None]] = ContextVar("span", default=None)
"""The span of the work that the current task does."""


def trace_id() -> str:
    """Of the current task, for log records; empty outside traces."""
    span = CURRENT.get()
    return "" if span is None else span.trace_id


def recorded() -> Span | None:
    """The current span if it will be exported."""
    span = CURRENT.get()
    return span if span is not None and span.recording else None


@contextmanager
def within(name: str, attributes: Attributes, *, client: bool = False) -> Iterator[Span | None]:
    """Makes the block a span within the current one; None, and no span, if that is not exported."""
    parent = recorded()
    if parent is None:
        yield None
        return
    span = parent.child(name, attributes, client=client)
    token = CURRENT.set(span)
    error = ""
    try:
        yield span
    except BaseException as failure:
        error = type(failure).__name__
        raise
    finally:
        CURRENT.reset(token)
        span.end(error)
