"""Reads a session for an export: its records one after the other, in memory that does not grow with the session."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.export_service_pb2 import ExportEnd, ExportHeader, ExportPlace, ExportRecord
from sessiond.v1.session_pb2 import Session
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.imports.digests import sign
from sessiond_server.domain.imports.log import FORMAT
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import AttachmentNotFound, ExportOutdated, SessionNotFound
from sessiond_server.store.log_reads import LogPage, LogReads
from sessiond_server.store.session_reads import Freshness, SessionReads

_REMOVALS: Final = frozenset(
    {
        EventType.EVENT_TYPE_MESSAGE_REDACTED,
        EventType.EVENT_TYPE_MESSAGES_DELETED,
        EventType.EVENT_TYPE_ATTACHMENT_DELETED,
    }
)
"""What takes content away that an export may have read already."""
_EVENTS: Final = 500
_ATTACHMENTS: Final = 100


def _now_us() -> int:
    return time.time_ns() // 1000


class Exports:
    """Reads sessions of one database for exports."""

    def __init__(
        self, sessions: SessionReads, logs: LogReads, files: AttachmentAccess, clock: Callable[[], int] = _now_us
    ) -> None:
        self._sessions = sessions
        self._logs = logs
        self._files = files
        self._clock = clock

    async def records(self, scope: Scope, session_id: str, after: ExportPlace | None) -> AsyncGenerator[ExportRecord]:
        """The records of the session, from the first one on or behind `after`, each with its digest. Close the iterator
        if you leave it early. Raises what ExportSession documents."""
        snapshot = await self._sessions.get_session(
            scope, session_id, content=after is None, freshness=Freshness(strong=True)
        )
        session = Session.FromString(snapshot.core + snapshot.content)
        place = ExportPlace()
        if after is None:
            header = ExportHeader(format_version=FORMAT, session=session)
            set_timestamp(header.export_time, self._clock())
            record = ExportRecord(header=header)
            place.version, place.last_event_id, place.seq = session.version, session.last_event_id, session.base_version
            place.digest = sign(record, b"")
            yield record
        else:
            place.CopyFrom(after)
            await self._check(scope, session_id, place)
        async with aclosing(self._events(scope, session_id, place)) as events:
            async for record in events:
                yield record
        end = ExportEnd(events=place.version - session.base_version)
        async with aclosing(self._attachments(scope, session_id, place, end)) as attachments:
            async for record in attachments:
                yield record
        await self._check(scope, session_id, place)
        record = ExportRecord(end=end)
        sign(record, place.digest)
        yield record

    async def _events(self, scope: Scope, session_id: str, place: ExportPlace) -> AsyncGenerator[ExportRecord]:
        while place.seq < place.version:
            page = await self._page(scope, session_id, place.seq)
            for entry in page.entries[: place.version - place.seq]:
                if entry.seq != place.seq + 1:
                    raise ExportOutdated(session_id)
                record = ExportRecord()
                record.event.MergeFromString(entry.data)
                place.seq, place.digest = entry.seq, sign(record, place.digest)
                yield record

    async def _attachments(
        self, scope: Scope, session_id: str, place: ExportPlace, end: ExportEnd
    ) -> AsyncGenerator[ExportRecord]:
        """Counts the attachments in `end`."""
        more, after_seq = True, 0
        while more:
            page = await self._files.store.list_attachments(scope, session_id, after_seq=after_seq, limit=_ATTACHMENTS)
            more, after_seq = page.more, page.last_seq
            for body in page.attachments:
                attachment = Attachment.FromString(body)
                if attachment.seq > place.version:
                    return
                end.attachments += 1
                end.attachment_bytes += attachment.size_bytes
                if attachment.seq < place.attachment_seq:
                    continue
                if attachment.seq > place.attachment_seq:
                    record = ExportRecord(attachment=attachment)
                    place.attachment_seq, place.offset, place.digest = attachment.seq, 0, sign(record, place.digest)
                    yield record
                async with aclosing(self._chunks(scope, session_id, attachment, place)) as chunks:
                    async for record in chunks:
                        yield record

    async def _chunks(
        self, scope: Scope, session_id: str, attachment: Attachment, place: ExportPlace
    ) -> AsyncGenerator[ExportRecord]:
        if place.offset >= attachment.size_bytes:
            return
        try:
            file = await self._files.store.get_file(scope, session_id, attachment.attachment_id)
            reading = self._files.downloads.read(
                scope, session_id, attachment.attachment_id, file, place.offset, attachment.size_bytes
            )
            async with aclosing(reading):
                async for data in reading:
                    record = ExportRecord(chunk=bytes(data))
                    place.offset += len(data)
                    place.digest = sign(record, place.digest)
                    yield record
        except AttachmentNotFound:
            raise ExportOutdated(session_id) from None

    async def _check(self, scope: Scope, session_id: str, place: ExportPlace) -> None:
        """Raises ExportOutdated if what the place is of is gone, or something was removed since."""
        page = await self._page(scope, session_id, place.version)
        if page.before is None or page.before.event_id != place.last_event_id:
            raise ExportOutdated(session_id)
        while page.entries:
            if any(entry.type in _REMOVALS for entry in page.entries):
                raise ExportOutdated(session_id)
            page = await self._page(scope, session_id, page.entries[-1].seq)

    async def _page(self, scope: Scope, session_id: str, after_seq: int) -> LogPage:
        page = await self._logs.read_log((scope.tenant_id, session_id), after_seq=after_seq, limit=_EVENTS)
        if page.head.deleted or scope.user_id not in ("", page.user_id):
            raise SessionNotFound(session_id)
        return page
