"""Runs batches when other transactions hold some of their rows: refuses the commands on these sessions and documents,
and writes the others.

A foreign transaction, or a replica that hangs in the middle of one, may lock a session or a document for any length of
time. The first batch that needs it waits for LOCK_SECONDS. After that it is remembered as locked, and batches take its
row with SKIP LOCKED until it is free.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Generic, TypeVar

import asyncpg

from sessiond.v1.document_pb2 import DocumentScope
from sessiond_server.domain.commands import Command, CreateSession, ForkSession, Result
from sessiond_server.domain.documents.rows import DocumentKey
from sessiond_server.domain.documents.rules import named
from sessiond_server.domain.rows import Head, Key, Writes
from sessiond_server.errors import DocumentLocked, SessiondError, SessionLocked, StoreUnavailable
from sessiond_server.postgres import documents, write
from sessiond_server.postgres.sqlstates import Meaning, meaning
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.commits import Applied

Work = Callable[[asyncpg.Connection, Sequence[Command], Mapping[Key, Head]], Awaitable[Applied]]
"""Applies commands, within the transaction that has locked the heads of their sessions."""

MOST_KNOWN: Final = 10_000
KNOWN_SECONDS: Final = 60.0
"""How long a row is remembered as locked after it was last found locked."""
SHORT_LOCK_SECONDS: Final = 0.1
ALERT_SECONDS: Final = 10.0
"""For this long after a lock timeout, batches wait only SHORT_LOCK_SECONDS for each lock: a transaction that holds one
row often holds more, and all writes of the shard wait meanwhile."""

RowKey = TypeVar("RowKey", Key, DocumentKey)


class KnownLocks(Generic[RowKey]):
    """The rows of one kind that were found locked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._clock = clock
        self._until: OrderedDict[RowKey, float] = OrderedDict()
        """Row -> time until which it counts as locked, earliest first."""

    def __bool__(self) -> bool:
        return bool(self._until)

    def among(self, keys: Iterable[RowKey]) -> frozenset[RowKey]:
        """Those of `keys` that count as locked."""
        now = self._clock()
        while self._until and next(iter(self._until.values())) < now:
            self._until.popitem(last=False)
        return frozenset(key for key in keys if key in self._until)

    def learn(self, suspects: Iterable[RowKey], locked: Iterable[RowKey]) -> None:
        """`suspects` were tried, and `locked` were found locked."""
        for key in suspects:
            self._until.pop(key, None)
        until = self._clock() + KNOWN_SECONDS
        for key in locked:
            self._until[key] = until
            self._until.move_to_end(key)
        while len(self._until) > MOST_KNOWN:
            self._until.popitem(last=False)


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Rows that are taken with SKIP LOCKED."""

    sessions: frozenset[Key] = frozenset()
    documents: frozenset[DocumentKey] = frozenset()
    no_documents: bool = False
    """All commands with documents are refused: another transaction is creating one, which SKIP LOCKED does not see."""


class LockedRows:
    """Runs batches and remembers the sessions and documents that were found locked. Belongs to one store."""

    def __init__(self, transactions: Transactions, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self._transactions = transactions
        self._clock = clock
        self._sessions: KnownLocks[Key] = KnownLocks(clock)
        self._documents: KnownLocks[DocumentKey] = KnownLocks(clock)
        self._alert_until = 0.0

    async def run(self, commands: Sequence[Command], work: Work) -> Applied:
        """Runs `work` on the commands whose sessions and documents are free. The result of all others is SessionLocked
        or DocumentLocked.

        Raises StoreUnavailable; it is `locked` if a table is locked, `divisible` if something else than a session or a
        document is.
        """
        suspects = self._suspects(commands)
        with self._transactions.causes.translating():
            while True:
                try:
                    return await self._run(commands, work, suspects)
                except asyncpg.PostgresError as error:
                    if meaning(error) is not Meaning.LOCKED:
                        raise
                    self._alert_until = self._clock() + ALERT_SECONDS
                    # The error's context names the row that was locked, except for the second transaction that waits
                    # for it. So without a context, it may have been a row or a whole table.
                    context = getattr(error, "context", None) or ""
                    if not context and await self._transactions.blockers.of_table(len(commands)):
                        raise self._refusal(commands, error, of_table=True) from error
                    wider = _wider(suspects, commands, context)
                    if wider == suspects:
                        raise self._refusal(commands, error) from error
                    suspects = wider

    async def _run(self, commands: Sequence[Command], work: Work, suspects: _Suspects) -> Applied:
        alert = self._clock() < self._alert_until
        locked: set[write.HeadKey] = set()
        held: set[DocumentKey] = set()
        tried: set[DocumentKey] = set()
        hidden: set[write.HeadKey] = set()

        async def attempt(connection: asyncpg.Connection) -> Applied:
            for found in (locked, held, tried, hidden):
                found.clear()
            trusted = [command for command in commands if suspects.sessions.isdisjoint(_keys(command))]
            heads = await write.lock_heads(connection, trusted) if trusted else {}
            if suspects.sessions:
                doubted = [command for command in commands if not suspects.sessions.isdisjoint(_keys(command))]
                free, busy = await write.lock_free_heads(connection, doubted)
                heads |= free
                locked.update(busy)
            mine = [command for command in commands if locked.isdisjoint(write.head_keys(command))]
            if suspects.documents:
                hidden.update(_hidden(mine, heads))
                wanted = {key for command in mine if write.head_key(command) not in hidden for key in named(command)}
                tried.update(wanted & suspects.documents)
                held.update(wanted if suspects.no_documents else await documents.lock_free(connection, tried))
                mine = [command for command in mine if _locked(command, locked, held, hidden) is None]
            return await work(connection, mine, heads) if mine else Applied((), Writes())

        applied = await self._transactions.attempt(attempt, lock_seconds=SHORT_LOCK_SECONDS if alert else None)
        self._sessions.learn(suspects.sessions, {key[:2] for key in locked})
        if not suspects.no_documents:
            self._documents.learn(tried, held)
        if not locked and not held:
            return applied
        answers = iter(applied.results)
        results: list[Result] = [
            refusal if (refusal := _locked(command, locked, held, hidden)) is not None else next(answers)
            for command in commands
        ]
        return Applied(results, applied.writes)

    def _refusal(self, commands: Sequence[Command], error: asyncpg.PostgresError, of_table: bool = False) -> Exception:
        if of_table:
            self._transactions.causes.note(error)
            return StoreUnavailable(locked=True)
        if len(commands) == 1 and commands[0].session_id:
            return SessionLocked(commands[0].session_id)
        self._transactions.causes.note(error)
        return StoreUnavailable(divisible=True)

    def _suspects(self, commands: Sequence[Command]) -> _Suspects:
        return _Suspects(
            self._sessions.among(key for command in commands for key in _keys(command))
            if self._sessions
            else frozenset(),
            self._documents.among(key for command in commands for key in named(command))
            if self._documents
            else frozenset(),
        )


def _keys(command: Command) -> list[Key]:
    """The sessions that the command needs."""
    return [key[:2] for key in write.head_keys(command)]


def _wider(suspects: _Suspects, commands: Sequence[Command], context: str) -> _Suspects:
    """The suspects after a lock timeout with this context; the same if there is nothing more to suspect."""
    wider = suspects
    if not context or "session_heads" in context:
        keys = (key for command in commands if command.session_id for key in _keys(command))
        wider = replace(wider, sessions=frozenset(keys))
    if not context or "documents" in context:
        every = frozenset(key for command in commands for key in named(command))
        wider = replace(wider, documents=every, no_documents=bool(every) and every == suspects.documents)
    return wider


def _hidden(commands: Sequence[Command], heads: Mapping[Key, Head]) -> Iterator[write.HeadKey]:
    """The sessions that do not exist for the commands' callers, whose documents must not show either."""
    created = {command.key for command in commands if isinstance(command.action, CreateSession | ForkSession)}
    for command in commands:
        head = heads.get(command.key)
        exists = command.key in created if head is None else command.scope.user_id in ("", head.user_id)
        if command.session_id and not exists:
            yield write.head_key(command)


def _locked(
    command: Command, sessions: set[write.HeadKey], held: set[DocumentKey], hidden: set[write.HeadKey]
) -> SessiondError | None:
    """The refusal of the command; None if neither its session nor its documents are locked."""
    head_key = write.head_key(command)
    for needed in write.head_keys(command):
        if needed in sessions:
            return SessionLocked(needed[1])
    for _, scope, scope_id, key in held.intersection(named(command)) if held and head_key not in hidden else ():
        return DocumentLocked(DocumentScope.Name(scope), scope_id, key)
    return None
