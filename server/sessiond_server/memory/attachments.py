"""The memory store's attachments: an AttachmentStore (see store/attachments.py), and its part of the writes."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain.attachments.rows import AttachmentRow, Content, Extent, Key, Piece, Upload, UploadRecord
from sessiond_server.domain.attachments.rules import Unfinished, check_upload
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Head, Known, Needs, Policy, Writes
from sessiond_server.errors import AttachmentNotFound
from sessiond_server.store.attachments import AttachmentsPage, StoredFile

_US: Final = timedelta(microseconds=1)
WRITERS_GRACE_US: Final = timedelta(seconds=60) // _US
"""Grace period before a dropped piece is removed whose writer may not know yet that it was superseded."""


@dataclass(slots=True)
class _Files:
    """The attachments and uploads of one session."""

    attachments: dict[str, AttachmentRow] = field(default_factory=dict)
    """By attachment id, ascending by seq."""
    uploads: dict[str, Upload] = field(default_factory=dict)


@dataclass(slots=True)
class _Blob:
    content: Content
    extents: tuple[Extent, ...]


class MemoryAttachments:
    """The attachments of a MemoryStore. As there, nothing awaits between reading and writing."""

    def __init__(
        self,
        head: Callable[[Scope, str], Head],
        clock: Callable[[], int],
        policy: Policy,
        new_id: Callable[[], str],
        upload_retention: timedelta,
    ) -> None:
        """`head` raises SessionNotFound."""
        self._head = head
        self._clock = clock
        self._policy = policy
        self._new_id = new_id
        self._upload_retention_us = upload_retention // _US
        self._files: dict[Key, _Files] = {}
        self._blobs: dict[tuple[str, str], _Blob] = {}
        """By (tenant, blob id)."""
        self._blob_of: dict[Content, str] = {}
        self._released: list[tuple[str, str]] = []
        self._pieces: dict[Piece, int | None] = {}
        """Piece -> time from which on its bytes may be removed; None while the piece is in use."""

    async def get_attachment(self, scope: Scope, session_id: str, attachment_id: str) -> bytes:
        return self._attachment(scope, session_id, attachment_id).body

    async def get_file(self, scope: Scope, session_id: str, attachment_id: str) -> StoredFile:
        row = self._attachment(scope, session_id, attachment_id)
        assert row.blob_id is not None
        return StoredFile(row.body, self._blobs[(scope.tenant_id, row.blob_id)].extents)

    async def list_attachments(self, scope: Scope, session_id: str, *, after_seq: int, limit: int) -> AttachmentsPage:
        version = self._head(scope, session_id).version
        rows = [row for row in self._of((scope.tenant_id, session_id)).attachments.values() if row.blob_id]
        rows = rows[bisect_right([row.seq for row in rows], after_seq) :]
        shown = rows[:limit]
        last_seq = shown[-1].seq if shown else 0
        return AttachmentsPage(version, [row.body for row in shown], last_seq, more=len(rows) > limit)

    async def get_upload(self, scope: Scope, session_id: str, attachment_id: str) -> Upload | None:
        self._head(scope, session_id)
        return self._of((scope.tenant_id, session_id)).uploads.get(attachment_id)

    async def begin_upload(self, scope: Scope, session_id: str, declared: Attachment, piece: Piece) -> Upload | None:
        head, key, attachment_id = self._head(scope, session_id), (scope.tenant_id, session_id), declared.attachment_id
        files = self._of(key)
        if attachment_id in files.attachments:
            return None
        now_us = self._check(head, files, declared)
        if attachment_id in files.uploads:
            return None
        upload = Upload(key, attachment_id, self._new_id(), 1, declared.SerializeToString(), now_us, (), piece)
        self._files[key] = files
        files.uploads[attachment_id] = upload
        self._pieces[piece] = None
        return upload

    async def resume_upload(
        self, scope: Scope, upload: Upload, extents: Sequence[Extent], piece: Piece
    ) -> Upload | None:
        head, files = self._head(scope, upload.key[1]), self._of(upload.key)
        if upload.attachment_id in files.attachments:
            return None
        now_us = self._check(head, files, Attachment.FromString(upload.declared))
        if not self._is_last(upload):
            return None
        kept = {extent.piece for extent in extents}
        self._drop(_pieces(upload) - kept, now_us + WRITERS_GRACE_US)
        self._pieces[piece] = None
        resumed = replace(upload, epoch=upload.epoch + 1, touch_time_us=now_us, extents=tuple(extents), piece=piece)
        files.uploads[upload.attachment_id] = resumed
        return resumed

    def _check(self, head: Head, files: _Files, declared: Attachment) -> int:
        now_us = self._clock()
        core, limits = Session.FromString(head.core), SessionConfig.FromString(head.limits)
        others = [
            Attachment.FromString(upload.declared).size_bytes
            for upload in files.uploads.values()
            if upload.attachment_id != declared.attachment_id
        ]
        check_upload(core, limits, self._policy, now_us, declared.size_bytes, Unfinished(len(others), sum(others)))
        return now_us

    async def touch_upload(self, upload: Upload) -> bool:
        if not self._is_last(upload):
            return False
        uploads = self._files[upload.key].uploads
        uploads[upload.attachment_id] = replace(uploads[upload.attachment_id], touch_time_us=self._clock())
        return True

    async def discard_upload(
        self, scope: Scope, session_id: str, attachment_id: str, epoch: int | None, blob_id: str | None = None
    ) -> bool:
        self._head(scope, session_id)
        uploads = self._of((scope.tenant_id, session_id)).uploads
        upload = uploads.get(attachment_id)
        if upload is None or epoch not in (None, upload.epoch) or blob_id not in (None, upload.blob_id):
            return False
        del uploads[attachment_id]
        self._drop(_pieces(upload), self._clock() + (WRITERS_GRACE_US if epoch is None else 0))
        return True

    async def abandon_uploads(self, limit: int) -> int:
        now = self._clock()
        silent = [
            upload
            for files in self._files.values()
            for upload in files.uploads.values()
            if upload.touch_time_us < now - self._upload_retention_us
        ][:limit]
        for upload in silent:
            del self._files[upload.key].uploads[upload.attachment_id]
            self._drop(_pieces(upload), now)
        return len(silent)

    async def release_blobs(self, limit: int) -> int:
        released, self._released = self._released[:limit], self._released[limit:]
        in_use = {(key[0], row.blob_id) for key, files in self._files.items() for row in files.attachments.values()}
        for tenant_id, blob_id in released:
            blob = self._blobs.get((tenant_id, blob_id))
            if blob is not None and (tenant_id, blob_id) not in in_use:
                del self._blobs[(tenant_id, blob_id)]
                del self._blob_of[blob.content]
                self._drop({extent.piece for extent in blob.extents}, self._clock())
        return len(released)

    async def dropped_pieces(self, limit: int) -> Sequence[Piece]:
        now = self._clock()
        return [piece for piece, drop in self._pieces.items() if drop is not None and drop <= now][:limit]

    async def forget_pieces(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if self._pieces.get(piece) is not None:
                del self._pieces[piece]

    async def unknown_pieces(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        return [piece for piece in pieces if piece not in self._pieces]

    def look_up(self, needs: Needs, known: Known) -> None:
        """Adds the rows that the rules need to `known`."""
        for key, attachment_id in needs.attachments:
            if (row := self._of(key).attachments.get(attachment_id)) is not None:
                known.attachments[(key, attachment_id)] = row
        for key, attachment_id in needs.uploads:
            if (upload := self._of(key).uploads.get(attachment_id)) is not None:
                known.uploads[(key, attachment_id)] = UploadRecord(upload.blob_id, upload.epoch, upload.declared)
        for content in needs.blobs:
            if (blob_id := self._blob_of.get(content)) is not None:
                known.blobs[content] = blob_id

    def write(self, writes: Writes) -> None:
        now = self._clock()
        for row in writes.attachments:
            self._files.setdefault(row.key, _Files()).attachments[row.attachment_id] = row
        for done in writes.completed_uploads:
            upload = self._files[done.key].uploads.pop(done.attachment_id)
            if done.kept != done.blob_id:
                self._drop(_pieces(upload), now)
                continue
            last = Extent(upload.piece, done.content[2] - upload.start)
            self._blobs[(done.key[0], done.blob_id)] = _Blob(done.content, (*upload.extents, last))
            self._blob_of[done.content] = done.blob_id
        self._released += [(gone.key[0], gone.blob_id) for gone in writes.releases]
        for gone in writes.deletions:
            key = gone.key
            files = self._files.pop(key, _Files())
            self._released += [(key[0], row.blob_id) for row in files.attachments.values() if row.blob_id]
            for upload in files.uploads.values():
                self._drop(_pieces(upload), now + WRITERS_GRACE_US)

    def begin_staged(self, piece: Piece, drop_time_us: int) -> None:
        """Records a piece that is dropped at that time, unless an imported attachment has it by then."""
        self._pieces[piece] = drop_time_us

    def keep_until(self, pieces: Iterable[Piece], drop_time_us: int) -> None:
        """Moves the time at which these pieces are dropped, as far as they are still there."""
        self._drop({piece for piece in pieces if self._pieces.get(piece) is not None}, drop_time_us)

    def add_imported(
        self, key: Key, attachment_id: str, seq: int, body: bytes, content: Content | None, extents: Sequence[Extent]
    ) -> None:
        """Adds the attachment of an imported session, which has these pieces. `content`: None of a deleted one."""
        blob_id = None
        if content is not None:
            blob_id = self._blob_of.get(content)
            if blob_id is None:
                blob_id = self._blob_of[content] = self._new_id()
                self._blobs[(key[0], blob_id)] = _Blob(content, tuple(extents))
                for extent in extents:
                    self._pieces[extent.piece] = None
        row = AttachmentRow(key, attachment_id, seq, blob_id, body)
        self._files.setdefault(key, _Files()).attachments[attachment_id] = row

    def rows(self, key: Key) -> Sequence[AttachmentRow]:
        """The rows of a session's attachments, those of deleted ones included."""
        return list(self._of(key).attachments.values())

    def _of(self, key: Key) -> _Files:
        return self._files.get(key) or _Files()

    def _is_last(self, upload: Upload) -> bool:
        now = self._of(upload.key).uploads.get(upload.attachment_id)
        return now is not None and (now.blob_id, now.epoch) == (upload.blob_id, upload.epoch)

    def _attachment(self, scope: Scope, session_id: str, attachment_id: str) -> AttachmentRow:
        self._head(scope, session_id)
        row = self._of((scope.tenant_id, session_id)).attachments.get(attachment_id)
        if row is None or row.blob_id is None:
            raise AttachmentNotFound(session_id, attachment_id)
        return row

    def _drop(self, pieces: set[Piece], time_us: int) -> None:
        for piece in pieces:
            self._pieces[piece] = time_us


def _pieces(upload: Upload) -> set[Piece]:
    return {extent.piece for extent in upload.extents} | {upload.piece}
