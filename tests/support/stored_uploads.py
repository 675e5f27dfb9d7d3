"""Uploads and attachments of a store, without their bytes."""

import hashlib
from uuid import uuid4

from sessiond.v1.attachment_pb2 import Attachment, AttachmentType
from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments.rows import Piece, Upload
from tests.support.caller import Caller, one
from tests.support.store_backend import Backend


def declared(attachment_id: str, content: bytes = b"content", name: str = "a.png") -> Attachment:
    return Attachment(
        attachment_id=attachment_id,
        name=name,
        media_type="image/png",
        type=AttachmentType.ATTACHMENT_TYPE_IMAGE,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
    )


def new_piece(caller: Caller) -> Piece:
    return Piece(caller.scope.tenant_id, str(uuid4()))


def completion(upload: Upload) -> c.CompleteUpload:
    attachment = Attachment.FromString(upload.declared)
    return c.CompleteUpload(
        upload.attachment_id, upload.epoch, attachment.sha256, attachment.size_bytes, upload.blob_id
    )


async def begun(backend: Backend, caller: Caller, attachment: Attachment, session_id: str = "s") -> Upload:
    upload = await backend.attachments.begin_upload(caller.scope, session_id, attachment, new_piece(caller))
    assert upload is not None
    return upload


async def uploaded(
    backend: Backend, caller: Caller, attachment: Attachment, session_id: str = "s"
) -> tuple[Attachment, Piece]:
    upload = await begun(backend, caller, attachment, session_id)
    done = await one(backend.store, caller.command(session_id, completion(upload)), c.AttachmentUploaded)
    return Attachment.FromString(done.attachment), upload.piece


async def reaped(backend: Backend) -> set[Piece]:
    """What the reaper would remove now; it does."""
    while await backend.attachments.abandon_uploads(2):
        continue
    while await backend.attachments.release_blobs(2):
        continue
    pieces = set(await backend.attachments.dropped_pieces(100))
    await backend.attachments.forget_pieces(list(pieces))
    return pieces
