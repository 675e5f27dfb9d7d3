"""Reads of sessions and messages. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Scope, SessionSnapshot

PAGE_BYTES = 3 * 1024 * 1024
"""A page of messages, events or full sessions ends before the item that would pass this; it has at least one item."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer may be. Stores without a cache are always fresh and need not look."""

    min_version: int = 0
    """An answer of an older version of the session must not be given while the truth has this one or a newer."""
    strong: bool = False
    """The answer must come from the truth, read after the call began."""


CACHED = Freshness()
"""Whatever the cache has."""


@dataclass(frozen=True, slots=True)
class SessionsPage:
    sessions: Sequence[SessionSnapshot]
    next_key: tuple[int | str, str] | None
    """(value of the order's field, session_id) of the last session, when there are more; else None."""


@dataclass(frozen=True, slots=True)
class MessagesPage:
    version: int
    """The session's version; the page holds every message up to it that the bounds select."""
    messages: Sequence[bytes]
    """Serialised Messages, ascending `seq` unless asked descending."""
    first_seq: int
    last_seq: int
    """`seq` of the first and last item of `messages`, in their order; 0 when there is none."""
    more: bool
    """True when further messages lie in the direction of reading."""


class SessionReads(Protocol):
    """Reads that a cache may answer, as far as `freshness` allows it."""

    async def get_session(
        self, scope: Scope, session_id: str, *, content: bool, freshness: Freshness = CACHED
    ) -> SessionSnapshot:
        """The session; `content` is b"" when not asked for. Raises SessionNotFound (deleted ones too)."""
        ...

    async def get_sessions(
        self, scope: Scope, session_ids: Sequence[str], *, content: bool, freshness: Freshness = CACHED
    ) -> Sequence[SessionSnapshot | None]:
        """One entry for each id, in order, None where `get_session` raises SessionNotFound."""
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
        freshness: Freshness = CACHED,
    ) -> MessagesPage:
        """At most `limit` messages with after_seq < seq < before_seq (before_seq 0: no bound), obeying PAGE_BYTES.

        Reads from the lower bound upwards, or from the upper bound downwards. Raises SessionNotFound. Page and version
        are of one snapshot.
        """
        ...


class SessionQueries(Protocol):
    """Reads that always come from the truth. A new list belongs here: no decorator knows of it."""

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
        """At most `limit` (1 or more) sessions that `where` selects, strictly behind the key `after` in the order.

        Key: (create or update time in microseconds or the name, session_id), both in the order's direction. Names and
        ids compare by code points. With `content` the page obeys PAGE_BYTES.
        """
        ...

    async def count_sessions(self, scope: Scope, where: SessionFilter) -> int:
        """How many sessions `where` selects."""
        ...

    async def get_message(self, scope: Scope, session_id: str, message_id: str) -> tuple[int, bytes]:
        """(version of the session, serialised Message). Raises SessionNotFound; MessageNotFound."""
        ...
