"""Appends written in one statement, instead of a transaction of five, where this process knows their sessions' heads.

They are decided by the heads that this process wrote last, and by an estimate of the database's time. One statement,
which is a transaction of its own, then writes the rows of each session whose head is still the same when it is locked,
and at a time that is close enough: `write_if_unchanged` in write.sql. It never waits for a row. Whatever it has not
written, and all that needs more than heads, goes through the locked path, which alone decides what a refusal or a retry
is told (docs/decisions/0056-optimistic-writes.md).
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Final, Literal

import asyncpg

from sessiond.v1.session_pb2 import Session
from sessiond_server.domain import batch
from sessiond_server.domain.batch import Decision
from sessiond_server.domain.commands import AppendMessages, Command, MessagesAppended, Result
from sessiond_server.domain.rows import EventRow, Head, HeadRow, Key, Known, Needs, Policy, RequestRow, Writes
from sessiond_server.domain.session_rows import next_check
from sessiond_server.encryption import rows as sealed_rows
from sessiond_server.encryption.keyring import Keyring
from sessiond_server.postgres import write
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.database_clock import DatabaseClock
from sessiond_server.postgres.kept_heads import KeptHeads
from sessiond_server.postgres.sqlstates import Meaning, meaning
from sessiond_server.postgres.statements import WRITE
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.commits import Applied
from sessiond_server.store.homes import Homes

WRITE_IF_UNCHANGED = WRITE["write_if_unchanged"].text
READ_HEADS = WRITE["read_heads"].text

AHEAD_US: Final = 2_000
"""By how much the estimate of the time may be ahead of the database's clock once the heads are locked."""
BEHIND_US: Final = 500_000
"""By how much it may be behind by then: the statement was so long on its way."""
MARGIN_US: Final = 1_000_000
"""Sessions and leases that expire so soon, or have expired, are decided by the database's own time. More than
BEHIND_US, so that none has expired when its head is locked."""
PAUSE_SECONDS: Final = 1.0
"""For how long the locked path is taken after a statement that could write nothing and is likely to fail again: what is
overloaded should not be asked twice."""

Mode = Literal["on", "off", "always"]
"""`always`: heads that are not known are read before, for tests."""

LOCKED_REASONS: Final[Mapping[str, str]] = {
    "off": "optimistic writes are off, or not possible over this connection",
    "more": "some command is no append, or needs or writes more than heads",
    "elsewhere": "the map of tenants has changed, or says that one lives elsewhere",
    "unknown": "a head, or the database's time, is not known",
    "expires": "a session, or the lease of its run, is about to expire",
    "refused": "the rules refuse a command on the session",
    "changed": "another writer was first",
    "busy": "a transaction holds the session, or it is gone",
    "paused": "the locked path is taken for a while after `clock`, `isolation` and `failed`",
    "clock": "the estimate of the time was wrong, or the statement came late",
    "isolation": "the database's isolation level is another",
    "exists": "a request or a message of the batch is there already",
    "failed": "the statement failed otherwise",
}
"""Why commands go through the locked path."""

_MORE_NEEDS: Final = tuple(f.name for f in fields(Needs) if f.name not in ("requests", "message_ids"))
_MORE_WRITES: Final = tuple(f.name for f in fields(Writes) if f.name not in ("heads", "events", "requests"))


@dataclass(frozen=True, slots=True)
class _Attempt:
    """Commands that were decided by what this process believes."""

    decision: Decision
    heads: Mapping[Key, Head]
    """Those that were decided on."""
    now_us: int
    refused: frozenset[Key]
    """Sessions with a command whose result is no accepted append: nothing of them is written."""

    def rows(self) -> list[HeadRow]:
        return sorted((r for r in self.decision.writes.heads if r.key not in self.refused), key=lambda row: row.key)


