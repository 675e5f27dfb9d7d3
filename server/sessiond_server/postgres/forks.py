"""Forks: their part of the write path, and their reads. docs/decisions/0047-forks.md says how their logs are kept."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import asyncpg

from sessiond.v1.run_pb2 import Run
from sessiond.v1.session_pb2 import Session
from sessiond.v1.tool_call_pb2 import ToolCall
from sessiond_server.domain.attachments.rows import AttachmentRow
from sessiond_server.domain.commands import Scope, SessionSnapshot
from sessiond_server.domain.forks.place import call_at, run_at, state_seq
from sessiond_server.domain.forks.rows import (
    FORKS,
    HIDDEN_AT_ONCE,
    ITEMS,
    ForkAsk,
    ForkRow,
    ForkSource,
    RewindSource,
    Segment,
    Shared,
)
from sessiond_server.domain.rewinds import ranges
from sessiond_server.domain.rows import (
    AppendedMessage,
    Deletion,
    Key,
    Known,
    Needs,
    RunRow,
    ToolCallRow,
    Writes,
)
from sessiond_server.domain.sessions.content import whole
from sessiond_server.encryption.keyring import Keyring
from sessiond_server.encryption.rows import opened_text
from sessiond_server.errors import SessionNotFound, TenantKeyDestroyed, TenantKeyUnavailable
from sessiond_server.postgres import history
from sessiond_server.postgres.columns import columns, flat
from sessiond_server.postgres.statements import FORKS as SQL
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.forks import ForksPage, Untold

LOCK_SHARED = SQL["lock_forks_shared"].text
LOCK = SQL["lock_forks"].text
FIND_SEGMENTS = SQL["find_segments"].text
FIND_INHERITED = SQL["find_inherited"].text
FIND_SHARED = SQL["find_shared"].text
FIND_MESSAGE_PLACE = SQL["find_message_place"].text
HAS_DELETED = SQL["has_deleted"].text
COUNT_MESSAGES = SQL["count_messages"].text
COUNT_FORKS = SQL["count_forks"].text
WRITE_REWOUND = SQL["write_rewound"].text
RUNS_UNTIL = SQL["runs_until"].text
TOOL_CALLS_UNTIL = SQL["tool_calls_until"].text
ATTACHMENTS_UNTIL = SQL["attachments_until"].text
FIND_CONTENT = SQL["find_content"].text
WRITE_FORK = SQL["write_fork"].text
WRITE_SPREADS = SQL["write_spreads"].text
HIDE_SHOWN = SQL["hide_shown"].text
HIDE_EVENTS = SQL["hide_events"].text
ADD_HIDING = SQL["add_hiding"].text
FIND_HIDING = SQL["find_hiding"].text
LOCK_HIDING = SQL["lock_hiding"].text
FIND_STEP = SQL["find_step"].text
SPLIT_SEGMENTS = SQL["split_segments"].text
END_HIDING = SQL["end_hiding"].text
END_FORK = SQL["end_fork"].text
REMOVE_HIDDEN = SQL["remove_hidden"].text
END_BRANCH = SQL["end_branch"].text
LIST_FORKS = SQL["list_forks"].text
UNTOLD = SQL["untold"].text
WAITING_SPREADS = SQL["waiting_spreads"].text
END_SPREADS = SQL["end_spreads"].text

HIDDEN: Final = "\x01"
"""What the ids of hidden logs begin with. No id of a session has it."""


async def lock(connection: asyncpg.Connection, needs: Needs) -> None:
    """Takes the locks that forks need, and redactions and deletions of what several sessions show; see
    lock_forks_shared."""
    shared = {ask.key[0] for ask in needs.forks} | {key[0] for key in needs.shared}
    shared |= {ask.key[0] for ask in needs.rewinds if ask.fork_seq is not None}
    for tenant_id in sorted({*shared, *needs.unsharing}):
        await connection.fetch(LOCK if tenant_id in needs.unsharing else LOCK_SHARED, tenant_id)


async def look_up(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds what the rules need to `known`, once `lock` has returned. Executes no statement if they need nothing."""
    if needs.inherited:
        rows = await connection.fetch(FIND_INHERITED, *columns(flat(needs.inherited), 3))
        for place, seq, head, body, log_id in rows:
            known.messages.setdefault(needs.inherited[place - 1], AppendedMessage(seq, head, body, log_id))
    if needs.shared:
        for place, last_seq in await connection.fetch(FIND_SHARED, *columns(needs.shared, 2)):
            known.shared[needs.shared[place - 1]] = Shared(last_seq)
    for ask in needs.forks:
        known.forks[ask.key] = await _source(connection, ask)
    for ask in needs.rewinds:
        known.rewinds[ask.key] = await _rewind_source(connection, ask)


