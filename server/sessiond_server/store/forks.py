"""The contract for reads of forks, and for what spreads a redaction to all sessions that show a message. Errors, times
and bytes as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.commands import Scope, SessionSnapshot


@dataclass(frozen=True, slots=True)
class ForksPage:
    forks: Sequence[SessionSnapshot]
    """Without their content, oldest first."""
    next_key: tuple[int, str] | None
    """(create time, session_id) of the last fork, if there are more; else None."""


@dataclass(frozen=True, slots=True)
class Untold:
    """A session that shows a message which was redacted in another one, and has no event of that yet."""

    tenant_id: str
    session_id: str
    request_id: str
    """Of the redaction that tells it: its record shows that it was told."""
    message_id: str
    reason: str
    title: str
    """As RedactMessage.title."""
    actor: str


class ForkStore(Protocol):
    """Reads of forks, and of redactions that are to be spread."""

    async def list_forks(
        self, scope: Scope, session_id: str, *, after: tuple[int, str] | None, limit: int
    ) -> ForksPage:
        """At most `limit` forks that were made directly of the session, strictly behind `after`, by ascending (create
        time, session_id). Raises SessionNotFound."""
        ...

    async def hide(self, tenant_id: str) -> bool:
        """Moves some of what forks show of deleted sessions to hidden logs, of the tenant; "": of any tenant. Returns
        whether nothing is left to move."""
        ...

    async def untold(self, tenant_id: str, limit: int) -> Sequence[Untold]:
        """At most `limit` sessions that are to be told of a redaction, of the tenant; "": of any tenant."""
        ...

    async def end_spreads(self, tenant_id: str) -> bool:
        """Forgets redactions of which every session has been told, of the tenant; "": of any. Returns whether none is
        left. False: tell those that `untold` finds, and call it again."""
        ...
