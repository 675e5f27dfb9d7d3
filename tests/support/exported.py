"""Exports and imports between stores, without a wire."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from sessiond.v1.document_pb2 import DocumentScope
from sessiond.v1.event_pb2 import Event
from sessiond.v1.export_service_pb2 import ExportPlace, ExportRecord
from sessiond.v1.session_pb2 import Session
from sessiond_server.blobs.access import AttachmentAccess
from sessiond_server.blobs.contract import BlobStore
from sessiond_server.blobs.downloads import Downloads
from sessiond_server.blobs.uploads import Uploads
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.imports.digests import sign
from sessiond_server.domain.rows import Policy, Writes
from sessiond_server.exports.reading import Exports
from sessiond_server.exports.receiving import ImportDone, Imports
from sessiond_server.store.announcing import Announce, Repeated
from tests.support.caller import whole_log
from tests.support.store_backend import Backend


class Announced:
    """A CommitListener that keeps what it hears of."""

    def __init__(self) -> None:
        self.heard: list[Repeated] = []

    def begun(self) -> Announce:
        async def announce(writes: Writes, repeated: Sequence[Repeated]) -> None:
            self.heard += repeated

        return announce


class Moves:
    """Exports from one store and imports into another."""

    def __init__(self, source: Backend, target: Backend, blobs: BlobStore, policy: Policy | None = None) -> None:
        access = AttachmentAccess(
            source.attachments, Uploads(source.attachments, blobs), Downloads(source.attachments, blobs)
        )
        self.downloads = access.downloads
        self.exports = Exports(source.store, source.store, access)
        self.announced = Announced()
        self.imports = Imports(
            target.imports, target.store, target.store, blobs, self.announced, policy or Policy(), clock=far_away
        )

    async def records(self, scope: Scope, session_id: str, after: ExportPlace | None = None) -> list[ExportRecord]:
        return [record async for record in self.exports.records(scope, session_id, after)]

    async def receive(
        self, scope: Scope, records: Sequence[ExportRecord], session_id: str = "", ends_at: int | None = None
    ) -> tuple[ImportDone, int]:
        """Imports; returns (outcome, the line behind which it began). `ends_at`: the stream ends behind that line."""
        first, line = ExportRecord.FromString(records[0].SerializeToString()), 0

        async def taken_up(there: int) -> None:
            nonlocal line
            line = there

        async def rest() -> AsyncIterator[ExportRecord]:
            for record in records[line:ends_at]:
                yield ExportRecord.FromString(record.SerializeToString())

        named = session_id or first.header.session.session_id
        return await self.imports.receive(scope, first, named, rest(), taken_up), line


def far_away() -> int:
    """A clock behind all events: stores have clocks of their own."""
    return 2**52


def signed(records: Sequence[ExportRecord], change: Callable[[list[ExportRecord]], object]) -> list[ExportRecord]:
    """The records after a change, with digests that fit: a file that lies."""
    copies = [ExportRecord.FromString(record.SerializeToString()) for record in records]
    change(copies)
    digest = b""
    for record in copies:
        digest = sign(record, digest)
    return copies


async def whole(backend: Backend, scope: Scope, session_id: str) -> tuple[Session, list[Event]]:
    """The full session and its log, as if its id were `session`."""
    snapshot = await backend.store.get_session(scope, session_id, content=True)
    session = Session.FromString(snapshot.core + snapshot.content)
    events = await whole_log(backend.store, scope, session_id)
    session.session_id = "session"
    for run in (run for event in events for run in event.preset_runs):
        run.session_id = "session"
    for event in events:
        event.session_id = "session"
        payload = event.WhichOneof("payload")
        resource: Any = event if payload is None else getattr(event, payload)
        if getattr(resource, "session_id", ""):
            resource.session_id = "session"
        for change in event.documents:
            change.scope_id = "session" if change.scope == DocumentScope.DOCUMENT_SCOPE_SESSION else change.scope_id
    return session, events