class OptimisticWrites:
    """Belongs to one store."""

    def __init__(
        self,
        transactions: Transactions,
        locked: Callable[[Sequence[Command]], Awaitable[Applied]],
        clock: DatabaseClock,
        homes: Homes,
        policy: Policy,
        new_id: Callable[[], str],
        mode: Mode,
        keyring: Keyring | None = None,
    ) -> None:
        """`locked`: applies commands by the locked path. `clock`: it notes the database's time there. `keyring`:
        contents are encrypted."""
        self._keyring = keyring
        self._transactions = transactions
        self._locked = locked
        self._clock = clock
        self._homes = homes
        self._homes_version = 0
        self._policy = policy
        self._new_id = new_id
        self._mode = mode
        self._heads = KeptHeads()
        self._paused_until = -inf
        """Time of `clock.clock`."""
        self.counts: Counter[str] = Counter(dict.fromkeys(("optimistic", *LOCKED_REASONS), 0))
        """Commands by how they were applied: "optimistic", or why they went through the locked path."""

    async def apply(self, commands: Sequence[Command]) -> Applied:
        """See Commits.apply, but several transactions may take part: what one statement has not written is applied by
        the locked path after it. If that raises, the same commands can be applied again, as always."""
        attempt = await self._decide(commands)
        if isinstance(attempt, str):
            return await self._by_locks(commands, attempt)
        # Nothing is believed of these sessions until the outcome is known: what follows an error takes the locked path.
        self._heads.drop(attempt.heads)
        outcomes = await self._write(attempt)
        if isinstance(outcomes, str):
            return await self._by_locks(commands, outcomes)
        return await self._finish(commands, attempt, outcomes)

    def learn(self, writes: Writes) -> None:
        """Believes what the store has committed otherwise."""
        if self._mode == "off":
            return
        if self._homes_version != self._homes.version:
            self._heads.clear()
            self._homes_version = self._homes.version
        self._heads.learn(writes)

    async def _decide(self, commands: Sequence[Command]) -> _Attempt | str:
        """The commands decided by what is believed; or why they need the locked path."""
        if self._mode == "off":
            return "off"
        if any(type(command.action) is not AppendMessages for command in commands):
            return "more"
        if self._homes_version != self._homes.version:
            self._heads.clear()
            self._homes_version = self._homes.version
        if self._homes.any and self._homes.elsewhere(command.scope.tenant_id for command in commands):
            return "elsewhere"
        if self._mode == "always":
            await self._read(commands)
        now_us = self._clock.now_us()
        if now_us is None:
            return "unknown"
        heads: dict[Key, Head] = {}
        for command in commands:
            kept = self._heads.get(command.key)
            if kept is None or command.scope.user_id not in ("", kept.head.user_id):
                return "unknown"
            if kept.check_time_us is not None and kept.check_time_us < now_us + MARGIN_US:
                return "expires"
            heads[command.key] = kept.head
        if not self._transactions.can_send_alone:
            return "off"
        if self._clock.clock() < self._paused_until and self._mode == "on":
            return "paused"
        asked = batch.needs(commands, heads, self._policy)
        if any(getattr(asked, name) for name in _MORE_NEEDS):
            return "more"
        decision = batch.decide(commands, heads, Known(now_us), self._policy, self._new_id)
        refused = frozenset(
            command.key
            for command, result in zip(commands, decision.results, strict=True)
            if not isinstance(result, MessagesAppended)
        )
        if len(refused) == len(heads):
            return "refused"
        if any(getattr(decision.writes, name) for name in _MORE_WRITES):
            return "more"
        return _Attempt(decision, heads, now_us, refused)

    async def _read(self, commands: Iterable[Command]) -> None:
        keys = sorted({command.key for command in commands if self._heads.get(command.key) is None})
        asked = self._clock.clock()
        rows = await self._transactions.fetch(READ_HEADS, *columns(keys, 2))
        for row in rows:
            self._clock.note(asked, row["now"])
            if row["place"] is not None:
                head = write.head(row, 2)
                core = Session.FromString(head.core)
                self._heads.keep(keys[row["place"] - 1], head, next_check(core, head.lease_expire_us))

    async def _write(self, attempt: _Attempt) -> dict[Key, str] | str:
        """What came of each session; or why nothing was written."""
        rows, writes = attempt.rows(), attempt.decision.writes
        before = {row.key: attempt.heads[row.key].core for row in rows}
        if self._keyring is not None and self._keyring.seals:
            sealed = {key: self._keyring.cores.of(key, core) for key, core in before.items()}
            before = {key: core for key, core in sealed.items() if core is not None}
            if len(before) < len(rows):
                return "unknown"
            writes = sealed_rows.sealed(_only(writes, set(before)), attempt.heads, self._keyring)
            rows = sorted(writes.heads, key=lambda row: row.key)
        parameters = _parameters(attempt, rows, before, writes, self._homes)
        asked = self._clock.clock()
        with self._transactions.causes.translating():
            try:
                answer = await self._transactions.alone(WRITE_IF_UNCHANGED, *parameters)
            except asyncpg.UniqueViolationError:
                return "exists"
            except (asyncpg.PostgresError, asyncpg.DataError) as error:
                if meaning(error) is Meaning.AWAY:
                    raise  # It may have been committed.
                self._pause()
                return "failed"
        outcomes = dict.fromkeys((row.key for row in rows), "busy") | dict.fromkeys(attempt.refused, "refused")
        for place, outcome, _ in answer:
            outcomes[rows[place - 1].key] = outcome
        if answer:
            self._clock.note(asked, answer[-1]["now"])
        return outcomes

    async def _finish(self, commands: Sequence[Command], attempt: _Attempt, outcomes: Mapping[Key, str]) -> Applied:
        """Applies what was not written by the locked path."""
        decided = attempt.decision
        found = set(outcomes.values())
        if "elsewhere" in found:
            self._heads.clear()
        if found & {"clock", "isolation"}:
            self._pause()
        rest = [command for command in commands if outcomes[command.key] != "written"]
        self.counts["optimistic"] += len(commands) - len(rest)
        if not rest:
            self._heads.learn(decided.writes)
            return Applied(decided.results, decided.writes)  # type: ignore[arg-type]  # none is a Replay
        written = _only(decided.writes, {key for key, outcome in outcomes.items() if outcome == "written"})
        self._heads.learn(written)
        for command in rest:
            self.counts[outcomes[command.key]] += 1
        applied = await self._apply_locked(rest)
        others = iter(applied.results)
        results: list[Result] = [
            result if outcomes[command.key] == "written" else next(others)  # type: ignore[misc]  # none is a Replay
            for command, result in zip(commands, decided.results, strict=True)
        ]
        written.extend(applied.writes)
        return Applied(results, written)

    def _pause(self) -> None:
        self._paused_until = self._clock.clock() + PAUSE_SECONDS

    async def _by_locks(self, commands: Sequence[Command], reason: str) -> Applied:
        self.counts[reason] += len(commands)
        return await self._apply_locked(commands)

    async def _apply_locked(self, commands: Sequence[Command]) -> Applied:
        try:
            applied = await self._locked(commands)
        except BaseException:
            self._heads.drop(command.key for command in commands)
            raise
        self.learn(applied.writes)
        return applied


