"""The rules of attachments: beginning an upload, completing it, deleting an attachment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sessiond.v1.attachment_pb2 import Attachment
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.session_pb2 import Session, SessionConfig
from sessiond_server.domain import commands as c
from sessiond_server.domain import fold
from sessiond_server.domain.actions import Action, always
from sessiond_server.domain.rows import Head, Needs, Policy
from sessiond_server.domain.sessions import lifecycle
from sessiond_server.domain.state import State, Step
from sessiond_server.domain.times import set_timestamp
from sessiond_server.errors import (
    AttachmentAlreadyExists,
    AttachmentLimitReached,
    AttachmentNotFound,
    AttachmentSpaceExhausted,
    AttachmentTooLarge,
    TooManyUploads,
    UploadSuperseded,
)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The unfinished uploads of a session, in total."""

    count: int = 0
    size_bytes: int = 0
    """Sum of the declared sizes."""


NONE = Unfinished()


def check_upload(
    core: Session, limits: SessionConfig, policy: Policy, now_us: int, size_bytes: int, others: Unfinished = NONE
) -> None:
    """Checks whether the session accepts an attachment of that size, beside the unfinished uploads `others`.

    Raises SessionEnded, AttachmentLimitReached, AttachmentTooLarge, AttachmentSpaceExhausted, TooManyUploads.
    """
    lifecycle.check_open(core, now_us)
    session_id = core.session_id
    most = limits.max_attachments
    if most and core.attachment_count >= most:
        raise AttachmentLimitReached(session_id, most)
    largest = min(filter(None, (limits.max_attachment_bytes, policy.max_attachment_bytes)), default=size_bytes)
    if size_bytes > largest:
        raise AttachmentTooLarge(session_id, size_bytes, largest)
    space = policy.max_session_attachment_bytes
    if space and core.attachment_bytes + others.size_bytes + size_bytes > space:
        raise AttachmentSpaceExhausted(session_id, space)
    if others.count >= policy.max_unfinished_uploads:
        raise TooManyUploads(policy.max_unfinished_uploads)


def complete(step: Step, state: State, action: c.CompleteUpload) -> c.Outcome:
    core, files = state.core, state.files
    lifecycle.check_open(core, step.now_us)
    if files.attachment(action.attachment_id) is not None:
        raise AttachmentAlreadyExists(core.session_id, action.attachment_id)
    upload = files.upload(action.attachment_id)
    if upload is None or upload.epoch != action.epoch or action.blob_id not in ("", upload.blob_id):
        raise UploadSuperseded(core.session_id, action.attachment_id)
    attachment = Attachment.FromString(upload.declared)
    check_upload(core, state.limits, step.policy, step.now_us, attachment.size_bytes)
    time_us = step.time_after(core)
    attachment.session_id = core.session_id
    attachment.seq = core.version + 1
    set_timestamp(attachment.create_time, time_us)
    if step.command.fence is not None:
        attachment.run_id = step.command.fence.run_id
    body = attachment.SerializeToString()
    _emit(step, state, EventType.EVENT_TYPE_ATTACHMENT_UPLOADED, time_us, attachment, body)
    files.add(upload, attachment, body)
    return c.AttachmentUploaded(core.version, body)


def delete(step: Step, state: State, action: c.DeleteAttachment) -> c.Outcome:
    core, files = state.core, state.files
    lifecycle.check_open(core, step.now_us)
    row = files.attachment(action.attachment_id)
    if row is None or row.blob_id is None:
        raise AttachmentNotFound(core.session_id, action.attachment_id)
    attachment = Attachment.FromString(row.body)
    _emit(step, state, EventType.EVENT_TYPE_ATTACHMENT_DELETED, step.time_after(core), attachment, row.body)
    files.remove(row)
    return c.AttachmentDeleted(core.version)


def _emit(
    step: Step,
    state: State,
    event_type: EventType.ValueType,
    time_us: int,
    attachment: Attachment,
    body: bytes,
) -> None:
    step.advance(state.core, time_us, activity=event_type in fold.ACTIVITY)
    fold.add_attachment(state.core, event_type, attachment)
    step.emit(state, event_type, time_us, body=body)


def _ask(asked: Needs, command: c.Command, head: Head) -> None:
    """Asks for the attachment that the command names; CompleteUpload also asks for the upload and for its content."""
    action, key = command.action, command.key
    assert isinstance(action, c.CompleteUpload | c.DeleteAttachment)
    asked.attachments.append((key, action.attachment_id))
    if isinstance(action, c.CompleteUpload):
        asked.uploads.append((key, action.attachment_id))
        asked.blobs.append((key[0], action.sha256, action.size_bytes))


ACTIONS: Final[Mapping[type, Action]] = {
    c.CompleteUpload: Action(complete, lambda events, _: c.AttachmentUploaded(events[-1].seq, events[-1].body), _ask),
    c.DeleteAttachment: Action(delete, lambda events, _: c.AttachmentDeleted(events[-1].seq), _ask, removes=always),
}
