"""The contract for what must be kept: legal holds, and for how long ended sessions are.

Errors, times and cancelling as in contract.py. Every implementation passes tests/conformance. What a hold refuses is a
rule of the write path (domain/holds.py), and of erasures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.retention_pb2 import LegalHold, RetentionPolicy
from sessiond_server.domain.commands import Scope


@dataclass(frozen=True, slots=True)
class NewHold:
    """A hold to place. One of `session_id` and `user_id` is empty."""

    session_id: str
    user_id: str
    reason: str
    actor: str
    request_id: str
    """May be empty."""


@dataclass(frozen=True, slots=True)
class HoldsPage:
    holds: Sequence[LegalHold]
    """Newest first."""
    next_key: tuple[int, str] | None
    """(create_time_us, hold_id) of the last one; None: there are no more."""


@dataclass(frozen=True, slots=True)
class Retained:
    """A tenant that does not keep its ended sessions for good."""

    tenant_id: str
    kept_us: int
    """For how many microseconds it keeps them; above 0."""


@dataclass(frozen=True, slots=True)
class EndedPage:
    due: Sequence[tuple[str, int]]
    """(session_id, version) of the sessions of the page that are to be removed."""
    next_key: tuple[int, str] | None
    """(create_time_us, session_id) of the last session that was looked at; None: there are no more."""


class RetentionStore(Protocol):
    """Legal holds of tenants, and for how long they keep ended sessions."""

    async def place_hold(self, scope: Scope, hold: NewHold) -> LegalHold:
        """Places a hold. From its return on no write that would remove something of it is accepted; those accepted
        before have been committed. A request id that has placed a hold before answers with that one, as it is now;
        raises RequestIdReused if it was another hold. Raises SessionNotFound."""
        ...

    async def lift_hold(self, scope: Scope, hold_id: str, actor: str, reason: str) -> LegalHold:
        """Lifts a hold; one that is lifted stays as it is. Raises HoldNotFound."""
        ...

    async def list_holds(
        self, scope: Scope, *, session_id: str, user_id: str, lifted: bool, after: tuple[int, str] | None, limit: int
    ) -> HoldsPage:
        """At most `limit` holds, newest first, behind the key `after` of an earlier page; None: from the newest on.
        Only those of the session or of the user, where one is given. With `lifted`, also those that were lifted."""
        ...

    async def set_policy(self, scope: Scope, ended_retention_us: int | None, actor: str) -> None:
        """Sets for how many microseconds the tenant keeps ended sessions; 0: for good; None: as the default says."""
        ...

    async def get_policy(self, scope: Scope) -> RetentionPolicy:
        """The tenant's policy, without `effective_ended_retention`; empty if none was set."""
        ...

    async def retained_tenants(self, default_us: int, *, after: str, limit: int) -> Sequence[Retained]:
        """At most `limit` tenants with ids > `after` (code points), ascending, whose ended sessions are not kept for
        good. `default_us`: for how long tenants without a policy keep them; 0: for good."""
        ...

    async def ended_sessions(self, kept: Retained, *, after: tuple[int, str] | None, limit: int) -> EndedPage:
        """Looks at the tenant's next `limit` ended sessions that are older than its retention, in the order of their
        creation, behind the key `after` of an earlier page. Due are those in which nothing has changed for that long,
        and which no legal hold keeps."""
        ...
