"""Attachments in Postgres, except for their part of the write path (`file_rows.py`)."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain.attachments.rows import Extent, Piece, Upload
from sessiond_server.domain.attachments.rules import Unfinished, check_upload
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.rows import Policy
from sessiond_server.encryption.rows import attachment_body
from sessiond_server.errors import AttachmentNotFound, SessionNotFound, StoreUnavailable
from sessiond_server.postgres.file_rows import WRITERS_GRACE
from sessiond_server.postgres.read import GET_CORE
from sessiond_server.postgres.statements import ATTACHMENTS
from sessiond_server.postgres.transactions import Transactions
from sessiond_server.store.attachments import AttachmentsPage, StoredFile

GET_ATTACHMENT = ATTACHMENTS["get_attachment"].text
GET_FILE = ATTACHMENTS["get_file"].text
LIST_ATTACHMENTS = ATTACHMENTS["list_attachments"].text
GET_UPLOAD = ATTACHMENTS["get_upload"].text
LOCK_SESSION = ATTACHMENTS["lock_session"].text
BESIDE = ATTACHMENTS["beside"].text
IS_ELSEWHERE = ATTACHMENTS["is_elsewhere"].text
LOCK_UPLOAD = ATTACHMENTS["lock_upload"].text
INSERT_UPLOAD = ATTACHMENTS["insert_upload"].text
TAKE_UP_UPLOAD = ATTACHMENTS["take_up_upload"].text
SETTLE_PIECES = ATTACHMENTS["settle_pieces"].text
TOUCH_UPLOAD = ATTACHMENTS["touch_upload"].text
DISCARD_UPLOAD = ATTACHMENTS["discard_upload"].text
ABANDON_UPLOADS = ATTACHMENTS["abandon_uploads"].text
TAKE_RELEASES = ATTACHMENTS["take_releases"].text
LOCK_RELEASED_BLOBS = ATTACHMENTS["lock_released_blobs"].text
DROP_BLOBS = ATTACHMENTS["drop_blobs"].text
FORGET_RELEASES = ATTACHMENTS["forget_releases"].text
DROPPED_PIECES = ATTACHMENTS["dropped_pieces"].text
FORGET_PIECES = ATTACHMENTS["forget_pieces"].text
UNKNOWN_PIECES = ATTACHMENTS["unknown_pieces"].text

_AT_ONCE = timedelta(0)


class PostgresAttachments:
    """Implements `store.attachments.AttachmentStore`. Belongs to a PostgresStore and shares its connections."""

    def __init__(
        self, transactions: Transactions, policy: Policy, new_id: Callable[[], str], upload_retention: timedelta
    ) -> None:
        self._transactions = transactions
        self._policy = policy
        self._new_id = new_id
        self._upload_retention = upload_retention

    async def get_attachment(self, scope: Scope, session_id: str, attachment_id: str) -> bytes:
        rows = await self._read(GET_ATTACHMENT, scope, session_id, attachment_id)
        body: bytes | None = rows[0][0]
        if body is None:
            raise AttachmentNotFound(session_id, attachment_id)
        return body

    async def get_file(self, scope: Scope, session_id: str, attachment_id: str) -> StoredFile:
        rows = await self._read(GET_FILE, scope, session_id, attachment_id)
        if rows[0][0] is None:
            raise AttachmentNotFound(session_id, attachment_id)
        extents = [Extent(Piece(scope.tenant_id, str(piece_id)), length) for _, piece_id, length in rows if length]
        return StoredFile(rows[0][0], extents)

    async def list_attachments(self, scope: Scope, session_id: str, *, after_seq: int, limit: int) -> AttachmentsPage:
        rows = await self._read(LIST_ATTACHMENTS, scope, session_id, after_seq, limit)
        version = rows[0][0]
        shown = [row for row in rows[:limit] if row[1] is not None]
        last_seq = shown[-1][1] if shown else 0
        return AttachmentsPage(version, [row[2] for row in shown], last_seq, more=len(rows) > limit)

    async def get_upload(self, scope: Scope, session_id: str, attachment_id: str) -> Upload | None:
        rows = await self._read(GET_UPLOAD, scope, session_id, attachment_id)
        blob_id, epoch, declared, touched = rows[0][:4]
        if blob_id is None:
            return None
        pieces = [(Piece(scope.tenant_id, str(row[4])), row[5]) for row in rows]
        extents = tuple(Extent(piece, length) for piece, length in pieces[:-1])
        key = (scope.tenant_id, session_id)
        return Upload(key, attachment_id, str(blob_id), epoch, declared, touched, extents, pieces[-1][0])

    async def begin_upload(self, scope: Scope, session_id: str, declared: Attachment, piece: Piece) -> Upload | None:
        attachment_id, key = declared.attachment_id, (scope.tenant_id, session_id)
        body, blob_id = declared.SerializeToString(), self._new_id()

        async def work(connection: asyncpg.Connection) -> Upload | None:
            now_us = await self._check(connection, scope, session_id, declared)
            if now_us is None or await connection.fetchrow(LOCK_UPLOAD, *key, attachment_id) is not None:
                return None
            keyring = connection.keyring
            stored = body
            if keyring is not None and keyring.seals:
                await keyring.sealing(key[0])
                stored = attachment_body(keyring.key(key[0]), session_id, body)
            await connection.execute(
                INSERT_UPLOAD,
                *key, attachment_id, UUID(blob_id), declared.size_bytes, stored, UUID(piece.piece_id), now_us,
            )  # fmt: skip
            return Upload(key, attachment_id, blob_id, 1, body, now_us, (), piece)

        return await self._transactions.run(work, session_id=session_id)

    async def resume_upload(
        self, scope: Scope, upload: Upload, extents: Sequence[Extent], piece: Piece
    ) -> Upload | None:
        key, attachment_id, blob_id = upload.key, upload.attachment_id, UUID(upload.blob_id)
        declared = Attachment.FromString(upload.declared)
        start = sum(extent.length for extent in extents)

        async def work(connection: asyncpg.Connection) -> Upload | None:
            now_us = await self._check(connection, scope, key[1], declared)
            found = await connection.fetchrow(LOCK_UPLOAD, *key, attachment_id)
            if now_us is None or found is None or (found[0], found[1]) != (blob_id, upload.epoch):
                return None
            kept = [UUID(extent.piece.piece_id) for extent in extents]
            lengths = [extent.length for extent in extents]
            await connection.execute(SETTLE_PIECES, key[0], blob_id, kept, lengths, WRITERS_GRACE)
            await connection.execute(TAKE_UP_UPLOAD, *key, attachment_id, now_us, UUID(piece.piece_id), start)
            return Upload(
                key, attachment_id, upload.blob_id, upload.epoch + 1, upload.declared, now_us, tuple(extents), piece
            )

        return await self._transactions.run(work, session_id=key[1])

    async def _check(
        self, connection: asyncpg.Connection, scope: Scope, session_id: str, declared: Attachment
    ) -> int | None:
        """Locks the session, checks that the upload is allowed, and returns the time; None if the id is taken. Raises
        StoreUnavailable if the tenant lives in another database."""
        head = await connection.fetchrow(LOCK_SESSION, scope.tenant_id, session_id, scope.user_id)
        if head is None:
            raise SessionNotFound(session_id)
        now_us, count, size_bytes, taken, elsewhere = await connection.fetchrow(
            BESIDE, scope.tenant_id, session_id, declared.attachment_id
        )
        if elsewhere:
            raise StoreUnavailable(elsewhere=True)
        if taken:
            return None
        core, limits = Session.FromString(head[0]), SessionConfig.FromString(head[1])
        check_upload(core, limits, self._policy, now_us, declared.size_bytes, Unfinished(count, size_bytes))
        time_us: int = now_us
        return time_us

    async def touch_upload(self, upload: Upload) -> bool:
        parameters = (*upload.key, upload.attachment_id, UUID(upload.blob_id), upload.epoch)
        return bool(await self._count(TOUCH_UPLOAD, *parameters, tenant_id=upload.key[0]))

    async def discard_upload(
        self, scope: Scope, session_id: str, attachment_id: str, epoch: int | None, blob_id: str | None = None
    ) -> bool:
        await self._read(GET_CORE, scope, session_id)
        grace = WRITERS_GRACE if epoch is None else _AT_ONCE
        blob = None if blob_id is None else UUID(blob_id)
        parameters = (scope.tenant_id, session_id, attachment_id, epoch, grace, blob)
        return bool(await self._count(DISCARD_UPLOAD, *parameters, tenant_id=scope.tenant_id))

    async def abandon_uploads(self, limit: int) -> int:
        async def work(connection: asyncpg.Connection) -> int:
            count: int = await connection.fetchval(ABANDON_UPLOADS, self._upload_retention, limit)
            return count

        return await self._transactions.run(work)

    async def release_blobs(self, limit: int) -> int:
        async def work(connection: asyncpg.Connection) -> int:
            releases = await connection.fetch(TAKE_RELEASES, limit)
            if not releases:
                return 0
            blobs = sorted({(tenant_id, blob_id) for tenant_id, blob_id, _, _ in releases})
            tenants, ids = zip(*blobs, strict=True)
            found = await connection.fetch(LOCK_RELEASED_BLOBS, tenants, ids)
            busy = {blobs[place - 1] for place, locked, there in found if there and not locked}
            mine = [blob for blob in blobs if blob not in busy]
            if mine:
                await connection.execute(DROP_BLOBS, *zip(*mine, strict=True))
            done = [(t, b, s, a) for t, b, s, a in releases if (t, b) not in busy]
            if done:
                await connection.execute(FORGET_RELEASES, *zip(*done, strict=True))
            return len(done)

        return await self._transactions.run(work)

    async def dropped_pieces(self, limit: int) -> Sequence[Piece]:
        rows = await self._transactions.fetch(DROPPED_PIECES, limit)
        return [Piece(tenant_id, str(piece_id)) for tenant_id, piece_id in rows]

    async def forget_pieces(self, pieces: Sequence[Piece]) -> None:
        await self._count(FORGET_PIECES, *_arrays(pieces))

    async def unknown_pieces(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        rows = await self._transactions.fetch(UNKNOWN_PIECES, *_arrays(pieces))
        return [pieces[place - 1] for (place,) in rows]

    async def _read(self, statement: str, scope: Scope, session_id: str, *parameters: Any) -> Sequence[Any]:
        """The rows of a read; at least one. Raises SessionNotFound."""
        rows = await self._transactions.fetch(statement, scope.tenant_id, session_id, scope.user_id, *parameters)
        if not rows:
            raise SessionNotFound(session_id)
        return rows

    async def _count(self, statement: str, *parameters: Any, tenant_id: str | None = None) -> int:
        """Executes a statement in its own transaction and returns the number of rows that it changed.

        With `tenant_id`, the statement must change uploads of that tenant. Raises StoreUnavailable if the tenant lives
        in another database; nothing is changed then.
        """

        async def work(connection: asyncpg.Connection) -> int:
            status = await connection.execute(statement, *parameters)
            # Asked behind the statement, whose lock on the table the fence of a move waits for.
            if tenant_id is not None and await connection.fetchval(IS_ELSEWHERE, tenant_id):
                raise StoreUnavailable(elsewhere=True)
            return int(status.rpartition(" ")[2])

        return await self._transactions.run(work)


def _arrays(pieces: Sequence[Piece]) -> tuple[list[str], list[UUID]]:
    return [piece.tenant_id for piece in pieces], [UUID(piece.piece_id) for piece in pieces]
