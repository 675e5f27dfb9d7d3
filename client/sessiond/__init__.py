"""Python client of sessiond, the service that keeps the conversations of AI agents.

    async with sessiond.Client("127.0.0.1:50051") as client:
        session = await client.create_session(user_id="ada", active=True)
        await client.append_messages(session.session_id, [sessiond.user("hi")])

Everything in `__all__` is imported on first use: the service itself imports `sessiond.v1` through this package, and its
rules must not import grpc that way.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessiond.client import Client
    from sessiond.download import Download
    from sessiond.draft import Draft
    from sessiond.errors import (
        AlreadyExists,
        ApprovalRequired,
        AttachmentAlreadyExists,
        AttachmentLimitReached,
        AttachmentLost,
        AttachmentNotFound,
        AttachmentSpaceExhausted,
        AttachmentTooLarge,
        ChecksumMismatch,
        ClientClosed,
        ClientForked,
        DeadlinePassed,
        Draining,
        Exhausted,
        IllegalToolCallTransition,
        IllegalTransition,
        InternalError,
        InvalidFields,
        InvalidPageToken,
        InvalidPosition,
        InvalidRequest,
        MalformedRequest,
        MessageAlreadyExists,
        MessageLimitReached,
        MessageNotFound,
        NotFound,
        PositionCompacted,
        PositionGone,
        PositionLost,
        QueueFull,
        Refused,
        RequestIdReused,
        RequestTooLarge,
        RunAlreadyExists,
        RunEnded,
        RunFenced,
        RunInProgress,
        RunNotFound,
        RunQueueFull,
        ScopeMissing,
        SessionAlreadyExists,
        SessiondError,
        SessionEnded,
        SessionLocked,
        SessionNotActive,
        SessionNotFound,
        SessionQuotaReached,
        Starting,
        StorageUnavailable,
        StoreUnavailable,
        ToolBlocked,
        ToolCallAlreadyExists,
        ToolCallLimitReached,
        ToolCallNotFound,
        TooManyCalls,
        TooManyTransfers,
        TooManyUploads,
        TooManyWatchers,
        TransferBroken,
        TransferStalled,
        Unauthenticated,
        Unavailable,
        UploadDeclaredOtherwise,
        UploadIncomplete,
        UploadNotFound,
        UploadOffsetMismatch,
        UploadSuperseded,
        UploadTooLong,
        VersionMismatch,
        VersionNotReached,
        Violation,
        WatcherTooSlow,
    )
    from sessiond.feed import Feed
    from sessiond.formats.chat import from_chat, to_chat
    from sessiond.live_run import LiveRun
    from sessiond.messages import assistant, blob, json_part, system, text_of, tool, tool_call, user
    from sessiond.options import TLS, Keepalive, Reconnect, Retry
    from sessiond.pages import Pages
    from sessiond.positions import FilePositions, PositionStore
    from sessiond.request_ids import new_request_id
    from sessiond.structs import from_struct, to_struct
    from sessiond.tool_data import from_tool_data, to_tool_data
    from sessiond.v1.attachment_pb2 import Attachment, AttachmentType
    from sessiond.v1.event_pb2 import Event, EventType
    from sessiond.v1.event_service_pb2 import Bookmark, Delta, DeltaBatch, EventBatch, Snapshot
    from sessiond.v1.message_pb2 import Message, Part, Role
    from sessiond.v1.run_pb2 import Failure, Run, RunEndReason, RunFence, RunStatus
    from sessiond.v1.session_pb2 import Session, SessionConfig, SessionStatus, TokenUsage
    from sessiond.v1.tool_call_pb2 import ToolCall, ToolCallCancelReason, ToolCallStatus
    from sessiond.watch import Watch

__all__ = [
    "TLS",
    "AlreadyExists",
    "ApprovalRequired",
    "Attachment",
    "AttachmentAlreadyExists",
    "AttachmentLimitReached",
    "AttachmentLost",
    "AttachmentNotFound",
    "AttachmentSpaceExhausted",
    "AttachmentTooLarge",
    "AttachmentType",
    "Bookmark",
    "ChecksumMismatch",
    "Client",
    "ClientClosed",
    "ClientForked",
    "DeadlinePassed",
    "Delta",
    "DeltaBatch",
    "Download",
    "Draft",
    "Draining",
    "Event",
    "EventBatch",
    "EventType",
    "Exhausted",
    "Failure",
    "Feed",
    "FilePositions",
    "IllegalToolCallTransition",
    "IllegalTransition",
    "InternalError",
    "InvalidFields",
    "InvalidPageToken",
    "InvalidPosition",
    "InvalidRequest",
    "Keepalive",
    "LiveRun",
    "MalformedRequest",
    "Message",
    "MessageAlreadyExists",
    "MessageLimitReached",
    "MessageNotFound",
    "NotFound",
    "Pages",
    "Part",
    "PositionCompacted",
    "PositionGone",
    "PositionLost",
    "PositionStore",
    "QueueFull",
    "Reconnect",
    "Refused",
    "RequestIdReused",
    "RequestTooLarge",
    "Retry",
    "Role",
    "Run",
    "RunAlreadyExists",
    "RunEndReason",
    "RunEnded",
    "RunFence",
    "RunFenced",
    "RunInProgress",
    "RunNotFound",
    "RunQueueFull",
    "RunStatus",
    "ScopeMissing",
    "Session",
    "SessionAlreadyExists",
    "SessionConfig",
    "SessionEnded",
    "SessionLocked",
    "SessionNotActive",
    "SessionNotFound",
    "SessionQuotaReached",
    "SessionStatus",
    "SessiondError",
    "Snapshot",
    "Starting",
    "StorageUnavailable",
    "StoreUnavailable",
    "TokenUsage",
    "TooManyCalls",
    "TooManyTransfers",
    "TooManyUploads",
    "TooManyWatchers",
    "ToolBlocked",
    "ToolCall",
    "ToolCallAlreadyExists",
    "ToolCallCancelReason",
    "ToolCallLimitReached",
    "ToolCallNotFound",
    "ToolCallStatus",
    "TransferBroken",
    "TransferStalled",
    "Unauthenticated",
    "Unavailable",
    "UploadDeclaredOtherwise",
    "UploadIncomplete",
    "UploadNotFound",
    "UploadOffsetMismatch",
    "UploadSuperseded",
    "UploadTooLong",
    "VersionMismatch",
    "VersionNotReached",
    "Violation",
    "Watch",
    "WatcherTooSlow",
    "assistant",
    "blob",
    "from_chat",
    "from_struct",
    "from_tool_data",
    "json_part",
    "new_request_id",
    "system",
    "text_of",
    "to_chat",
    "to_struct",
    "to_tool_data",
    "tool",
    "tool_call",
    "user",
]

_ELSEWHERE = {
    "Client": "client",
    "Pages": "pages",
    "TLS": "options",
    "Keepalive": "options",
    "Retry": "options",
    "new_request_id": "request_ids",
    "from_chat": "formats.chat",
    "to_chat": "formats.chat",
    "from_struct": "structs",
    "to_struct": "structs",
    "Message": "v1.message_pb2",
    "Part": "v1.message_pb2",
    "Role": "v1.message_pb2",
    "Session": "v1.session_pb2",
    "SessionConfig": "v1.session_pb2",
    "SessionStatus": "v1.session_pb2",
    "TokenUsage": "v1.session_pb2",
    "Draft": "draft",
    "Feed": "feed",
    "Watch": "watch",
    "Reconnect": "options",
    "FilePositions": "positions",
    "PositionStore": "positions",
    "Event": "v1.event_pb2",
    "EventType": "v1.event_pb2",
    "Bookmark": "v1.event_service_pb2",
    "Delta": "v1.event_service_pb2",
    "DeltaBatch": "v1.event_service_pb2",
    "EventBatch": "v1.event_service_pb2",
    "Snapshot": "v1.event_service_pb2",
    "Download": "download",
    "LiveRun": "live_run",
    "from_tool_data": "tool_data",
    "to_tool_data": "tool_data",
    "Attachment": "v1.attachment_pb2",
    "AttachmentType": "v1.attachment_pb2",
    "Failure": "v1.run_pb2",
    "Run": "v1.run_pb2",
    "RunEndReason": "v1.run_pb2",
    "RunFence": "v1.run_pb2",
    "RunStatus": "v1.run_pb2",
    "ToolCall": "v1.tool_call_pb2",
    "ToolCallCancelReason": "v1.tool_call_pb2",
    "ToolCallStatus": "v1.tool_call_pb2",
}
"""The submodule of each name. Of the other names, the lower-case ones are in `messages` and the rest in `errors`."""


if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        submodule = _ELSEWHERE.get(name) or ("messages" if name.islower() else "errors")
        value = getattr(import_module(f"{__name__}.{submodule}"), name)
        globals()[name] = value  # the next access does not call __getattr__
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
