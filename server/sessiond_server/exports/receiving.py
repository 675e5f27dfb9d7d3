"""Receives imports: checks the records while they arrive, and keeps them until the session can be made of them."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from sessiond.v1.event_pb2 import Event
from sessiond.v1.export_service_pb2 import ExportEnd, ExportRecord
from sessiond.v1.session_pb2 import Session
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.domain import ids
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.imports import digests
from sessiond_server.domain.imports.log import Broken, ImportedLog, checked_header
from sessiond_server.domain.imports.rows import Arrived, Import, Imported, ImportStart, StagedRows
from sessiond_server.domain.rows import Key, Policy, Writes
from sessiond_server.errors import (
    AttachmentSpaceExhausted,
    AttachmentTooLarge,
    ImportIncomplete,
    ImportRefused,
    ImportSuperseded,
    MessageAlreadyExists,
    SessionAlreadyExists,
    SessiondError,
    SessionNotFound,
)
from sessiond_server.exports.files import ArrivingFiles
from sessiond_server.store.announcing import CommitListener
from sessiond_server.store.imports import ImportStore
from sessiond_server.store.log_reads import LogReads
from sessiond_server.store.session_reads import Freshness, SessionReads
from sessiond_server.tasks import Endings

_log = logging.getLogger("sessiond.imports")

BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 1024 * 1024
"""Events, and their bytes, that are kept in memory until they are stored."""
TURN: Final = 16
"""Records after which other calls have a turn."""


def _now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class ImportDone:
    core: bytes
    """Serialised Session in SESSION_VIEW_BASIC."""
    already_there: bool


class Imports:
    """Receives all imports of one database in this process. Use as an async context manager: leaving it waits until
    imports that failed are given up."""

    def __init__(
        self,
        store: ImportStore,
        sessions: SessionReads,
        logs: LogReads,
        blobs: BlobStore,
        listener: CommitListener,
        policy: Policy,
        *,
        clock: Callable[[], int] = _now_us,
        new_id: Callable[[], str] = ids.uuid7,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._logs = logs
        self._blobs = blobs
        self._listener = listener
        self._policy = policy
        self._clock = clock
        self._new_id = new_id
        self._endings = Endings()

    async def __aenter__(self) -> "Imports":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._endings.finished()

    async def receive(
        self,
        scope: Scope,
        first: ExportRecord,
        session_id: str,
        records: AsyncIterator[ExportRecord],
        on_taken_up: Callable[[int], Awaitable[None]],
    ) -> ImportDone:
        """Imports the session of `first`, an export's first record, under the id. The `records` begin behind the line
        with which `on_taken_up` is called first, unless the session is there already. Raises what ImportSession
        documents."""
        start = self.start(scope, first, session_id)
        if (core := await self._there(scope, start.key, first.header.session)) is not None:
            return ImportDone(core, True)
        announce = self._listener.begun()
        taken = await self._store.take_up_import(scope, start)
        log = ImportedLog(first.header, start.key, self._clock())
        importing = _Importing(self._store, taken, log, ArrivingFiles(self._store, self._blobs, taken, self._new_id))
        try:
            await importing.recall(first.header.session.session_id)
            await on_taken_up(importing.line)
            async for record in records:
                await importing.add(record)
            core = await importing.finish()
        except (ImportRefused, AttachmentTooLarge, AttachmentSpaceExhausted):
            await asyncio.shield(self._endings.begin(self._give_up(taken)))
            raise
        except SessionAlreadyExists:
            # Another import has made it meanwhile, perhaps of another file with the same session.
            await asyncio.shield(self._endings.begin(self._give_up(taken)))
            if (core := await self._there(scope, start.key, first.header.session)) is None:
                raise
            return ImportDone(core, True)
        await announce(Writes(), [(start.key, first.header.session.version)])
        return ImportDone(core, False)

    def start(self, scope: Scope, first: ExportRecord, session_id: str) -> ImportStart:
        """What the import begins with. Raises ImportRefused, AttachmentSpaceExhausted."""
        given = first.digest
        if digests.sign(first, b"") != given:
            raise ImportRefused(1, DAMAGED)
        checked_header(first.header)
        session, policy = first.header.session, self._policy
        if policy.max_session_attachment_bytes and session.attachment_bytes > policy.max_session_attachment_bytes:
            raise AttachmentSpaceExhausted(session_id, policy.max_session_attachment_bytes)
        named = first.SerializeToString(deterministic=True) + b"\0" + session_id.encode()
        return ImportStart(hashlib.sha256(named).hexdigest()[:32], (scope.tenant_id, session_id), first.digest)

    async def _there(self, scope: Scope, key: Key, exported: Session) -> bytes | None:
        """The core of the session, if it is there with all that was exported. Raises SessionAlreadyExists if there is
        another one."""
        try:
            page = await self._logs.read_log(key, after_seq=exported.version, limit=1)
        except SessionNotFound:
            return None
        same = page.before is not None and page.before.event_id == exported.last_event_id
        if page.head.deleted or not same or scope.user_id not in ("", page.user_id):
            raise SessionAlreadyExists(key[1])
        fresh = Freshness(strong=True)
        return (await self._sessions.get_session(scope, key[1], content=False, freshness=fresh)).core

    async def _give_up(self, taken: Import) -> None:
        try:
            await self._store.give_up_import(taken)
        except SessiondError as error:
            _log.warning("cannot give up a failed import now; it will be removed as abandoned: %s", error)


DAMAGED: Final = "digest must be that of the record: the line is damaged, or one before it is missing"


class _Importing:
    """One call's part of an import."""

    def __init__(self, store: ImportStore, taken: Import, log: ImportedLog, files: ArrivingFiles) -> None:
        self._store = store
        self._taken = taken
        self._log = log
        self._files = files
        self._rows = StagedRows()
        self._bytes = 0
        self._imported: Imported | None = None
        """Once all events have arrived."""
        self._ended = False
        self.line = taken.arrived.line
        """The last record that has arrived."""
        self._digest = taken.arrived.digest

    async def recall(self, named: str) -> None:
        """Folds the events that earlier calls have stored. `named`: the exported session's id."""
        log, arrived = self._log, self._taken.arrived
        log.named = self._taken.start.key[1]
        while events := await self._store.staged_events(self._taken, after_seq=log.seq, limit=BATCH_EVENTS):
            for data in events:
                log.add(Event.FromString(data), StagedRows())
            await asyncio.sleep(0)
        log.named = named
        if log.complete:
            self._begin_files(self.line)
            await self._files.recall(arrived)

    async def add(self, record: ExportRecord) -> None:
        """Takes the next record. Raises ImportRefused, ImportSuperseded."""
        self.line += 1
        given = record.digest
        self._digest = digests.digest(record, self._digest)
        if given != self._digest:
            raise ImportRefused(self.line, DAMAGED)
        try:
            match record.WhichOneof("record"):
                case "event" if self._imported is None:
                    await self._event(record.event)
                case "attachment" if self._imported is not None:
                    await self._files.begin(record.attachment, self._arrived())
                case "chunk":
                    await self._files.add(record.chunk, self._arrived())
                case "end" if self._imported is not None and not self._ended:
                    self._end(record.end)
                case _:
                    raise Broken("record must be one that can follow the one before")
        except Broken as error:
            raise ImportRefused(self.line, str(error)) from None
        if self.line % TURN == 0:
            await asyncio.sleep(0)

    async def finish(self) -> bytes:
        """Makes the session; returns its core. Raises ImportIncomplete, ImportSuperseded, SessionAlreadyExists,
        SessionQuotaReached."""
        if not self._ended or self._imported is None:
            await self._flush()
            raise ImportIncomplete(self._taken.arrived.line if self._files.line is None else self._files.line)
        core = await self._store.complete_import(self._taken, self._imported)
        if core is None:
            raise self._superseded()
        return core

    async def _event(self, event: Event) -> None:
        size = event.ByteSize()
        self._log.add(event, self._rows)
        self._bytes += size
        if self._log.complete:
            await self._flush()
            self._begin_files(self.line)
        elif self._bytes >= BATCH_BYTES or len(self._rows.events) >= BATCH_EVENTS:
            await self._flush()

    async def _flush(self) -> None:
        rows, self._rows, self._bytes = self._rows, StagedRows(), 0
        if not rows.events:
            return
        try:
            stored = await self._store.stage(self._taken, rows, self._arrived())
        except MessageAlreadyExists as error:
            seq = next(row.seq for row in reversed(rows.events) if row.message_id == error.metadata["message_id"])
            line = self.line - (self._log.seq - seq)
            raise ImportRefused(line, "event.message.message_id must not be that of an earlier message") from None
        if not stored:
            raise self._superseded()

    def _begin_files(self, line: int) -> None:
        """All events have arrived; `line`: of the last record."""
        try:
            self._imported = self._log.finish()
        except Broken as error:
            raise ImportRefused(line, str(error)) from None
        self._files.expect(list(self._log.files.values()))

    def _end(self, end: ExportEnd) -> None:
        self._files.check_complete()
        session, there = self._log.session, end
        counts = (session.version - session.base_version, session.attachment_count, session.attachment_bytes)
        if (there.events, there.attachments, there.attachment_bytes) != counts:
            raise Broken("end must count what the file has")
        self._ended = True

    def _arrived(self) -> Arrived:
        """Where the import is once the present record is stored."""
        return Arrived(self.line, self._digest)

    def _superseded(self) -> ImportSuperseded:
        return ImportSuperseded(self._taken.start.key[1])
