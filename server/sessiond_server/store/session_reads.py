"""The contract for reads of sessions and messages. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.messages.selection import Selection
from sessiond_server.domain.rewinds.ranges import Ranges

LOOKED_AT = 1000
"""Fewest messages that are compared with a filter before its page may be short."""

PAGE_BYTES = 3 * 1024 * 1024
"""Most bytes of a page of messages, events or full sessions. The first item may exceed it."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer may be. Stores without a cache ignore it: their answers are always fresh."""

    min_version: int = 0
    """The answer must not have a lower version of the session if the primary has this one or a higher."""
    strong: bool = False
    """The answer must be read from the primary after the call began."""


CACHED = Freshness()
"""Accepts any version that the cache has."""


@dataclass(frozen=True, slots=True)
class SessionsPage:
    sessions: Sequence[SessionSnapshot]
    next_key: tuple[int | str, str] | None
    """(value of the field that the order sorts by, session_id) of the last session, if there are more; else None."""


@dataclass(frozen=True, slots=True)
class MessagesPage:
    """A page of a session's messages."""

    version: int
    """The session's version. The page is complete up to it, within its bounds."""
    messages: Sequence[bytes]
    """Serialised Messages, by ascending `seq`, or descending if requested."""
    first_seq: int
    """`seq` of the first item of `messages`, or of a message before it with none of the list's between; 0 if nothing
    was found."""
    last_seq: int
    """`seq` up to which the page was read: of the last item of `messages`, or of a message behind it. 0 as above."""
    more: bool
    """Whether there may be more messages in the direction of reading."""


@dataclass(frozen=True, slots=True)
class SummariesPage:
    version: int
    """The session's version that the page describes."""
    summaries: Sequence[bytes]
    """Serialised Summaries, newest first."""
    next_seq: int
    """`seq` of the last summary, if there are more; else 0."""


def selected(
    version: int, looked_at: Sequence[tuple[int, bytes]], where: Selection, limit: int, *, more: bool
) -> MessagesPage:
    """A page of the selected ones of messages that were read in order: (seq, serialised Message). `more`: whether there
    may be messages behind them."""
    if not looked_at:
        return MessagesPage(version, [], 0, 0, more=False)
    found: list[bytes] = []
    first, last = looked_at[0][0], looked_at[-1][0]
    last_found = first
    for seq, body in looked_at:
        if not where.selects(Message.FromString(body)):
            continue
        if len(found) == limit:
            return MessagesPage(version, found, first, last_found, more=True)
        found.append(body)
        last_found = seq
    return MessagesPage(version, found, first, last, more=more)


class SessionReads(Protocol):
    """Reads that a cache may answer if `freshness` allows it."""

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        """The session. Without `content`, the snapshot's content is b"". Raises SessionNotFound (also if deleted)."""
        ...

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        """One entry for each id, in order; None where `get_session` would raise SessionNotFound."""
        ...

    async def list_messages(
        self,
        scope: Scope,
        session_id: str,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        """At most `limit` messages with after_seq < seq < before_seq (before_seq 0: no bound), within PAGE_BYTES.

        `rewound`: the places to leave out; None: what rewinds have hidden. `include_rewound`: none is left out, and
        each message that rewinds have hidden says so. Reads from the lower bound upwards, or with `descending` from the
        upper bound downwards. The page and its version are from one snapshot. Raises SessionNotFound.
        """
        ...


class SessionQueries(Protocol):
    """Reads that always go to the primary. Add new lists here: no decorator wraps this contract."""

    async def list_sessions(
        self,
        scope: Scope,
        where: SessionFilter,
        order_by: SessionOrder.ValueType,
        *,
        after: tuple[int | str, str] | None,
        limit: int,
        content: bool,
    ) -> SessionsPage:
        """At most `limit` (1 or more) sessions that match `where`, strictly behind the key `after` in the order.

        A key is (create time or update time in microseconds, or name; session_id). Both parts sort in the order's
        direction; names and ids compare by code points. With `content` the page stays within PAGE_BYTES.
        """
        ...

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        """The number of sessions that match `where`."""
        ...

    async def find_messages(
        self,
        scope: Scope,
        session_id: str,
        where: Selection,
        *,
        after_seq: int,
        before_seq: int,
        descending: bool,
        limit: int,
        rewound: Ranges | None = None,
        include_rewound: bool = False,
    ) -> MessagesPage:
        """As SessionReads.list_messages, of the messages that `where` selects. May compare LOOKED_AT messages only:
        then the page is short or empty and has `more`."""
        ...

    async def list_summaries(
        self, scope: Scope, session_id: str, *, before_seq: int, limit: int, rewound: Ranges | None = None
    ) -> SummariesPage:
        """At most `limit` summaries with seq < before_seq (0: no bound), by descending seq, within PAGE_BYTES.
        `rewound`: as of list_messages. The page and its version are from one snapshot. Raises SessionNotFound."""
        ...

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised Message). A message that rewinds have hidden says so. Raises
        SessionNotFound; MessageNotFound."""
        ...