async def _source(connection: asyncpg.Connection, ask: ForkAsk) -> ForkSource:
    seq, shown, core, content = await _at(connection, ask)
    if not seq:
        return ForkSource(0)
    if core is None:
        return ForkSource(seq, exceeded="events")
    source = ForkSource(seq, core.SerializeToString(), content, shown)
    source.children = await connection.fetchval(COUNT_FORKS, *ask.key, FORKS)
    if not await _items(connection, ask.key, source):
        return ForkSource(seq, exceeded="items")
    return source


async def _rewind_source(connection: asyncpg.Connection, ask: ForkAsk) -> RewindSource:
    seq, _, core, content = await _at(connection, ask)
    return RewindSource(seq, b"" if core is None else core.SerializeToString(), content)


async def _at(connection: asyncpg.Connection, ask: ForkAsk) -> tuple[int, list[Segment], Session | None, bytes]:
    """(seq of the place; 0: there is none, the log up to there, the core without what was deleted since; None: too far
    from an event with a core, the content if it is needed)."""
    tenant_id = ask.key[0]
    seq, shown = await _shown(connection, ask)
    core = await _core(connection, ask, seq) if seq else None
    if core is None:
        return seq, shown, None, b""
    logs = columns(((s.log_id, s.first_seq, s.last_seq) for s in shown), 3)
    if seq < ask.version and await connection.fetchval(HAS_DELETED, tenant_id, *logs):
        rewound = ranges.of_session(core)
        visible = ((s.log_id, *part) for s in shown for part in ranges.visible(s.first_seq, s.last_seq, rewound))
        core.message_count = await connection.fetchval(COUNT_MESSAGES, tenant_id, *columns(visible, 3))
    if not core.content_version or not ask.with_content:
        return seq, shown, core, b""
    return seq, shown, core, whole(await connection.fetchval(FIND_CONTENT, tenant_id, *logs))


async def _shown(connection: asyncpg.Connection, ask: ForkAsk) -> tuple[int, list[Segment]]:
    """(seq of the place; 0: there is none, the parts of the log up to there)."""
    parts = [] if ask.fork_seq is None else await segments(connection, ask.key)
    own = Segment(ask.key[1], ask.base_version + 1 if ask.fork_seq is None else ask.fork_seq + 1, ask.version)
    seq = await _place(connection, ask, [*parts, own])
    if not own.last_seq >= seq >= ask.base_version + 1:
        return 0, []
    return seq, [Segment(s.log_id, s.first_seq, min(s.last_seq, seq)) for s in (*parts, own) if s.first_seq <= seq]


async def segments(connection: asyncpg.Connection, key: Key) -> list[Segment]:
    """The parts of a fork's log that other logs have, ascending."""
    return [Segment(*row) for row in await connection.fetch(FIND_SEGMENTS, *key)]


async def _place(connection: asyncpg.Connection, ask: ForkAsk, parts: Sequence[Segment]) -> int:
    """The seq of the place; 0: there is no such message."""
    place = ask.place
    if not place.message_id:
        return place.seq or ask.version
    for part in reversed(parts):
        found = await connection.fetchval(FIND_MESSAGE_PLACE, ask.key[0], part.log_id, place.message_id)
        if found is not None and part.first_seq <= found <= part.last_seq:
            return int(found) - place.before
    return 0


