"""The attachments' part of the write path; see write.py."""

from datetime import timedelta
from typing import Final
from uuid import UUID

import asyncpg

from sessiond_server.domain.attachments.rows import AttachmentRow, UploadRecord
from sessiond_server.domain.rows import Known, Needs, Writes
from sessiond_server.postgres.columns import columns, flat
from sessiond_server.postgres.statements import ATTACHMENTS
from sessiond_server.postgres.transactions import Raced

FIND_UPLOADS = ATTACHMENTS["find_uploads"].text
FIND_ATTACHMENTS = ATTACHMENTS["find_attachments"].text
FIND_BLOBS = ATTACHMENTS["find_blobs"].text
WRITE_ATTACHMENTS = ATTACHMENTS["write_attachments"].text
FINISH_UPLOADS = ATTACHMENTS["finish_uploads"].text
DELETE_FILES = ATTACHMENTS["delete_files"].text

WRITERS_GRACE: Final = timedelta(seconds=60)
"""How long a dropped piece keeps its bytes while its writer may not have noticed yet: twice the longest time that an
upload can go without activity."""


async def look_up(connection: asyncpg.Connection, needs: Needs, known: Known) -> None:
    """Adds what the rules need to `known`. Locks uploads before blobs, and blobs in order, as all transactions do."""
    if needs.attachments:
        asked = needs.attachments
        for place, seq, blob_id, body in await connection.fetch(FIND_ATTACHMENTS, *columns(flat(asked), 3)):
            (key, attachment_id) = asked[place - 1]
            row = AttachmentRow(key, attachment_id, seq, None if blob_id is None else str(blob_id), body)
            known.attachments[(key, attachment_id)] = row
    if needs.uploads:
        uploads = sorted(set(needs.uploads))
        for place, blob_id, epoch, declared in await connection.fetch(FIND_UPLOADS, *columns(flat(uploads), 3)):
            known.uploads[uploads[place - 1]] = UploadRecord(str(blob_id), epoch, declared)
    if needs.blobs:
        contents = sorted(set(needs.blobs))
        for place, blob_id in await connection.fetch(FIND_BLOBS, *columns(contents, 3)):
            known.blobs[contents[place - 1]] = str(blob_id)


async def write(connection: asyncpg.Connection, writes: Writes) -> None:
    """Writes attachments, completed uploads and deletions. Raises Raced if another transaction has stored the same
    content meanwhile."""
    if writes.attachments:
        kept = sorted(
            (*done.content, UUID(done.blob_id)) for done in writes.completed_uploads if done.kept == done.blob_id
        )
        stored = await connection.fetchval(
            WRITE_ATTACHMENTS,
            *columns(kept, 4),
            *columns(
                (
                    (*row.key, row.attachment_id, row.seq, None if row.blob_id is None else UUID(row.blob_id), row.body)
                    for row in writes.attachments
                ),
                6,
            ),
            *columns(((*gone.key, gone.attachment_id, UUID(gone.blob_id)) for gone in writes.releases), 4),
        )
        if stored != len(kept):
            raise Raced
    if writes.completed_uploads:
        await connection.execute(
            FINISH_UPLOADS,
            *columns(
                (
                    (*done.key, done.attachment_id, UUID(done.blob_id), done.content[2], done.kept == done.blob_id)
                    for done in writes.completed_uploads
                ),
                6,
            ),
        )
    if writes.deletions:
        await connection.execute(DELETE_FILES, *columns((gone.key for gone in writes.deletions), 2), WRITERS_GRACE)
