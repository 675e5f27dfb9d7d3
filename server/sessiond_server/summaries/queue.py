"""The contract of what remembers how far the feeds have been looked through, and which sessions are due for a summary.

Every implementation passes tests/conformance. All of it is durable where sessions are. Times, errors and cancelling as
in store/contract.py: every method raises StoreUnavailable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond_server.domain.log import FeedPlace

NO_MESSAGE = -1


@dataclass(frozen=True, slots=True)
class When:
    """When sessions become due."""

    messages: int
    """Once so many messages are not covered by a summary; 0: never for their number."""
    tokens: int
    """Once messages of so many estimated tokens are not; 0: never for their size."""
    at_end: bool
    """Once they have ended, with any message that is not."""

    def reached(self, messages: int, tokens: int) -> bool:
        return 0 < self.messages <= messages or 0 < self.tokens <= tokens


@dataclass(frozen=True, slots=True)
class Behind:
    """A tenant whose feed has events behind the place up to which it was looked through."""

    tenant_id: str
    place: FeedPlace


@dataclass(frozen=True, slots=True)
class Note:
    """An event that matters."""

    session_id: str
    seq: int
    tokens: int
    """Of the message that it appended; NO_MESSAGE: it appended none."""
    ends: bool = False
    """Whether it ended the session."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that is due, and that one replica works on until the claim is over."""

    tenant_id: str
    session_id: str
    number: int
    """Tells claims of the session apart."""
    attempt: int
    """1 for the first one since the last success."""
    messages: int
    tokens: int
    """As far as they were counted."""
    ended: bool
    """Whether the end of the session makes it due."""
    asked: bool
    """Whether it is due whatever `When` says: a caller asked for it, or the summary before could not cover all that was
    to be covered."""
    keep: int | None = None
    """How many of the newest messages the caller wants to stay out; None: not said."""
    requests: int = 0
    """How often a caller has asked for a summary of the session."""


@dataclass(frozen=True, slots=True)
class Uncovered:
    """What no summary covers of a session."""

    version: int
    """Up to which the session was looked at."""
    messages: int
    tokens: int
    more: bool
    """Whether these are to be summarised at once: the session is due, and `asked`."""


class SummaryQueue(Protocol):
    """Which sessions are due. Safe on many replicas at once."""

    async def behind(self) -> Sequence[Behind]:
        """Tenants with events to look through, by id. Events from before the first call ever are not looked through, so
        that a switch that is turned on does not summarise all that there is."""
        ...

    async def note(
        self, behind: Behind, through: FeedPlace, notes: Sequence[Note], gone: Sequence[str], when: When
    ) -> bool:
        """Counts these events, makes sessions due, forgets the sessions of `gone` before that, and moves the tenant's
        place to `through`: all or nothing. Returns False, and does nothing, if the place is no longer
        `behind.place`."""
        ...

    async def request(self, tenant_id: str, session_id: str, keep: int | None, limit: int) -> bool:
        """Makes the session due now, and `asked`, also after failures, and while it is claimed: then once more. Returns
        False, and does nothing, if about `limit` other sessions of the tenant are `asked`."""
        ...

    async def claim(self, seconds: float, limit: int) -> Sequence[Claim]:
        """At most `limit` sessions that are due, those that are so for longest first. No other call returns them for
        so many seconds; then they are due again, unless the claim was given back."""
        ...

    async def settle(self, claim: Claim, uncovered: Uncovered) -> None:
        """Gives a claim back: the session was looked at, and is due again only for what came later, or if there is
        `more`. Does nothing if the claim was over and another one has been made."""
        ...

    async def postpone(self, claim: Claim, seconds: float | None) -> None:
        """Gives a claim back: the session is due again after so many seconds; None: after the next event that matters.
        Does nothing if another claim has been made."""
        ...

    async def forget(self, claim: Claim) -> None:
        """Gives a claim back, and forgets the session. Does nothing if another claim has been made."""
        ...