async def _core(connection: asyncpg.Connection, ask: ForkAsk, seq: int) -> Session | None:
    """The core at `seq`; None if it is too far from an event with a core."""
    if seq == ask.version:
        core = Session.FromString(ask.core)
        core.version = seq
        return core
    found = await history.core_at(connection.fetch, ask.key, seq)
    return None if found is None else found[1]


async def _items(connection: asyncpg.Connection, key: Key, source: ForkSource) -> bool:
    """Adds the runs, tool calls and attachments as they were at the place. Returns whether they are not too many."""
    left = ITEMS + 1
    source.runs = [RunRow(key, *row) for row in await connection.fetch(RUNS_UNTIL, *key, source.seq, left)]
    left -= len(source.runs)
    calls = [_call_row(key, row) for row in await connection.fetch(TOOL_CALLS_UNTIL, *key, source.seq, left)]
    left -= len(calls)
    rows = await connection.fetch(ATTACHMENTS_UNTIL, *key, source.seq, left)
    if left <= len(rows):
        return False
    source.attachments = [
        AttachmentRow(key, name, seq, None if blob is None else str(blob), body) for name, seq, blob, body in rows
    ]
    source.runs = await _runs(connection, key, source)
    source.tool_calls = await _calls(connection, key, source.seq, calls)
    return True


def _call_row(key: Key, row: Any) -> ToolCallRow:
    name, seq, status, awaits, create_us, expire_us, result_seq, run_id, user_id, body = row
    return ToolCallRow(key, name, seq, run_id, status, awaits, user_id, create_us, expire_us, result_seq, body)


async def _runs(connection: asyncpg.Connection, key: Key, source: ForkSource) -> list[RunRow]:
    """The runs as they were at the place."""
    runs = [(row, Run.FromString(row.body)) for row in source.runs]
    changed = {row.run_id: state_seq(row, run.fence, source.seq) for row, run in runs if run.version > source.seq}
    bodies = await _bodies(connection, key, changed.values())
    return [run_at(row, bodies[changed[row.run_id]]) if row.run_id in changed else row for row in source.runs]


async def _calls(
    connection: asyncpg.Connection, key: Key, place: int, rows: Sequence[ToolCallRow]
) -> list[ToolCallRow]:
    """The tool calls as they were at the place."""
    calls = [call for row in rows if (call := ToolCall.FromString(row.body)).version > place]
    places = await history.call_places(connection.fetch, key, calls, place, sealed=connection.keyring is not None)
    bodies = await _bodies(connection, key, places.values())
    return [call_at(row, bodies[places[row.seq]]) if row.seq in places else row for row in rows]


async def _bodies(connection: asyncpg.Connection, key: Key, seqs: Iterable[int]) -> dict[int, bytes]:
    """The bodies of events, by seq."""
    return dict(await connection.fetch(history.BODIES_AT, *key, list(seqs)))


async def write(connection: asyncpg.Connection, writes: Writes) -> None:
    """Writes new forks, and redactions to spread."""
    for fork in writes.forks:
        await _write_fork(connection, fork)
    for row in writes.rewound:
        await connection.fetch(WRITE_REWOUND, *row.key, *columns(row.ranges, 2))
    if writes.spreads:
        rows = (
            (s.tenant_id, s.session_id, s.request_id, s.log_id, s.seq, s.message_id, s.reason, s.title, s.actor)
            for s in writes.spreads
        )
        await connection.fetch(WRITE_SPREADS, *columns(rows, 9))


async def _write_fork(connection: asyncpg.Connection, fork: ForkRow) -> None:
    parts = columns(((s.first_seq, s.last_seq, s.log_id) for s in fork.segments), 3)
    await connection.fetch(WRITE_FORK, *fork.key, *parts, fork.parent_id, fork.create_time_us, fork.seq)


