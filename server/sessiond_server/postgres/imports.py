"""Imports of sessions in Postgres, with the statements of imports.sql."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from sessiond_server.domain import encoding
from sessiond_server.domain.attachments.rows import Extent, Piece
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.imports.rows import Arrived, Import, Imported, ImportStart, StagedPiece, StagedRows
from sessiond_server.domain.rows import Key, Policy
from sessiond_server.encryption import rows as sealed_rows
from sessiond_server.encryption.keyring import Keyring
from sessiond_server.errors import MessageAlreadyExists, SessionAlreadyExists, SessionQuotaReached, StoreUnavailable
from sessiond_server.postgres import forks, write
from sessiond_server.postgres.attachments import IS_ELSEWHERE
from sessiond_server.postgres.columns import columns
from sessiond_server.postgres.file_rows import WRITERS_GRACE
from sessiond_server.postgres.statements import IMPORTS
from sessiond_server.postgres.transactions import Raced, Transactions
from sessiond_server.store.session_reads import PAGE_BYTES

COMPLETE_SECONDS: Final = 600.0
"""Longest time of the transaction that makes the session. It copies some ten thousands of events in a second, and the
feeds of the cluster wait for it."""
_RUN, _CALL = 1, 2
"""Kinds of import_work."""

_TEXT = {name: statement.text for name, statement in IMPORTS.items()}


class _BytesDropped(Exception):
    """Pieces of the import were removed because it took longer than they are kept."""


class PostgresImports:
    """Implements `store.imports.ImportStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(
        self, transactions: Transactions, policy: Policy, new_id: Callable[[], str], retention: timedelta
    ) -> None:
        self._transactions = transactions
        self._policy = policy
        self._new_id = new_id
        self._retention = retention

    async def take_up_import(self, scope: Scope, start: ImportStart) -> Import:
        tenant_id = scope.tenant_id

        async def work(connection: asyncpg.Connection) -> Import:
            row = await connection.fetchrow(
                _TEXT["take_up"], tenant_id, UUID(self._new_id()), start.import_id, start.digest
            )
            await _at_home(connection, tenant_id)
            stage_id, epoch, *arrived = row
            extents: tuple[Extent, ...] = ()
            if epoch > 1:
                await connection.execute(_TEXT["keep_pieces"], tenant_id, stage_id, self._retention)
                found = await connection.fetch(_TEXT["find_pieces"], tenant_id, stage_id, arrived[2])
                extents = tuple(Extent(Piece(tenant_id, str(piece_id)), length) for piece_id, length in found)
            return Import(start, str(stage_id), epoch, Arrived(*arrived), extents)

        return await self._transactions.run(work)

    async def staged_events(self, taken: Import, *, after_seq: int, limit: int) -> Sequence[bytes]:
        rows = await self._transactions.fetch(_TEXT["staged_events"], *_key(taken), after_seq, limit, PAGE_BYTES)
        return [encoding.event(abs(row[1]), *row[2:]) for row in rows]

    async def stage(self, taken: Import, rows: StagedRows, arrived: Arrived) -> bool:
        marks: dict[int, list[str]] = {}
        for mark, seq in rows.marks:
            marks.setdefault(seq, []).append(mark)

        async def work(connection: asyncpg.Connection) -> None:
            sealed = _sealed(connection.keyring, taken.start.key, rows)
            if rows.events:
                added = await connection.fetch(_TEXT["add_events"], *_key(taken), *columns(_events(sealed, marks), 8))
                if len(added) < len(rows.events):
                    there = {row[0] for row in added}
                    row = next(row for row in rows.events if row.seq not in there)
                    raise MessageAlreadyExists(taken.start.key[1], row.message_id or "")
            if rows.runs or rows.tool_calls:
                await connection.execute(_TEXT["add_work"], *_key(taken), *columns(_work(sealed), 10))
            if rows.files:
                files = (
                    (f.attachment_id, f.seq, UUID(self._new_id()) if f.body else None, f.sha256, f.size_bytes, f.body)
                    for f in sealed.files.values()
                )
                await connection.execute(_TEXT["add_files"], *_key(taken), *columns(files, 6))
            await _arrive(connection, taken, arrived)

        return await self._change(taken, work)

    async def begin_piece(self, taken: Import, attachment_id: str, piece: Piece, start: int) -> bool:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(
                _TEXT["begin_piece"], *_key(taken), attachment_id, UUID(piece.piece_id), start, self._retention
            )

        return await self._change(taken, work)

    async def end_piece(self, taken: Import, piece: StagedPiece, arrived: Arrived) -> bool:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(_TEXT["end_piece"], taken.start.key[0], UUID(piece.piece_id), piece.length)
            await _arrive(connection, taken, arrived)

        return await self._change(taken, work)

    async def complete_import(self, taken: Import, imported: Imported) -> bytes | None:
        async def work(connection: asyncpg.Connection) -> None:
            await self._make_session(connection, taken, imported)
            await connection.execute(_TEXT["end_import"], *_key(taken))

        try:
            done = await self._change(taken, work, COMPLETE_SECONDS)
        except _BytesDropped:
            await self.give_up_import(taken)
            return None
        return imported.head.head.core if done else None

    async def give_up_import(self, taken: Import) -> bool:
        async def work(connection: asyncpg.Connection) -> None:
            await connection.execute(_TEXT["drop_files"], *_key(taken), WRITERS_GRACE)
            await connection.execute(_TEXT["end_import"], *_key(taken))

        return await self._change(taken, work)

    async def purge_imports(self, limit: int) -> int:
        async def work(connection: asyncpg.Connection) -> int:
            found = await connection.fetchrow(_TEXT["find_ended"], self._retention)
            if found is None:
                return 0
            await connection.execute(_TEXT["drop_files"], *found, WRITERS_GRACE)
            await connection.execute(_TEXT["end_import"], *found)
            for name in ("purge_events", "purge_work", "purge_files"):
                removed = int((await connection.execute(_TEXT[name], *found, limit)).rpartition(" ")[2])
                if removed:
                    return removed
            await connection.execute(_TEXT["forget_import"], *found)
            return 1

        return await self._transactions.run(work)

    async def _make_session(self, connection: asyncpg.Connection, taken: Import, imported: Imported) -> None:
        tenant_id, session_id = taken.start.key
        limit = self._policy.max_live_sessions
        if limit and imported.alive:
            await connection.fetch(write.LOCK_TENANTS, [tenant_id])
            if (await connection.fetchrow(write.COUNT_LIVE, [tenant_id]))[1] >= limit:
                raise SessionQuotaReached(limit)
        if not await write.create_session(connection, imported.head, imported.index):
            raise SessionAlreadyExists(session_id)
        names = (*_key(taken), session_id)
        await connection.execute(_TEXT["write_events"], *names)
        await connection.execute(_TEXT["write_marks"], *names)
        await connection.execute(_TEXT["write_runs"], *names)
        await connection.execute(_TEXT["write_tool_calls"], *names, imported.head.head.user_id)
        if imported.rewound:
            await connection.execute(forks.WRITE_REWOUND, tenant_id, session_id, *columns(imported.rewound, 2))
        if imported.run_counters:
            await connection.execute(_TEXT["write_figures"], tenant_id, session_id, imported.run_counters)
        await connection.execute(_TEXT["add_blobs"], *_key(taken))
        if any(row[0] is None for row in await connection.fetch(_TEXT["lock_blobs"], *_key(taken))):
            raise Raced
        await connection.execute(_TEXT["write_files"], *names)
        there, wanted = await connection.fetchrow(_TEXT["settle_files"], *_key(taken))
        if there != wanted:
            raise _BytesDropped

    async def _change(self, taken: Import, work: Callable[[Any], Any], seconds: float | None = None) -> bool:
        """Runs `work` in a transaction that holds the import. False, without running it, if the import is not the
        caller's any more."""

        async def change(connection: asyncpg.Connection) -> bool:
            if await connection.fetchrow(_TEXT["lock_import"], *_key(taken), taken.epoch) is None:
                return False
            await _at_home(connection, taken.start.key[0])
            if connection.keyring is not None and connection.keyring.seals:
                await connection.keyring.sealing(taken.start.key[0])
            await work(connection)
            return True

        return await self._transactions.run(change, seconds=seconds)


def _sealed(keyring: Keyring | None, key: Key, rows: StagedRows) -> StagedRows:
    """The rows as the session will have them, which is why they are bound to it."""
    if keyring is None or not keyring.seals:
        return rows
    data_key = keyring.key(key[0])
    return replace(
        rows,
        events=[sealed_rows.event(data_key, row) for row in rows.events],
        runs={name: sealed_rows.run(data_key, row) for name, row in rows.runs.items()},
        tool_calls={name: sealed_rows.tool_call(data_key, row) for name, row in rows.tool_calls.items()},
        files={
            name: replace(row, body=sealed_rows.attachment_body(data_key, key[1], row.body))
            for name, row in rows.files.items()
        },
    )


async def _at_home(connection: asyncpg.Connection, tenant_id: str) -> None:
    if await connection.fetchval(IS_ELSEWHERE, tenant_id):
        raise StoreUnavailable(elsewhere=True)


async def _arrive(connection: asyncpg.Connection, taken: Import, arrived: Arrived) -> None:
    await connection.execute(
        _TEXT["arrive"], *_key(taken), arrived.line, arrived.digest, arrived.attachment_seq, arrived.offset
    )


def _key(taken: Import) -> tuple[str, UUID]:
    return taken.start.key[0], UUID(taken.stage_id)


def _events(rows: StagedRows, marks: dict[int, list[str]]) -> list[tuple[Any, ...]]:
    return [
        (
            row.seq, row.create_time_us, write.stored_type(row), row.message_id,
            json.dumps(marks[row.seq]) if row.seq in marks else None, row.head, row.body, row.content,
        )
        for row in rows.events
    ]  # fmt: skip


def _work(rows: StagedRows) -> list[tuple[Any, ...]]:
    runs = [(_RUN, r.run_id, r.place, r.status, *[None] * 5, r.body) for r in rows.runs.values()]
    calls = [
        (
            _CALL, c.tool_call_id, c.seq, c.status, c.awaits_approval, c.create_time_us, c.expire_time_us, c.result_seq,
            c.run_id, c.body,
        )
        for c in rows.tool_calls.values()
    ]  # fmt: skip
    return [*runs, *calls]
