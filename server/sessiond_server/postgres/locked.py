"""Runs batches when other transactions hold some of their sessions: refuses those sessions and writes the others.

A foreign transaction, or a replica that hangs in the middle of one, may lock a session for any length of time. The
first batch with such a session waits for LOCK_SECONDS. After that the session is remembered as locked, and batches take
its row with SKIP LOCKED until it is free.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Final

import asyncpg

from sessiond_server.domain.commands import Command, Result
from sessiond_server.domain.rows import Head, Key, Writes
from sessiond_server.errors import SessionLocked, StoreUnavailable
from sessiond_server.postgres import write
from sessiond_server.postgres.sqlstates import Meaning, meaning
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.commits import Applied

Work = Callable[[asyncpg.Connection, Sequence[Command], Mapping[Key, Head]], Awaitable[Applied]]
"""Applies commands, within the transaction that has locked the heads of their sessions."""

MOST_KNOWN: Final = 10_000
KNOWN_SECONDS: Final = 60.0
"""How long a session is remembered as locked after it was last found locked."""
SHORT_LOCK_SECONDS: Final = 0.1
ALERT_SECONDS: Final = 10.0
"""For this long after a lock timeout, batches wait only SHORT_LOCK_SECONDS for each lock: a transaction that holds one
session often holds more, and all writes of the shard wait meanwhile."""


class LockedSessions:
    """Runs batches and remembers the sessions that were found locked. Belongs to one store."""

    def __init__(self, transactions: Transactions, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds."""
        self._transactions = transactions
        self._clock = clock
        self._known: OrderedDict[Key, float] = OrderedDict()
        """Session -> time until which it counts as locked, earliest first."""
        self._alert_until = 0.0

    async def run(self, commands: Sequence[Command], work: Work) -> Applied:
        """Runs `work` on the commands whose sessions are free. The result of all others is SessionLocked.

        Raises StoreUnavailable; it is `locked` if a table is locked, `divisible` if something else than a session is.
        """
        suspects = self._suspects(commands)
        with self._transactions.causes.translating():
            try:
                return await self._run(commands, work, suspects)
            except asyncpg.PostgresError as error:
                if meaning(error) is not Meaning.LOCKED:
                    raise
                self._alert_until = self._clock() + ALERT_SECONDS
                # The error's context names the row that was locked, except for the second transaction that waits for
                # it. So without a context, it may have been a row or a whole table.
                context = getattr(error, "context", None)
                if not context and await self._transactions.blockers.of_table(len(commands)):
                    raise self._refusal(commands, error, of_table=True) from error
                of_session = not context or "session_heads" in context
                if not of_session or len(suspects) == len({command.key for command in commands}):
                    raise self._refusal(commands, error) from error
            try:
                return await self._run(commands, work, {command.key for command in commands})
            except asyncpg.PostgresError as error:
                if meaning(error) is not Meaning.LOCKED:
                    raise
                raise self._refusal(commands, error) from error

    async def _run(self, commands: Sequence[Command], work: Work, suspects: set[Key]) -> Applied:
        alert = self._clock() < self._alert_until
        locked: set[write.HeadKey] = set()

        async def attempt(connection: asyncpg.Connection) -> Applied:
            locked.clear()
            trusted = [command for command in commands if command.key not in suspects]
            heads = await write.lock_heads(connection, trusted) if trusted else {}
            if suspects:
                doubted = [command for command in commands if command.key in suspects]
                free, held = await write.lock_free_heads(connection, doubted)
                heads |= free
                locked.update(held)
            mine = [command for command in commands if write.head_key(command) not in locked]
            return await work(connection, mine, heads) if mine else Applied((), Writes())

        applied = await self._transactions.attempt(attempt, lock_seconds=SHORT_LOCK_SECONDS if alert else None)
        self._learn(suspects, {key[:2] for key in locked})
        if not locked:
            return applied
        answers = iter(applied.results)
        results: list[Result] = [
            SessionLocked(command.session_id) if write.head_key(command) in locked else next(answers)
            for command in commands
        ]
        return Applied(results, applied.writes)

    def _refusal(self, commands: Sequence[Command], error: asyncpg.PostgresError, of_table: bool = False) -> Exception:
        if of_table:
            self._transactions.causes.note(error)
            return StoreUnavailable(locked=True)
        if len(commands) == 1:
            return SessionLocked(commands[0].session_id)
        self._transactions.causes.note(error)
        return StoreUnavailable(divisible=True)

    def _suspects(self, commands: Sequence[Command]) -> set[Key]:
        if not self._known:
            return set()
        now = self._clock()
        while self._known and next(iter(self._known.values())) < now:
            self._known.popitem(last=False)
        return {command.key for command in commands if command.key in self._known}

    def _learn(self, suspects: set[Key], locked: set[Key]) -> None:
        for key in suspects - locked:
            self._known.pop(key, None)
        until = self._clock() + KNOWN_SECONDS
        for key in locked:
            self._known[key] = until
            self._known.move_to_end(key)
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
