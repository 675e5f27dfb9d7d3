"""The contract for erasures of users: which are under way, and what they have still to remove. Errors, times and
cancelling as in contract.py. Every implementation passes tests/conformance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.erasure_pb2 import Erasure
from sessiond_server.domain.commands import Scope


@dataclass(frozen=True, slots=True)
class ErasureClaim:
    """The right to work on an erasure, until its lease is over and another claim takes it."""

    tenant_id: str
    user_id: str
    number: int
    """Claims of the user's erasures so far: the highest one holds."""


@dataclass(frozen=True, slots=True)
class ErasuresPage:
    erasures: Sequence[Erasure]
    """Ascending by user id."""
    next_user_id: str
    """Id of the last one's user; empty: there are no more."""


class ErasureStore(Protocol):
    """The last erasure of each user. The methods with a claim do nothing once another claim has been made."""

    async def begin_erasure(self, scope: Scope, user_id: str, request_id: str) -> Erasure:
        """Begins an erasure of the user, and answers with it. Answers with the last one if that is under way, or if it
        was begun with the same `request_id`, which is not empty. Raises UnderLegalHold where a new one of a held user
        would begin."""
        ...

    async def get_erasure(self, scope: Scope, user_id: str) -> Erasure:
        """The last erasure of the user; its report is without a signature. Raises ErasureNotFound."""
        ...

    async def list_erasures(self, scope: Scope, *, after: str, limit: int) -> ErasuresPage:
        """At most `limit` erasures of users with ids > `after`, ascending (code points), without their reports."""
        ...

    async def claim_erasure(self, seconds: float) -> ErasureClaim | None:
        """Claims an erasure that is under way and that no other claim holds, for that time; None if there is none.
        Safe on many replicas at once."""
        ...

    async def sessions_to_erase(self, claim: ErasureClaim, limit: int) -> Sequence[str]:
        """Ids of at most `limit` of the user's sessions, and notes them for the report: the caller is about to delete
        them. Not among them are deleted ones, and those that a legal hold keeps. Empty if the claim no longer
        holds."""
        ...

    async def noted_deletions(self, claim: ErasureClaim, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """(id, version) of at most `limit` sessions with ids > `after` (code points) that were noted, and are deleted:
        the version is that of the deletion. Ascending; empty if the claim no longer holds."""
        ...

    async def erase_documents(self, claim: ErasureClaim, limit: int) -> int:
        """Removes at most `limit` documents of the user, and at most as many records of the requests that wrote them.
        Counts them in the erasure, in the same transaction. Returns how many; 0 when nothing is left."""
        ...

    async def erase_names(self, claim: ErasureClaim, after: str, limit: int) -> str | None:
        """Removes what deletions have left of the documents of the user's sessions, for the next `limit` deleted
        sessions with ids > `after` (code points), and counts it likewise. Returns the id of the last one; None if there
        are no more."""
        ...

    async def erase_usage(self, claim: ErasureClaim) -> None:
        """Removes the counters of the user's usage, once all sessions are deleted; what is counted of them later has no
        user. The counters of the tenant stay."""
        ...

    async def advance_erasure(self, claim: ErasureClaim, seconds: float, *, sessions: int, done: bool) -> bool:
        """Counts sessions that were deleted, extends the claim by that time from now, and ends the erasure with `done`,
        unless a legal hold keeps something: then it goes on once the claim is over. At its end, the report counts all
        sessions that were noted, and so does the erasure. Returns False, and changes nothing, if the claim no longer
        holds."""
        ...
