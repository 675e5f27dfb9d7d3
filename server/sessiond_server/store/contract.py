"""What a store is. Every implementation passes tests/conformance.

Reads and writes take a Scope; what lies outside it does not exist (G11). Identifiers, limits, filters come valid.
Times are microseconds since 1970-01-01 UTC, by the store's own clock: the database's for Postgres, an injected one for
the memory store. Bytes that come back are serialised `sessiond.v1` messages and belong to the caller.

Any method raises `StoreUnavailable` when the database cannot be reached. Cancelling a read abandons it. Cancelling
`apply` before its commit was sent undoes everything; after that the commit goes on without the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sessiond.v1.session_service_pb2 import SessionFilter, SessionOrder
from sessiond_server.domain.commands import Command, Outcome, Result, Scope, SessionSnapshot
from sessiond_server.domain.log import FeedEntry, FeedPlace, LogEntry
from sessiond_server.domain.rows import Key, Writes

PAGE_BYTES = 3 * 1024 * 1024
"""A page of messages, events or full sessions ends before the item that would pass this; it has at least one item."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch of commands came to."""

    results: Sequence[Result]
    """One for each command, in order."""
    writes: Writes
    """What was committed: the bytes that caches and subscribers get, without reading them back."""


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


@dataclass(frozen=True, slots=True)
class LogHead:
    """The end of one session's log."""

    version: int
    deleted: bool
    """The session is a tombstone; its final event, at `version`, is all that is left of the log."""


@dataclass(frozen=True, slots=True)
class LogHeads:
    """The ends of many logs, and which database said so."""

    heads: Sequence[LogHead | None]
    """One for each key asked for, in order; None: there is no such session (never was, or its tombstone is gone)."""
    incarnation: str
    """Differs when the database has been restarted, or another one has taken over: what was acknowledged may be lost,
    where it replicates asynchronously."""
    now_us: int
    running: frozenset[int] = frozenset()
    """As in FeedPage."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """A piece of one session's log, for streams: of one snapshot of the database."""

    head: LogHead
    user_id: str
    before: LogEntry | None
    """The event at `after_seq`; None where there is none (after_seq 0, or removed)."""
    entries: Sequence[LogEntry]
    """seq > after_seq, ascending, without a gap; of a deleted session the final event alone."""


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A piece of one tenant's feed."""

    entries: Sequence[FeedEntry]
    """In order of `place`, none missing."""
    complete: bool
    """Everything that may be delivered by now has been: there was room left in the page. What is committed but stands
    behind a transaction that is still under way is not in it; see `pending`."""
    pending: bool
    """Events of the tenant have been committed that must wait for another transaction to end: look again soon."""
    incarnation: str
    """As in LogHeads."""
    now_us: int
    running: frozenset[int] = frozenset()
    """Transactions that were under way when the page was read, anyone's, as FeedEntry.writer; but those whose ids are
    higher than that of every transaction that had ended."""


class Store(Protocol):
    """The log of every session, and what is projected from it."""

    async def apply(self, commands: Sequence[Command]) -> Applied:
        """Decides and commits the commands in one transaction; results in the same order.

        All or nothing: when it returns, every accepted command's events, state and idempotency record are durable; when
        it raises, none is, with one exception: `StoreUnavailable` while the commit was under way leaves the outcome
        unknown. Applying the same commands again is then exact: what has happened gives its first outcome.

        Commands on one session see the effects of those before them in the sequence. Refusals are results, not raised.
        A command whose `request_id` the session knows gives the first outcome, or `RequestIdReused` when the
        fingerprint differs; records live for the store's `request_retention`. Concurrent calls, through any number of
        processes, serialise on each session (G2, G4).

        Raises anything else only on defects or on data that the database cannot take; the caller then bisects.
        """
        ...

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

    async def get_message(
        self, scope: Scope, session_id: str, message_id: str, *, freshness: Freshness = CACHED
    ) -> tuple[int, bytes]:
        """(version of the session, serialised Message). Raises SessionNotFound; MessageNotFound."""
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

    async def log_heads(self, keys: Sequence[Key]) -> LogHeads:
        """The ends of these logs, tombstones included, read from the primary in one statement. At most 10 000 keys."""
        ...

    async def read_log(self, key: Key, *, after_seq: int, limit: int) -> LogPage:
        """At most `limit` (1 to 1000) events with seq > after_seq, obeying PAGE_BYTES, and the one at `after_seq`;
        tombstones too.

        Read from the primary; of one snapshot. The caller checks who may see it, by `user_id`. Raises SessionNotFound
        where there is neither session nor tombstone.
        """
        ...

    async def read_feed(self, tenant_id: str, *, after: FeedPlace, limit: int) -> FeedPage:
        """At most `limit` (1 to 1000) events of the tenant behind `after`, obeying PAGE_BYTES, in commit order; those
        of a session in order of `seq`.

        Nothing that is committed later will ever stand before an event in the answer: events of transactions that are
        not older than every one still under way are held back (`commit_xid < pg_snapshot_xmin(pg_current_snapshot())`).
        """
        ...

    async def feed_end(self, tenant_id: str) -> Sequence[tuple[FeedPlace, str]]:
        """(place, event id) of the last event of each of the tenant's last transactions, at most 8, ascending.

        Everything that is committed after the call stands behind the last of them. What is still held back counts as
        committed later. Empty: there is nothing yet.
        """
        ...

    async def find_lost(self, tenant_id: str, witnesses: Sequence[tuple[FeedPlace, str]]) -> FeedPlace | None:
        """The first of these events that the database has lost; None when it has lost none.

        An event is not lost when its session was deleted after it: the tombstone's version tells, and once the
        tombstone may be gone too, the age of the event id, a UUIDv7.
        """
        ...

    async def expire_due(self, limit: int) -> Writes:
        """Ends at most `limit` sessions whose expire_time has passed, and live runs whose lease has, with all that
        follows, one event each; what was committed.

        One row of `heads` for each session that it changed; fewer than `limit`: no more are due.

        Safe on many replicas at once: sessions that another one is working on are skipped, not waited for.
        """
        ...

    async def purge(self, limit: int) -> int:
        """Removes at most `limit` idempotency records and tombstones each that are past their retention; how many."""
        ...

    async def token_key(self) -> bytes:
        """32 secret bytes that sign page tokens and positions; the same for all replicas, for the database's life."""
        ...

    async def ping(self) -> None:
        """Returns when a read of the primary has succeeded."""
        ...


class Writer(Protocol):
    """Where the wire puts commands. The batcher gathers them for Store.apply."""

    async def write(self, command: Command) -> Outcome:
        """Applies one command and answers with what it did, once it is durable.

        Raises what refused it, QueueFull at once when too many wait, StoreUnavailable when the outcome stays unknown.
        Cancelling withdraws a command that has not been sent to the store; one that was is committed all the same.
        """
        ...
