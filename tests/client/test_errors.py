"""Each error of the service is raised as the class of the same name, with all its attributes."""

import inspect
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

import sessiond
from sessiond import errors
from sessiond.v1.error_pb2 import ErrorReason
from sessiond_server import errors as server_errors
from sessiond_server.rpc import status as server_status
from tests.support.rows import table
from tests.support.scripted_server import Fail, ScriptedServer

BOTH_CLIENTS = True

V = server_errors.Violation

SAMPLES: list[tuple[server_errors.SessiondError, Mapping[str, object]]] = [
    (server_errors.MalformedRequest("sessiond.v1.GetSessionRequest"), {}),
    (server_errors.InvalidFields([V("session.name", "too long"), V("view", "unknown value")]), {}),
    (server_errors.RequestTooLarge(7, 5), {"size_bytes": 7, "limit_bytes": 5}),
    (server_errors.InvalidPageToken(), {}),
    (server_errors.InvalidPosition(), {}),
    (server_errors.RequestIdReused("r"), {}),
    (server_errors.SessionNotFound("s"), {"session_id": "s"}),
    (server_errors.MessageNotFound("s", "m"), {"session_id": "s", "message_id": "m"}),
    (server_errors.SessionAlreadyExists("s"), {"session_id": "s"}),
    (server_errors.MessageAlreadyExists("s", "m"), {"session_id": "s", "message_id": "m"}),
    (
        server_errors.IllegalTransition("s", "CREATED", "suspend"),
        {"session_id": "s", "status": "CREATED", "action": "suspend"},
    ),
    (server_errors.SessionNotActive("s", "SUSPENDED"), {"session_id": "s", "status": "SUSPENDED"}),
    (server_errors.SessionEnded("s", "EXPIRED"), {"session_id": "s", "end_reason": "EXPIRED"}),
    (server_errors.ToolBlocked("s", "messages[0]", "rm"), {"session_id": "s", "tool": "rm"}),
    (server_errors.MessageLimitReached("s", 9), {"session_id": "s", "limit": 9}),
    (
        server_errors.ContextBudgetTooSmall("s", "max_tokens", 9, 2),
        {"session_id": "s", "field": "max_tokens", "needed_tokens": 9, "needed_messages": 2},
    ),
    (server_errors.DeletionTooLarge("s", 9, 99), {"session_id": "s", "limit": 9, "limit_bytes": 99}),
    (server_errors.ForkLimitReached("s", "forks", 9), {"session_id": "s", "what": "forks", "limit": 9}),
    (server_errors.RewindLimitReached("s", "ranges", 9), {"session_id": "s", "what": "ranges", "limit": 9}),
    (server_errors.MessageShared("s"), {"session_id": "s"}),
    (server_errors.VersionNotReached("s", 7, 9), {"session_id": "s", "current_version": 7}),
    (server_errors.SearchOff(), {}),
    (server_errors.SummariserOff(), {}),
    (server_errors.VersionMismatch("s", 7, 6), {"session_id": "s", "current_version": 7}),
    (server_errors.PositionCompacted("s", 9), {"session_id": "s", "oldest_seq": 9}),
    (server_errors.PositionLost("s", 9), {"session_id": "s", "seq": 9}),
    (server_errors.QueueFull(0.25), {"retry_after": 0.25}),
    (server_errors.TooManyCalls(0.25), {"retry_after": 0.25}),
    (server_errors.TooManyWatchers(0.25), {"retry_after": 0.25}),
    (server_errors.WatcherTooSlow("p", 0.25), {"position": "p", "retry_after": 0.25}),
    (server_errors.SessionQuotaReached(1000), {"limit": 1000, "retry_after": None}),
    (server_errors.Unauthenticated(), {}),
    (server_errors.ScopeMissing("sessions:write"), {"scope": "sessions:write"}),
    (server_errors.TokenForbids(), {}),
    (server_errors.Starting(), {}),
    (server_errors.Draining(), {}),
    (server_errors.SessionLocked("s"), {"session_id": "s"}),
    (server_errors.StoreUnavailable(), {}),
    (server_errors.DeadlinePassed(), {}),
    (server_errors.AttachmentNotFound("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.UploadNotFound("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.AttachmentAlreadyExists("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.UploadDeclaredOtherwise("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.AttachmentLimitReached("s", 9), {"session_id": "s", "limit": 9}),
    (server_errors.AttachmentTooLarge("s", 9, 8), {"session_id": "s", "size_bytes": 9, "limit_bytes": 8}),
    (server_errors.AttachmentSpaceExhausted("s", 8), {"session_id": "s", "limit_bytes": 8}),
    (server_errors.UploadIncomplete(9, 8), {"size_bytes": 9, "committed_bytes": 8}),
    (server_errors.UploadTooLong(9), {"size_bytes": 9}),
    (server_errors.ChecksumMismatch("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (
        server_errors.UploadOffsetMismatch("s", "a", 8, 9),
        {"session_id": "s", "attachment_id": "a", "committed_bytes": 8},
    ),
    (server_errors.UploadSuperseded("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.TransferStalled(30), {}),
    (server_errors.TooManyTransfers(0.25), {"retry_after": 0.25}),
    (server_errors.TooManyUploads(64), {"limit": 64, "retry_after": None}),
    (server_errors.TooManySummaries(100, 30), {"limit": 100, "retry_after": 30}),
    (server_errors.AttachmentLost("s", "a"), {"session_id": "s", "attachment_id": "a"}),
    (server_errors.StorageUnavailable(), {}),
    (server_errors.RunNotFound("s", "r"), {"session_id": "s", "run_id": "r"}),
    (server_errors.ToolCallNotFound("s", "t"), {"session_id": "s", "tool_call_id": "t"}),
    (server_errors.RunAlreadyExists("s", "r"), {"session_id": "s", "run_id": "r"}),
    (server_errors.ToolCallAlreadyExists("s", "t"), {"session_id": "s", "tool_call_id": "t"}),
    (server_errors.RunInProgress("s", "r"), {"session_id": "s", "run_id": "r"}),
    (server_errors.RunEnded("s", "r", "FAILED"), {"session_id": "s", "run_id": "r", "status": "FAILED"}),
    (
        server_errors.IllegalToolCallTransition("s", "t", "RUNNING", "approve"),
        {"session_id": "s", "tool_call_id": "t", "status": "RUNNING", "action": "approve"},
    ),
    (server_errors.ApprovalRequired("s", "t"), {"session_id": "s", "tool_call_id": "t"}),
    (
        server_errors.ApprovalExpired("s", "t", "REJECTED", "approve", "2026-01-01T00:00:00Z"),
        {
            "session_id": "s",
            "tool_call_id": "t",
            "status": "REJECTED",
            "action": "approve",
            "expire_time": datetime(2026, 1, 1, tzinfo=UTC),
        },
    ),
    (server_errors.ToolCallLimitReached("s", 256), {"session_id": "s", "limit": 256}),
    (server_errors.RunFenced("s", "r", "q"), {"session_id": "s", "run_id": "r", "live_run_id": "q"}),
    (server_errors.RunQueueFull("s", 64, 1.0), {"session_id": "s", "limit": 64, "retry_after": 1.0}),
    (server_errors.DocumentNotFound("DOCUMENT_SCOPE_USER", "u", "k"), {"key": "k"}),
    (server_errors.ErasureNotFound("u"), {"user_id": "u"}),
    (server_errors.UnderLegalHold(user_id="u"), {"session_id": "", "user_id": "u"}),
    (server_errors.HoldNotFound("h"), {"hold_id": "h"}),
    (server_errors.TemplateNotFound("t"), {"template_id": "t"}),
    (server_errors.TemplateVersionMismatch("t", 3, 2), {"template_id": "t", "current_version": 3}),
    (server_errors.TemplateLimitReached(1000), {"limit": 1000}),
    (server_errors.TemplateReadOnly(), {}),
    (
        server_errors.DocumentVersionMismatch("DOCUMENT_SCOPE_USER", "u", "k", 3, 2),
        {"key": "k", "current_version": 3},
    ),
    (server_errors.DocumentReadOnly("DOCUMENT_SCOPE_TENANT"), {}),
    (server_errors.DocumentLocked("DOCUMENT_SCOPE_USER", "u", "k"), {"key": "k"}),
    (server_errors.ExportOutdated("s"), {"session_id": "s"}),
    (server_errors.ImportRefused(12, "event.seq must be 11"), {"line": 12}),
    (server_errors.ImportIncomplete(812), {"line": 812}),
    (server_errors.ImportSuperseded("s"), {"session_id": "s"}),
    (server_errors.TenantKeyDestroyed(), {}),
    (server_errors.TenantKeyUnavailable(), {}),
    (server_errors.InternalError("e-1"), {"error_id": "e-1"}),
]


def classes(module: object) -> dict[str, str]:
    """Name of each class of the tree to that of its parent."""
    root = vars(module)["SessiondError"]
    return {
        name: kind.__bases__[0].__name__
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, root)
    }


def test_every_reason_has_one_leaf() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert errors.BY_REASON.keys() == reasons
    assert len(set(errors.BY_REASON.values())) == len(reasons)
    assert all(not kind.__subclasses__() for kind in errors.BY_REASON.values())


def test_class_tree_equals_that_of_the_service() -> None:
    assert classes(errors) == classes(server_errors)
    for kind, row in server_status.TABLE.items():
        assert errors.BY_REASON[row.name].__name__ == kind.__name__


def test_every_error_has_a_sample() -> None:
    assert [type(sample) for sample, _ in SAMPLES] == list(server_status.TABLE)


async def test_error_arrives_with_all_its_attributes(client: sessiond.Client, server: ScriptedServer) -> None:
    with table() as rows:
        for sample, attributes in SAMPLES:
            with rows.row(type(sample).__name__):
                await check_error(sample, attributes, client, server)


async def check_error(
    sample: server_errors.SessiondError,
    attributes: Mapping[str, object],
    client: sessiond.Client,
    server: ScriptedServer,
) -> None:
    answer = server_status.answer(sample)
    server.always = Fail(answer.code, answer.text, trailers=answer.trailers)
    with pytest.raises(sessiond.SessiondError) as caught:
        await client.touch_session("s", timeout=60)
    error = caught.value
    assert type(error).__name__ == type(sample).__name__
    assert error.message == str(error) == sample.message
    assert error.code == answer.code.name
    assert error.reason == server_status.TABLE[type(sample)].name
    assert error.metadata == sample.metadata
    violations = sample.violations if isinstance(sample, server_errors.InvalidRequest) else ()
    assert [(v.field, v.description) for v in error.violations] == [(v.field, v.description) for v in violations]
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert error.request_id == server.seen[-1].request.request_id
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    assert repr(error) == f"{type(error).__name__}({error.message!r}, reason={error.reason!r}, code={error.code!r})"


@pytest.mark.parametrize("code", sorted(set(grpc.StatusCode) - {grpc.StatusCode.OK}, key=str))
async def test_unknown_reason_is_raised_as_the_class_of_its_code(
    code: grpc.StatusCode, client: sessiond.Client, server: ScriptedServer
) -> None:
    server.always = Fail(code, details=[ErrorInfo(reason="ONE_OF_LATER", domain="sessiond", metadata={"run_id": "r"})])
    with pytest.raises(sessiond.SessiondError) as caught:
        await client.get_session("s", timeout=60)
    parents = {
        "INVALID_ARGUMENT": sessiond.InvalidRequest,
        "NOT_FOUND": sessiond.NotFound,
        "ALREADY_EXISTS": sessiond.AlreadyExists,
        "FAILED_PRECONDITION": sessiond.Refused,
        "RESOURCE_EXHAUSTED": sessiond.Exhausted,
        "UNAUTHENTICATED": sessiond.Unauthenticated,
        "UNAVAILABLE": sessiond.Unavailable,
        "CANCELLED": sessiond.Unavailable,
        "DEADLINE_EXCEEDED": sessiond.DeadlinePassed,
    }
    assert type(caught.value) is parents.get(code.name, sessiond.SessiondError)
    assert caught.value.reason == "ONE_OF_LATER"
    assert caught.value.metadata == {"run_id": "r"}
    assert caught.value.request_id == ""


async def test_reason_of_another_domain_is_ignored(client: sessiond.Client, server: ScriptedServer) -> None:
    info = ErrorInfo(reason="SESSION_NOT_FOUND", domain="proxy.example", metadata={"session_id": "x"})
    retry = RetryInfo()
    retry.retry_delay.seconds = 3
    server.always = Fail(grpc.StatusCode.PERMISSION_DENIED, details=[info, retry])
    with pytest.raises(sessiond.SessiondError) as caught:
        await client.get_session("s")
    assert type(caught.value) is sessiond.SessiondError
    assert (caught.value.reason, caught.value.metadata, caught.value.retry_after) == ("", {}, 3.0)


BROKEN_DETAIL = Status(details=[Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")])


@pytest.mark.parametrize("details", [b"\xff\xff", b"", BROKEN_DETAIL.SerializeToString()])
async def test_unreadable_details_are_ignored_and_the_code_remains(
    details: bytes, client: sessiond.Client, server: ScriptedServer
) -> None:
    server.always = Fail(grpc.StatusCode.NOT_FOUND, trailers=(("grpc-status-details-bin", details),))
    with pytest.raises(sessiond.NotFound) as caught:
        await client.get_session("s")
    assert caught.value.reason == ""


def test_invalid_number_in_metadata_is_zero() -> None:
    assert errors.VersionMismatch("m").current_version == 0
    assert errors.VersionMismatch("m", metadata={"current_version": "-1"}).current_version == 0
    assert errors.VersionMismatch("m", metadata={"current_version": "12"}).current_version == 12


def test_errors_survive_pickling() -> None:
    error = errors.SessionNotFound("gone", reason="SESSION_NOT_FOUND", code="NOT_FOUND", metadata={"session_id": "s"})
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.SessionNotFound
    assert vars(copy) == vars(error)
    assert str(copy) == "gone"
