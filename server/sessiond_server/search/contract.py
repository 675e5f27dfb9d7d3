"""The contract of an index: what may match a query. Every implementation passes tests/conformance.

An index names candidates: all that match, and perhaps more. `finding.py` compares them with the query. Scopes, times
and bytes are as in store/contract.py. Every method raises StoreUnavailable if the database cannot be reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from sessiond.v1.session_service_pb2 import SessionFilter
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.search.query import Query

Place = tuple[int | str, ...]
"""Where a candidate stands: those that were committed later have higher places. Only its index knows what the parts
mean."""

TOOL: Final = 4
"""The role, as a number of the enum, that tool calls count as."""


@dataclass(frozen=True, slots=True)
class Where:
    """What candidates are limited to."""

    session_id: str = ""
    """Empty: any session."""
    sessions: SessionFilter = field(default_factory=SessionFilter)
    roles: frozenset[int] = frozenset()
    """Empty: all."""
    from_us: int | None = None
    until_us: int | None = None
    """Exclusive."""


@dataclass(frozen=True, slots=True)
class EventCandidate:
    """An event that may match: an appended message, or an event of a tool call."""

    place: Place
    session_id: str
    seq: int
    type: int
    create_time_us: int
    data: bytes
    """The serialised Message or ToolCall, with the arguments or the result that the event brought."""


@dataclass(frozen=True, slots=True)
class SessionCandidate:
    place: Place
    session: SessionSnapshot
    """With its content."""


C = TypeVar("C", EventCandidate, SessionCandidate, covariant=True)


@dataclass(frozen=True, slots=True)
class Candidates(Generic[C]):
    items: Sequence[C]
    """By descending place, within PAGE_BYTES, but at least one if there are any."""
    next: Place | None
    """Where the next ones lie before; None: there are no more."""
    edge: Place
    """Above the places of all candidates that there were."""
    complete: bool = True
    """False while the index is built for the first time: it may lack what was written long ago or just now."""


class SearchIndex(Protocol):
    """Candidates of searches. Nothing that has been redacted or deleted, or lies outside the scope, is a candidate."""

    async def message_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[EventCandidate]:
        """At most `limit` candidates before the place, the newest first. Raises InvalidPageToken for a place of another
        index, such as one that was built anew."""
        ...

    async def session_candidates(
        self, scope: Scope, query: Query, where: Where, *, before: Place | None, limit: int
    ) -> Candidates[SessionCandidate]:
        """As `message_candidates`, by the creation of the sessions. Of `where`, only `sessions` counts."""
        ...

    async def wait_until_seen(self, scope: Scope, session_id: str, version: int, seconds: float) -> int:
        """Returns the version of the session up to which the index has seen its log, once that is `version` or higher,
        or `seconds` have passed, or the session itself has no such version. Raises SessionNotFound."""
        ...
