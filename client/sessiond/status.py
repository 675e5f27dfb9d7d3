"""Converts an `AioRpcError` to a typed error."""

import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from sessiond.errors import BY_CODE, BY_REASON, SessiondError, Violation
from sessiond.v1.error_pb2 import ErrorReason, ItemError

DOMAIN = "sessiond"
"""The `ErrorInfo.domain` of the service's own reasons; a proxy's reasons have another domain."""

_DETAILS_KEY = "grpc-status-details-bin"


def typed_error(error: grpc.aio.AioRpcError, request_id: str = "") -> SessiondError:
    """Returns the error to raise from `error`. Details that cannot be parsed are ignored; the status code remains."""
    info, request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in _details(error):
        for known in (info, request, retry):
            if detail.Is(known.DESCRIPTOR):
                _read(detail, known)
    code = error.code().name
    reason = info.reason if info.domain == DOMAIN else ""
    kind = BY_REASON.get(reason) or BY_CODE.get(code, SessiondError)
    return kind(
        error.details() or code,
        reason=reason,
        code=code,
        metadata=info.metadata if reason else None,
        violations=[Violation(v.field, v.description) for v in request.field_violations],
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        request_id=request_id,
    )


def item_error(item: ItemError, request_id: str = "") -> SessiondError:
    """Returns the typed error for an item of a batch."""
    # Numbers of later versions of the service have no name here: the status code remains.
    known = item.reason in ErrorReason.values()
    reason = ErrorReason.Name(item.reason).removeprefix("ERROR_REASON_") if known else ""
    code = next((code.name for code in grpc.StatusCode if code.value[0] == item.code), "UNKNOWN")
    kind = BY_REASON.get(reason) or BY_CODE.get(code, SessiondError)
    return kind(
        item.message or code,
        reason=reason,
        code=code,
        metadata=item.metadata,
        violations=[Violation(v.field, v.description) for v in item.violations],
        request_id=request_id,
    )


def _details(error: grpc.aio.AioRpcError) -> list[Any]:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return list(Status.FromString(value).details)
            except DecodeError:
                return []
    return []


def _read(detail: Any, into: ErrorInfo | BadRequest | RetryInfo) -> None:
    try:
        detail.Unpack(into)
    except DecodeError:
        into.Clear()