def _only(writes: Writes, keys: set[Key]) -> Writes:
    def of(rows: Iterable[Any]) -> list[Any]:
        return [row for row in rows if row.key in keys]

    return Writes(heads=of(writes.heads), events=of(writes.events), requests=of(writes.requests))


def _parameters(
    attempt: _Attempt, rows: Sequence[HeadRow], cores: Mapping[Key, bytes], writes: Writes, homes: Homes
) -> Sequence[Any]:
    """Those of WRITE_IF_UNCHANGED. `cores`: as they are stored, if nothing has changed."""
    places = {row.key: place for place, row in enumerate(rows, 1)}
    now_us = attempt.now_us
    return (
        now_us - AHEAD_US,
        now_us + BEHIND_US,
        homes.version,
        *columns((_head_columns(row, attempt.heads[row.key], cores[row.key]) for row in rows), 9),
        *columns((_event_columns(places[e.key], e) for e in writes.events if e.key in places), 8),
        now_us,
        *columns((_request_columns(places[r.key], r) for r in writes.requests if r.key in places), 5),
    )


def _head_columns(row: HeadRow, before: Head, core: bytes) -> tuple[Any, ...]:
    after = row.head
    return (
        *row.key,
        before.version,
        core,
        before.lease_expire_us,
        after.version,
        row.update_time_us,
        row.expire_time_us,
        after.core,
    )


def _event_columns(place: int, e: EventRow) -> tuple[Any, ...]:
    return (place, e.seq, write.stored_type(e), e.create_time_us, e.message_id, e.head, e.body, e.core)


def _request_columns(place: int, r: RequestRow) -> tuple[Any, ...]:
    record = r.record
    return (place, r.request_id, record.fingerprint, record.first_seq, record.last_seq)
