"""The one table from errors to statuses: complete, and what a status carries."""

import inspect
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sessiond.v1.error_pb2 import ErrorReason
from sessiond_server import errors
from sessiond_server.errors import SessiondError
from sessiond_server.rpc import status


def leaves(kind: type[SessiondError] = SessiondError) -> Iterator[type[SessiondError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    if not children:
        yield kind
    for child in children:
        yield from leaves(child)


def details(answer: status.Answer) -> dict[type, Any]:
    sent = Status.FromString(dict(answer.trailers)["grpc-status-details-bin"])
    assert sent.code == answer.code.value[0]
    assert sent.message == answer.text
    found = {}
    for packed in sent.details:
        for kind in (ErrorInfo, BadRequest, PreconditionFailure, QuotaFailure, RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind()
                packed.Unpack(found[kind])
    assert len(found) == len(sent.details)
    return found


def sample(kind: type[SessiondError]) -> SessiondError:
    """An error of the class, with something of the right type for each argument."""
    values = {str: "x", int: 7, float: 0.25, bool: True}
    arguments = [
        (errors.Violation("f", "rule"),) if name == "violations" else values[parameter.annotation]
        for name, parameter in inspect.signature(kind).parameters.items()
    ]
    made: SessiondError = cast("Any", kind)(*arguments)
    return made


def test_every_leaf_has_a_row_and_nothing_else_has() -> None:
    assert set(status.TABLE) == set(leaves())


def test_every_reason_is_used_once() -> None:
    used = [row.reason for row in status.TABLE.values()]
    assert sorted(used) == sorted(set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED})


def test_only_what_a_retry_can_mend_is_unavailable() -> None:
    unavailable = {kind for kind, row in status.TABLE.items() if row.code is grpc.StatusCode.UNAVAILABLE}
    assert unavailable == {
        errors.Starting,
        errors.Draining,
        errors.SessionLocked,
        errors.DocumentLocked,
        errors.StoreUnavailable,
        errors.StorageUnavailable,
        errors.TenantKeyUnavailable,
    }


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        status.TABLE[errors.Draining] = status.TABLE[errors.QueueFull]  # type: ignore[index]


@pytest.mark.parametrize("kind", sorted(leaves(), key=repr))
def test_every_error_says_reason_domain_and_metadata(kind: type[SessiondError]) -> None:
    error = sample(kind)
    answer = status.answer(error)
    info = details(answer)[ErrorInfo]
    assert answer.text == error.message
    assert (info.domain, dict(info.metadata)) == ("sessiond", dict(error.metadata))
    assert f"ERROR_REASON_{info.reason}" == ErrorReason.Name(status.TABLE[kind].reason)


def test_a_family_cannot_be_answered_with() -> None:
    with pytest.raises(KeyError):
        status.answer(errors.NotFound("something"))


def test_violations_name_their_fields() -> None:
    error = errors.InvalidFields([errors.Violation("a.b", "must be"), errors.Violation("c[1]", "must not be")])
    bad = details(status.answer(error))[BadRequest]
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b", "must be"), ("c[1]", "must not be")]


@pytest.mark.parametrize("error", [errors.InvalidPageToken(), errors.RequestIdReused("r")])
def test_token_and_request_id_are_fields_too(error: errors.InvalidRequest) -> None:
    bad = details(status.answer(error))[BadRequest]
    assert [v.field for v in bad.field_violations] == [error.violations[0].field]


def test_a_refusal_is_a_failed_precondition_of_its_session() -> None:
    precondition = details(status.answer(errors.SessionEnded("s1", "CLIENT")))[PreconditionFailure]
    (violation,) = precondition.violations
    assert (violation.type, violation.subject) == ("SESSION_ENDED", "sessions/s1")


def test_a_blocked_tool_is_named_by_its_field() -> None:
    precondition = details(status.answer(errors.ToolBlocked("s1", "messages[0].parts[1].tool_call.name", "rm")))
    (violation,) = precondition[PreconditionFailure].violations
    assert violation.subject == "messages[0].parts[1].tool_call.name"


def test_a_quota_is_a_quota_failure_and_waiting_does_not_help() -> None:
    answer = status.answer(errors.SessionQuotaReached(3))
    found = details(answer)
    assert found[QuotaFailure].violations[0].description == "the tenant may have 3 sessions that have not ended"
    assert RetryInfo not in found
    assert "grpc-retry-pushback-ms" not in dict(answer.trailers)


def test_a_full_queue_says_when_to_come_back() -> None:
    answer = status.answer(errors.QueueFull(0.2501))
    assert details(answer)[RetryInfo].retry_delay.ToMilliseconds() == 251
    assert dict(answer.trailers)["grpc-retry-pushback-ms"] == "251"


def test_trailers_stay_below_what_peers_take() -> None:
    violation = errors.Violation("ü" * 160, "ü" * 400)
    answer = status.answer(errors.InvalidFields([violation] * 16))
    size = sum(len(key) + len(value) * 4 / 3 for key, value in answer.trailers)
    percent_encoded = 6 * len(answer.text)
    assert size + percent_encoded < 8 * 1024
    assert details(answer)[BadRequest].field_violations[0].field == "ü" * 160