async def end(connection: asyncpg.Connection, gone: Deletion, hidden_id: str) -> None:
    """Before a fork, or a session with forks, is deleted: keeps the events that forks show in the hidden log
    `hidden_id`, and removes those of hidden logs that it was the last to show."""
    tenant_id, session_id = gone.key
    if gone.kept_seq:
        await connection.fetch(ADD_HIDING, tenant_id, session_id, hidden_id, gone.base_version, gone.version)
    else:
        last_seq = await connection.fetchval(HIDE_SHOWN, tenant_id, session_id, hidden_id)
        if last_seq is not None:
            await connection.fetch(HIDE_EVENTS, tenant_id, session_id, hidden_id, gone.base_version, last_seq)
    for (log_id,) in await connection.fetch(END_FORK, tenant_id, session_id):
        await connection.fetch(REMOVE_HIDDEN, tenant_id, log_id)
    await connection.fetch(END_BRANCH, tenant_id, session_id, bool(gone.kept_seq))


async def _hide(connection: asyncpg.Connection, tenant_id: str) -> bool:
    """A step of hiding what forks show of a deleted session; see ForkStore.hide."""
    found = await connection.fetch(FIND_HIDING, tenant_id)
    if not found:
        return True
    of_tenant, session_id = found[0]
    await connection.fetch(LOCK, of_tenant)
    rows = await connection.fetch(LOCK_HIDING, of_tenant, session_id)
    if not rows:
        return False
    hidden_id, base_version, version, shown = rows[0]
    until = await connection.fetchval(FIND_STEP, of_tenant, session_id, base_version, shown, HIDDEN_AT_ONCE)
    if until is not None:
        await connection.fetch(SPLIT_SEGMENTS, of_tenant, session_id, hidden_id, until)
        await connection.fetch(HIDE_EVENTS, of_tenant, session_id, hidden_id, base_version, until)
        return False
    await connection.fetch(END_HIDING, of_tenant, session_id, version)
    return False


class PostgresForks:
    """Implements `store.forks.ForkStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(self, transactions: Transactions, keyring: Keyring | None = None) -> None:
        self._transactions = transactions
        self._keyring = keyring

    async def list_forks(
        self, scope: Scope, session_id: str, *, after: tuple[int, str] | None, limit: int
    ) -> ForksPage:
        rows = await self._transactions.fetch(
            LIST_FORKS, scope.tenant_id, session_id, scope.user_id, *(after or (0, "")), limit
        )
        if not rows:
            raise SessionNotFound(session_id)
        if rows[0][1] is None:
            return ForksPage([], None)
        shown = rows[:limit]
        last = (shown[-1]["create_time"], shown[-1]["session_id"]) if len(rows) > limit else None
        return ForksPage([SessionSnapshot(row["fork_version"], row["core"], b"") for row in shown], last)

    async def untold(self, tenant_id: str, limit: int) -> Sequence[Untold]:
        found = [Untold(*row) for row in await self._transactions.fetch(UNTOLD, tenant_id, limit)]
        if self._keyring is None:
            return found
        opened = []
        for each in found:
            with suppress(TenantKeyDestroyed, TenantKeyUnavailable):  # nothing of the tenant can be told
                keys = (await self._keyring.of(each.tenant_id)).by_id
                reason, title = opened_text(keys, each.reason), opened_text(keys, each.title)
                opened.append(replace(each, reason=reason, title=title))
        return opened

    async def hide(self, tenant_id: str) -> bool:
        if not await self._transactions.fetch(FIND_HIDING, tenant_id):
            return True
        return await self._transactions.run(lambda connection: _hide(connection, tenant_id))

    async def end_spreads(self, tenant_id: str) -> bool:
        if not await self._transactions.fetch(WAITING_SPREADS, tenant_id):
            return True

        async def work(connection: asyncpg.Connection) -> bool:
            waiting = await connection.fetch(WAITING_SPREADS, tenant_id)
            for tenant in sorted({row[0] for row in waiting}):
                # Forks that are being made get what they share before the redaction was spread, or after it.
                await connection.fetch(LOCK, tenant)
            if not waiting:
                return True
            if await connection.fetch(UNTOLD, tenant_id, 1):
                return False
            await connection.fetch(END_SPREADS, *columns(waiting, 3))
            return False

        return await self._transactions.run(work)
