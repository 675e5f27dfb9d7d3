"""The contract for counters of what tenants use. Errors, times and cancelling as in contract.py. Every implementation
passes tests/conformance."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from sessiond_server.domain.commands import Scope
from sessiond_server.domain.usage.figures import Figures

Key = tuple[str, date | None, str, str]
"""(user_id, day, agent_id, model); empty where sums are not made for it."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which counters are summed, and for what."""

    first_day: date
    last_day: date
    """Itself included."""
    user_id: str | None
    """None: all users, like the other two."""
    agent_id: str | None
    model: str | None
    by: frozenset[str]
    """Parts of Group for which sums are made."""


@dataclass(frozen=True, slots=True)
class UsagePage:
    rows: Sequence[tuple[Key, Figures]]
    """Ascending by key; strings by code points."""
    more: bool
    as_of_us: int
    """Everything that was committed before this time is counted."""


class UsageReads(Protocol):
    """Reads of counters."""

    async def get_usage(self, scope: Scope, query: UsageQuery, *, after: Key | None, limit: int) -> UsagePage:
        """At most `limit` sums with keys > `after`; only such of which there is anything. The counters of the scope's
        user, if it has one; then `query.user_id` is that user."""
        ...


class UsageCounting(Protocol):
    """What keeps the counters up to date, by the feeds of all tenants. Each event counts exactly once, also where its
    session is deleted before it was counted. Safe on many replicas at once."""

    async def take_lease(self, holder: str, seconds: float) -> bool:
        """Whether the holder has the lease, now for so many seconds. Others need not count meanwhile, but do no
        harm."""
        ...

    async def count(self) -> tuple[int, bool]:
        """Counts what some tenants have of events that are not counted yet, a bounded number. Returns how many events
        there were, and whether that was all."""
        ...
