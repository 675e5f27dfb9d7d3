"""The memory store's imports: an ImportStore (see store/imports.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sessiond_server.domain.attachments.rows import Content, Extent, Piece
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.forks.rows import RewoundRow
from sessiond_server.domain.imports.log import event_of
from sessiond_server.domain.imports.rows import (
    Arrived,
    Import,
    Imported,
    ImportedFile,
    ImportStart,
    StagedPiece,
    StagedRows,
)
from sessiond_server.domain.rows import Key, Policy, Writes
from sessiond_server.errors import MessageAlreadyExists, SessionAlreadyExists, SessionQuotaReached
from sessiond_server.memory.attachments import WRITERS_GRACE_US, MemoryAttachments
from sessiond_server.memory.pages import fitting


@dataclass(slots=True)
class _Staged:
    taken: Import
    touch_time_us: int
    rows: StagedRows = field(default_factory=StagedRows)
    message_ids: set[str] = field(default_factory=set)
    extents: dict[str, list[Extent]] = field(default_factory=dict)
    """By attachment: pieces that are stored."""
    pieces: set[Piece] = field(default_factory=set)


class MemoryImports:
    """The imports of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        is_taken: Callable[[Key], bool],
        count_live: Callable[[str], int],
        commit: Callable[[Writes], None],
        attachments: MemoryAttachments,
        clock: Callable[[], int],
        policy: Policy,
        new_id: Callable[[], str],
        retention: timedelta,
    ) -> None:
        """`is_taken`: whether there is a session with the key, or a tombstone. `commit` writes one transaction."""
        self._is_taken = is_taken
        self._count_live = count_live
        self._commit = commit
        self._attachments = attachments
        self._clock = clock
        self._policy = policy
        self._new_id = new_id
        self._retention_us = retention // timedelta(microseconds=1)
        self._staged: dict[tuple[str, str], _Staged] = {}

    async def take_up_import(self, scope: Scope, start: ImportStart) -> Import:
        key, now = (scope.tenant_id, start.import_id), self._clock()
        staged = self._staged.get(key)
        if staged is None:
            staged = _Staged(Import(start, self._new_id(), 0, Arrived(1, start.digest)), now)
            self._staged[key] = staged
        self._attachments.keep_until(staged.pieces, now + self._retention_us)
        file = next((f for f in staged.rows.files.values() if f.seq == staged.taken.arrived.attachment_seq), None)
        extents = () if file is None else tuple(staged.extents.get(file.attachment_id, ()))
        staged.taken = replace(staged.taken, epoch=staged.taken.epoch + 1, extents=extents)
        staged.touch_time_us = now
        return staged.taken

    async def staged_events(self, taken: Import, *, after_seq: int, limit: int) -> Sequence[bytes]:
        staged = self._of(taken)
        events = staged.rows.events if staged is not None else ()
        return fitting([event_of(row) for row in events if row.seq > after_seq][:limit])

    async def stage(self, taken: Import, rows: StagedRows, arrived: Arrived) -> bool:
        staged = self._of(taken)
        if staged is None:
            return False
        ids = set(staged.message_ids)
        for row in rows.events:
            if row.message_id is not None and row.message_id in ids:
                raise MessageAlreadyExists(taken.start.key[1], row.message_id)
            ids |= {row.message_id} if row.message_id is not None else set()
        staged.message_ids = ids
        staged.rows.events += rows.events
        staged.rows.marks += rows.marks
        staged.rows.runs |= rows.runs
        staged.rows.tool_calls |= rows.tool_calls
        staged.rows.files |= rows.files
        self._arrive(staged, arrived)
        return True

    async def begin_piece(self, taken: Import, attachment_id: str, piece: Piece, start: int) -> bool:
        if (staged := self._of(taken)) is None:
            return False
        staged.pieces.add(piece)
        self._attachments.begin_staged(piece, self._clock() + self._retention_us)
        return True

    async def end_piece(self, taken: Import, piece: StagedPiece, arrived: Arrived) -> bool:
        if (staged := self._of(taken)) is None:
            return False
        extent = Extent(Piece(taken.start.key[0], piece.piece_id), piece.length)
        staged.extents.setdefault(piece.attachment_id, []).append(extent)
        self._arrive(staged, arrived)
        return True

    async def complete_import(self, taken: Import, imported: Imported) -> bytes | None:
        if (staged := self._of(taken)) is None:
            return None
        key, rows, limit = taken.start.key, staged.rows, self._policy.max_live_sessions
        if limit and imported.alive and self._count_live(key[0]) >= limit:
            raise SessionQuotaReached(limit)
        if self._is_taken(key):
            raise SessionAlreadyExists(key[1])
        writes = Writes(
            heads=[imported.head], events=rows.events, index=[imported.index], runs=list(rows.runs.values()),
            tool_calls=list(rows.tool_calls.values()), marks=[(key, *mark) for mark in rows.marks],
        )  # fmt: skip
        if imported.rewound:
            writes.rewound.append(RewoundRow(key, imported.rewound))
        if imported.run_counters:
            writes.run_counters.append((key, imported.run_counters))
        self._commit(writes)
        now = self._clock()
        self._attachments.keep_until(staged.pieces, now)
        for file in sorted(rows.files.values(), key=lambda file: file.seq):
            extents = staged.extents.get(file.attachment_id, ())
            self._attachments.add_imported(key, file.attachment_id, file.seq, file.body, _content(key, file), extents)
        del self._staged[(key[0], taken.start.import_id)]
        return imported.head.head.core

    async def give_up_import(self, taken: Import) -> bool:
        if (staged := self._of(taken)) is None:
            return False
        self._attachments.keep_until(staged.pieces, self._clock() + WRITERS_GRACE_US)
        del self._staged[(taken.start.key[0], taken.start.import_id)]
        return True

    async def purge_imports(self, limit: int) -> int:
        oldest = self._clock() - self._retention_us
        silent = [staged.taken for staged in self._staged.values() if staged.touch_time_us < oldest][:limit]
        for taken in silent:
            await self.give_up_import(taken)
        return len(silent)

    def _of(self, taken: Import) -> _Staged | None:
        staged = self._staged.get((taken.start.key[0], taken.start.import_id))
        same = staged is not None and (staged.taken.stage_id, staged.taken.epoch) == (taken.stage_id, taken.epoch)
        return staged if same else None

    def _arrive(self, staged: _Staged, arrived: Arrived) -> None:
        staged.taken = replace(staged.taken, arrived=arrived)
        staged.touch_time_us = self._clock()


def _content(key: Key, file: ImportedFile) -> Content | None:
    return (key[0], file.sha256, file.size_bytes) if file.body else None
